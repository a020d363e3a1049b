// Package stack sets Understudy up on a lab's nodes the way README tells a user
// to, for the demo and the cluster tests.
package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

// VIP is the virtual IP of the service that Registry makes.
const VIP = "192.0.2.100"

// Service is its name.
const Service = "registry"

// Options of a Stack.
type Options struct {
	Name  string        // of the lab
	FS    string        // of the nodes' disks; the lab's default unless set
	Nodes []string      // n1 and n2 unless set
	Deb   string        // the package to install; "": the one in build/
	Token time.Duration // Corosync's; 1 s unless set
	// DiskSize is of each node's sparse disk, bytes; the lab's default unless set.
	DiskSize int64
	Out      io.Writer // progress
}

// Stack is a lab with a cluster and Understudy on its nodes.
type Stack struct {
	*lab.Lab
	out io.Writer
}

// Up makes a lab with a fenced cluster and Understudy installed, configured and
// running on its nodes. The caller calls Down.
func Up(ctx context.Context, o Options) (s *Stack, err error) {
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Deb == "" {
		if o.Deb, err = Deb(); err != nil {
			return nil, err
		}
	}
	l, err := lab.Up(ctx, lab.Options{
		Name: o.Name, FS: o.FS, Nodes: o.Nodes, Deb: o.Deb, Token: o.Token, DiskSize: o.DiskSize, Cluster: true, Out: o.Out,
		KeepUnsynced: o.FS == "btrfs",
	})
	if err != nil {
		return nil, err
	}
	if s, err = Configure(ctx, l, o.Out); err != nil {
		return nil, errors.Join(err, l.Down(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// Configure configures and starts Understudy on a lab that has a cluster and the
// package installed.
func Configure(ctx context.Context, l *lab.Lab, out io.Writer) (*Stack, error) {
	s := &Stack{Lab: l, out: out}
	return s, s.configure(ctx)
}

// Deb finds the package that `make package` built.
func Deb() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "build", "understudy_*.deb"))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no package in %s: run make package", filepath.Join(dir, "build"))
	}
	newest := found[0]
	for _, f := range found[1:] {
		a, aerr := os.Stat(f)
		b, berr := os.Stat(newest)
		if aerr == nil && berr == nil && a.ModTime().After(b.ModTime()) {
			newest = f
		}
	}
	return newest, nil
}

func (s *Stack) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// configure makes keys and configuration on each node, trusts the others, and
// starts the agents.
func (s *Stack) configure(ctx context.Context) error {
	s.say("configuring understudy on each node")
	first := s.Nodes()[0]
	for _, self := range s.Nodes() {
		args := []string{"understudy", "init", "--node", self.Name(), "--address", self.IP()}
		for _, peer := range s.Nodes() {
			if peer != self {
				args = append(args, "--peer", peer.Name()+"="+peer.IP())
			}
		}
		if self != first {
			key, err := first.Exec(ctx, "cat", "/etc/understudy/gossip.key")
			if err != nil {
				return err
			}
			if err := self.WriteFile(ctx, "/root/gossip.key", key, 0o600); err != nil {
				return err
			}
			args = append(args, "--gossip-key", "/root/gossip.key")
		}
		if _, err := self.Exec(ctx, args...); err != nil {
			return err
		}
	}
	for _, self := range s.Nodes() {
		for _, peer := range s.Nodes() {
			if peer == self {
				continue
			}
			if err := trust(ctx, self, peer); err != nil {
				return err
			}
		}
	}
	return s.EachNode(func(n *lab.Node) error {
		_, err := n.Exec(ctx, "systemctl", "enable", "--now", "understudy")
		return err
	})
}

// trust lets peer's agent send to self, and pins peer's host key on self.
func trust(ctx context.Context, self, peer *lab.Node) error {
	key, err := peer.Exec(ctx, "cat", "/etc/understudy/ssh_key.pub")
	if err != nil {
		return err
	}
	host, err := peer.Exec(ctx, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
	if err != nil {
		return err
	}
	if err := errors.Join(self.WriteFile(ctx, "/root/peer.pub", key, 0o600), self.WriteFile(ctx, "/root/peer-host.pub", host, 0o600)); err != nil {
		return err
	}
	_, err = self.Exec(ctx, "understudy", "trust", "--peer", peer.Name(), "--key-from", "/root/peer.pub", "--host-key", "/root/peer-host.pub")
	return err
}

// Registry makes the service of the demo on n1: a real registry and a ledger
// that counts writes, with a volume each, and hands it to Pacemaker. It returns
// when n1 is active.
func (s *Stack) Registry(ctx context.Context) error {
	n1 := s.Node("n1")
	s.say("making the service %s on n1: a container registry and a ledger of numbered writes", Service)
	for _, image := range []string{"registry", "ledger"} {
		if err := n1.LoadImage(ctx, image); err != nil {
			return err
		}
	}
	script := `
podman volume create registry-data >/dev/null
podman volume create ledger-data >/dev/null
podman create --name registry -v registry-data:/var/lib/registry -p 5000:5000 localhost/registry:1 >/dev/null
podman create --name ledger -v ledger-data:/data -p 8080:8080 localhost/ledger:1 >/dev/null
` + CreateResource
	if _, err := n1.Shell(ctx, script); err != nil {
		return err
	}
	return s.WaitRole(ctx, "n1", api.RoleActive)
}

// CreateResource is the command that README gives to the user.
const CreateResource = `pcs resource create registry ocf:understudy:service vip=192.0.2.100/24 containers="registry ledger" \
    op monitor interval=10s role=Promoted op monitor interval=11s role=Unpromoted \
    promotable
`

// Status asks a node's agent.
func (s *Stack) Status(ctx context.Context, node string) (api.Status, error) {
	var st api.Status
	out, err := s.Node(node).Exec(ctx, "understudy", "status", "--json")
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(out, &st)
}

// Service is what a node's agent says of the service on that node.
func (s *Stack) Service(ctx context.Context, node string) (api.ServiceStatus, error) {
	st, err := s.Status(ctx, node)
	if err != nil {
		return api.ServiceStatus{}, err
	}
	for _, n := range st.Nodes {
		if !n.Self {
			continue
		}
		for _, sv := range n.Services {
			if sv.Service == Service {
				return sv, nil
			}
		}
	}
	return api.ServiceStatus{Role: api.RoleStopped}, nil
}

// WaitRole returns when the node has the role.
func (s *Stack) WaitRole(ctx context.Context, node string, role api.Role) error {
	return wait(ctx, fmt.Sprintf("%s to be %s", node, role), func() (bool, error) {
		sv, err := s.Service(ctx, node)
		return err == nil && sv.Role == role, err
	})
}

// Settle makes what the set-up wrote survive a power cut, as half a minute would.
func (s *Stack) Settle(ctx context.Context) error {
	return s.EachNode(func(n *lab.Node) error { return n.Sync(ctx) })
}

// WaitReady returns when a takeover would succeed, as `understudy ready` says.
func (s *Stack) WaitReady(ctx context.Context, node string) error {
	return wait(ctx, "a takeover to be possible", func() (bool, error) {
		_, err := s.Node(node).Exec(ctx, "understudy", "ready", Service)
		return err == nil, err
	})
}

// Active finds the node that is active, by asking each.
func (s *Stack) Active(ctx context.Context) (active, standby string, err error) {
	for _, n := range s.Nodes() {
		if !n.Running() {
			continue
		}
		if sv, serr := s.Service(ctx, n.Name()); serr == nil && sv.Role == api.RoleActive {
			active = n.Name()
		}
	}
	switch active {
	case "n1":
		return "n1", "n2", nil
	case "n2":
		return "n2", "n1", nil
	}
	return "", "", errors.New("no node is active")
}

// wait asks until it is so; its error is the last one heard.
func wait(ctx context.Context, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	var last error
	for {
		ok, err := so()
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w", what, errors.Join(last, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Lines splits a command's output.
func Lines(out []byte) []string {
	text := strings.TrimSpace(string(out))
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// Agent talks to a running node's agent through its socket, without a process on
// the node.
func (s *Stack) Agent(n *lab.Node) *api.Client { return api.NewClient(n.HostPath(api.DefaultSocket)) }
