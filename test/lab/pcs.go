package lab

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// haPassword is that of hacluster, which pcs uses between nodes: no secret in a lab.
const haPassword = "lab-only"

// startViaPcs does what README tells a user to do on two real machines.
func (l *Lab) startViaPcs(ctx context.Context, o ClusterOptions) error {
	err := l.EachNode(func(n *Node) error {
		_, err := n.Shell(ctx, "echo hacluster:"+haPassword+" | chpasswd; systemctl -q enable --now pcsd")
		return err
	})
	if err != nil {
		return err
	}
	names := strings.Join(l.names(), " ")
	first := l.nodes[0]
	for _, cmd := range []string{
		"pcs host auth " + names + " -u hacluster -p " + haPassword,
		fmt.Sprintf("pcs cluster setup %s %s totem token=%d", ClusterName, names, o.Token.Milliseconds()),
		"pcs cluster enable --all",
		"pcs cluster start --all",
	} {
		l.say("%s", strings.Replace(cmd, haPassword, "...", 1))
		if err := first.retry(ctx, cmd, 3); err != nil {
			return err
		}
	}
	if err := l.WaitOnline(ctx, l.names()...); err != nil {
		return err
	}
	script := "pcs property set no-quorum-policy=stop dc-deadtime=2s"
	if o.NoFencing {
		script += " stonith-enabled=false\n"
	} else {
		script += " stonith-enabled=true\n"
		for _, n := range l.names() {
			script += fmt.Sprintf("pcs stonith create fence-%[1]s fence_lab plug=%[1]s pcmk_host_list=%[1]s op monitor interval=60s\n", n)
			script += fmt.Sprintf("pcs constraint location fence-%[1]s avoids %[1]s\n", n)
		}
	}
	_, err = first.Shell(ctx, script)
	return err
}

// retry runs cmd until it works, at most times times: pcsd answers a while after its unit has started.
func (n *Node) retry(ctx context.Context, cmd string, times int) error {
	for i := 1; ; i++ {
		_, err := n.Shell(ctx, cmd)
		if err == nil || i == times || ctx.Err() != nil {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}
