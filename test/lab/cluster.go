package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed" // the cluster's first configuration
	"fmt"
	"os"
	"strings"
	"text/template"
	"time"
)

// ClusterName is the name of a lab's cluster.
const ClusterName = "lab"

// ClusterOptions says what cluster to start on the nodes.
type ClusterOptions struct {
	// Token is Corosync's token timeout; Options.Token unless set. Consensus is 1.2 times that.
	Token time.Duration
	// ViaPcs sets the cluster up with pcs, as a user would: slower, and a test of that path.
	ViaPcs bool
	// NoFencing leaves fencing off. It is for showing what the stack that Understudy replaces does:
	// two nodes without fencing corrupt data when they lose sight of each other.
	NoFencing bool
}

var (
	//go:embed corosync.conf.tmpl
	corosyncConf string
	//go:embed cib.xml.tmpl
	cibXML string

	corosyncTmpl = template.Must(template.New("corosync.conf").Parse(corosyncConf))
	cibTmpl      = template.Must(template.New("cib.xml").Parse(cibXML))
)

// StartCluster starts Corosync and Pacemaker on all nodes, with fencing by the lab's power switch,
// and returns when the nodes are online and the fence devices are started. From then on a node
// that boots joins the cluster by itself.
func (l *Lab) StartCluster(ctx context.Context, o ClusterOptions) error {
	if o.Token == 0 {
		o.Token = l.st.Options.Token
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	began := time.Now()
	l.say("starting the cluster (token %v)", o.Token)
	start := l.startQuick
	if o.ViaPcs {
		start = l.startViaPcs
	}
	if err := start(ctx, o); err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	if err := l.WaitOnline(ctx, l.names()...); err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	if !o.NoFencing {
		if err := l.waitFenceDevices(ctx); err != nil {
			return fmt.Errorf("start the cluster: %w", err)
		}
	}
	l.say("cluster is up after %.1f s", time.Since(began).Seconds())
	return nil
}

// startQuick writes what pcs would write, and a first CIB that has everything in it: no daemon of
// pcs is started and no command waits for another.
func (l *Lab) startQuick(ctx context.Context, o ClusterOptions) error {
	key := make([]byte, 256)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	conf, cib, err := l.render(o)
	if err != nil {
		return err
	}
	return l.EachNode(func(n *Node) error {
		for _, f := range []struct {
			path string
			data []byte
			mode os.FileMode
		}{
			{"/etc/corosync/corosync.conf", conf, 0o644},
			{"/etc/corosync/authkey", key, 0o400},
			{"/var/lib/pacemaker/cib/cib.xml", cib, 0o600},
		} {
			if err := n.WriteFile(ctx, f.path, f.data, f.mode); err != nil {
				return err
			}
		}
		_, err := n.Shell(ctx, `chown hacluster:haclient /var/lib/pacemaker/cib/cib.xml
systemctl -q enable corosync pacemaker
systemctl start corosync pacemaker`)
		return err
	})
}

// render fills in the cluster's two configuration files.
func (l *Lab) render(o ClusterOptions) (conf, cib []byte, err error) {
	type member struct {
		Name, IP string
		ID       int
	}
	var members []member
	for i, n := range l.nodes {
		members = append(members, member{n.name, n.IP(), i + 1})
	}
	data := map[string]any{
		"Cluster": ClusterName, "TokenMS": o.Token.Milliseconds(), "Members": members,
		"TwoNode": len(members) == 2, "Fencing": !o.NoFencing,
	}
	var a, b bytes.Buffer
	if err := corosyncTmpl.Execute(&a, data); err != nil {
		return nil, nil, err
	}
	if err := cibTmpl.Execute(&b, data); err != nil {
		return nil, nil, err
	}
	return a.Bytes(), b.Bytes(), nil
}

// WaitOnline returns when Pacemaker on every running node sees all of names online.
func (l *Lab) WaitOnline(ctx context.Context, names ...string) error {
	for {
		missing := l.notOnline(ctx, names)
		if missing == "" {
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for %v to be online in the cluster: %w (%s)", names, err, missing)
		}
	}
}

// notOnline says what is missing for WaitOnline.
func (l *Lab) notOnline(ctx context.Context, names []string) string {
	for _, n := range l.nodes {
		if !n.Running() {
			continue
		}
		out, err := n.Exec(ctx, "crm_mon", "-1", "--output-as=xml", "--include=none,nodes")
		if err != nil {
			return err.Error()
		}
		for _, name := range names {
			if !onlineIn(string(out), name) {
				return name + " is not online as " + n.name + " sees it"
			}
		}
	}
	return ""
}

// onlineIn reads crm_mon's XML: a node counts as online when it is a full member.
func onlineIn(xml, name string) bool {
	for line := range strings.Lines(xml) {
		if strings.Contains(line, "<node name=\""+name+"\"") {
			return strings.Contains(line, ` online="true"`) && strings.Contains(line, ` pending="false"`) && strings.Contains(line, ` unclean="false"`)
		}
	}
	return false
}

// waitFenceDevices returns when every node's fence device runs on some other node.
func (l *Lab) waitFenceDevices(ctx context.Context) error {
	for {
		out, err := l.anyRunning().Exec(ctx, "crm_mon", "-1", "--output-as=xml", "--include=none,resources")
		started := 0
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, `resource_agent="stonith:fence_lab"`) && strings.Contains(line, `role="Started"`) &&
				strings.Contains(line, `active="true"`) && strings.Contains(line, `failed="false"`) {
				started++
			}
		}
		if err == nil && started == len(l.nodes) {
			return nil
		}
		if e := sleep(ctx, 100*time.Millisecond); e != nil {
			return fmt.Errorf("waiting for the fence devices: %w (%w: %s)", e, err, out)
		}
	}
}

// anyRunning is a node that has power, or the first if none has.
func (l *Lab) anyRunning() *Node {
	for _, n := range l.nodes {
		if n.Running() {
			return n
		}
	}
	return l.nodes[0]
}
