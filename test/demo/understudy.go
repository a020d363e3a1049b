package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/drill"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// What the client asks: the registry for the outage, the ledger for writes.
const (
	probeURL  = "http://" + stack.VIP + ":5000/v2/"
	writesURL = "http://" + stack.VIP + ":8080/append?n={n}"
	listURL   = "http://" + stack.VIP + ":8080/list"
	pushed    = stack.VIP + ":5000/demo/busybox:1"
)

func (d *demo) understudy(ctx context.Context) error {
	s, err := stack.Up(ctx, stack.Options{Name: d.name, Token: d.token, Out: d})
	if err != nil {
		return err
	}
	d.stack = s
	if err := s.Registry(ctx); err != nil {
		return err
	}
	if err := d.totem(ctx); err != nil {
		return err
	}
	d.say("pushing a real image to the registry at %s", stack.VIP)
	if err := d.push(ctx, "n1"); err != nil {
		return err
	}
	if err := errors.Join(s.WaitReady(ctx, "n1"), s.Settle(ctx)); err != nil {
		return err
	}
	if err := d.print(ctx, "n1", "understudy", "status"); err != nil {
		return err
	}
	if err := d.failovers(ctx, &d.report.Understudy, labCluster{s}); err != nil {
		return err
	}
	active, _, err := s.Active(ctx)
	if err != nil {
		return err
	}
	d.say("pulling the image from the survivor, %s", active)
	if err := d.pull(ctx, active); err != nil {
		return err
	}
	if err := d.print(ctx, active, "understudy", "log", stack.Service, "-n", "25"); err != nil {
		return err
	}
	for i := range d.rounds {
		if err := d.switchover(ctx, i+1, &d.report.Understudy, d.plannedMove); err != nil {
			return err
		}
	}
	return d.monitors(ctx)
}

// failovers cuts the active node's power, round after round.
func (d *demo) failovers(ctx context.Context, into *measured, cluster drill.Cluster) error {
	prober, err := d.prober()
	if err != nil {
		return err
	}
	r, err := drill.NodeLoss(ctx, drill.Options{
		Service: stack.Service, Rounds: d.rounds, Method: powerSwitch{d.stack.Lab}, Prober: prober, Cluster: cluster,
		Run: func(ctx context.Context, node string, argv ...string) ([]byte, error) {
			return d.stack.Node(node).Exec(ctx, argv...)
		},
		Warmup: 1500 * time.Millisecond, Settle: time.Second,
		Progress: func(line string) { d.say("failover: %s", line) },
	})
	if r != nil {
		into.Failover.add(r)
		for _, round := range r.Rounds {
			d.say("failover %d: %s", round.Round, figures(round))
		}
	}
	return err
}

func figures(r drill.Round) string {
	show := func(v *float64) string {
		if v == nil {
			return "?"
		}
		return fmt.Sprintf("%.0f ms", *v)
	}
	lost := "?"
	if r.Lost != nil && r.Probe != nil && r.Probe.Writes != nil {
		lost = fmt.Sprintf("%d of %d", *r.Lost, r.Probe.Writes.Acked)
	}
	return fmt.Sprintf("outage %s = detect %s + fence %s + takeover %s; RPO %s, acknowledged writes lost: %s",
		show(r.OutageMS), show(r.DetectMS), show(r.FenceMS), show(r.TakeoverMS), show(r.RPOMS), lost)
}

// prober measures from the client's namespace with the program that a user has.
func (d *demo) prober() (drill.Prober, error) {
	understudy, err := program()
	if err != nil {
		return nil, err
	}
	return drill.ProcessProber{Command: func(ctx context.Context, round int) *exec.Cmd {
		return d.stack.Client().Command(ctx, understudy, "probe", probeURL, "--events", "--until-eof", "--every", "8ms", "--request-timeout", "400ms",
			"--writes", writesURL, "--verify-writes", listURL, "--write-from", fmt.Sprint(drill.FirstWrite(round)))
	}}, nil
}

// switchover measures one planned move from the client.
func (d *demo) switchover(ctx context.Context, round int, into *measured, move func(context.Context) error) error {
	prober, err := d.prober()
	if err != nil {
		return err
	}
	session, err := prober.Start(ctx, 100+round)
	if err != nil {
		return err
	}
	sleep(ctx, 2*time.Second)
	at := time.Now()
	moveErr := move(ctx)
	sleep(ctx, 2*time.Second)
	res, err := session.Stop(ctx)
	if err := errors.Join(moveErr, err); err != nil {
		return err
	}
	into.Switchover.add(&res, at)
	d.say("switchover %d: %s", round, into.Switchover.last())
	return nil
}

func sleep(ctx context.Context, t time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(t):
	}
}

// plannedMove is what an operator types.
func (d *demo) plannedMove(ctx context.Context) error {
	active, standby, err := d.stack.Active(ctx)
	if err != nil {
		return err
	}
	if err := d.stack.WaitReady(ctx, active); err != nil {
		return err
	}
	d.say("%s# understudy switchover %s", active, stack.Service)
	if _, err := d.stack.Node(active).Exec(ctx, "understudy", "switchover", stack.Service, "--yes"); err != nil {
		return err
	}
	return d.stack.WaitRole(ctx, standby, api.RoleActive)
}

func (d *demo) push(ctx context.Context, node string) error {
	n := d.stack.Node(node)
	if err := n.LoadImage(ctx, "busybox"); err != nil {
		return err
	}
	_, err := n.Exec(ctx, "podman", "push", "-q", "--tls-verify=false", "localhost/busybox:1", pushed)
	return err
}

// pull takes the image from the registry into a node that must not have it.
func (d *demo) pull(ctx context.Context, node string) error {
	n := d.stack.Node(node)
	_, err := n.Shell(ctx, "podman rmi -f "+pushed+" localhost/busybox:1 >/dev/null 2>&1 || true; podman pull -q --tls-verify=false "+pushed)
	return err
}

// print shows what a command prints on a node.
func (d *demo) print(ctx context.Context, node string, argv ...string) error {
	out, err := d.stack.Node(node).Exec(ctx, argv...)
	d.say("%s# %s", node, strings.Join(argv, " "))
	for _, line := range stack.Lines(out) {
		fmt.Println("          " + line)
	}
	return err
}

// totem reads what Corosync really uses.
func (d *demo) totem(ctx context.Context) error {
	out, err := d.stack.Node("n1").Exec(ctx, "corosync-cmapctl")
	if err != nil {
		return err
	}
	for _, line := range stack.Lines(out) {
		var v int
		if _, err := fmt.Sscanf(line, "runtime.config.totem.token (u32) = %d", &v); err == nil {
			d.report.Totem.TokenMS = v
		}
		if _, err := fmt.Sscanf(line, "runtime.config.totem.consensus (u32) = %d", &v); err == nil {
			d.report.Totem.ConsensusMS = v
		}
	}
	return nil
}

// labCluster asks the nodes' agents. It goes to their sockets directly: a process
// on a node every 50 ms would weigh on the takeover that is measured.
type labCluster struct{ stack *stack.Stack }

// each asks the named node, or one after the other until one answers.
func (c labCluster) each(from string, ask func(*lab.Node) error) error {
	err := errors.New("no node is running")
	for _, n := range c.stack.Nodes() {
		if (from == "" || n.Name() == from) && n.Running() {
			if err = ask(n); err == nil {
				return nil
			}
		}
	}
	return err
}

func (c labCluster) Status(ctx context.Context, from string) (st api.Status, err error) {
	err = c.each(from, func(n *lab.Node) error {
		st, err = c.stack.Agent(n).Status(ctx)
		return err
	})
	return st, err
}

func (c labCluster) Ready(ctx context.Context, from, service string) (r api.Readiness, err error) {
	err = c.each(from, func(n *lab.Node) error {
		r, err = c.stack.Agent(n).Ready(ctx, service)
		return err
	})
	return r, err
}

func (c labCluster) Log(ctx context.Context, from, service string, since time.Time) (list []api.Decision, err error) {
	err = c.each(from, func(n *lab.Node) error {
		list, err = c.stack.Agent(n).Log(ctx, api.LogQuery{Service: service, Since: since})
		return err
	})
	return list, err
}
