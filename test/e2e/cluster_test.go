//go:build lab

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// TestCluster runs every step that needs no lab of its own, in this order.
func TestCluster(t *testing.T) {
	c := upCluster(t, "e2e", "xfs")
	for _, s := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"setup", testSetup},
		{"failover", testFailover},
		{"switchover", testSwitchover},
		{"agent-killed", testAgentKilled},
		{"standby-killed", testStandbyKilled},
		{"killed-in-freeze", testKilledInFreeze},
		{"partition", testPartition},
		{"power-loss", testPowerLoss},
		{"away-for-long", testAwayForLong},
		{"matrix", testMatrix},
		{"stop-alone", testStopAlone},
		{"duplicate-address", testDuplicateAddress},
		{"stale-sender", testStaleSender},
		{"stolen-key", testStolenKey},
		{"definition", testDefinition},
		{"consistency", testConsistency},
		{"addresses", testAddresses},
		{"drill-standby", testDrillStandby},
		{"drill-fence", testDrillFence},
		{"upgrade", testUpgrade},
		{"scrub", testScrub},
		{"suspect", testSuspect},
		{"restore", testRestore},
		{"volume-removed", testVolumeRemoved},
		{"directory-replaced", testDirectoryReplaced},
		{"parity", testParity},
		{"three-tier", testThreeTier},
		{"hooks", testHooks},
	} {
		if !t.Run(s.name, func(t *testing.T) { c.step(t, s.run) }) && interrupted.Err() == nil {
			if err := c.repair(); err != nil {
				t.Fatalf("the cluster cannot be repaired after %s, so the other steps are not run: %v", s.name, err)
			}
		}
		if interrupted.Err() != nil {
			t.Fatal("interrupted")
		}
	}
}

// cluster is a lab with Understudy and the service "registry" on it.
type cluster struct {
	*stack.Stack
	http *http.Client // on the client machine
	next atomic.Int64 // number to write next
	told atomic.Bool  // the nodes' logs of a failure were printed
}

// upCluster makes a lab, of two nodes unless they are named, and the service; both go with the test.
func upCluster(t *testing.T, name, fs string, nodes ...string) *cluster {
	t.Helper()
	ctx := limited(t, 5*time.Minute)
	c := &cluster{}
	if dev := os.Getenv("E2E_LAB"); dev != "" {
		l, err := lab.Attach(dev)
		must(t, err)
		c.Stack = &stack.Stack{Lab: l}
		c.next.Store(time.Now().Unix() % 1e8 * 1e4)
	} else {
		s, err := stack.Up(ctx, stack.Options{Name: name, FS: fs, Nodes: nodes, Out: said{t}})
		must(t, err)
		c.Stack = s
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := c.Down(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	c.http = clientHTTP(c.Client())
	if os.Getenv("E2E_LAB") == "" {
		c.keepLogs(t)
		must(t, c.Registry(ctx))
		c.settle(t)
		c.sync(t)
	}
	return c
}

// sync makes what Podman has written durable: it syncs nothing itself, and a power
// cut right after a set-up would leave containers that it cannot read.
func (c *cluster) sync(t *testing.T) {
	t.Helper()
	must(t, c.EachNode(func(n *lab.Node) error { return n.Sync(limited(t, time.Minute)) }))
}

// keepLogs collects the nodes' logs if the test fails.
func (c *cluster) keepLogs(t *testing.T) {
	t.Cleanup(func() {
		if !t.Failed() || interrupted.Err() != nil {
			return
		}
		dir := checkout("build", "e2e", filepath.FromSlash(t.Name()))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := errors.Join(os.RemoveAll(dir), c.CollectLogs(ctx, dir))
		t.Logf("the nodes' logs are in %s (%v)", dir, err)
		// Where only the end of this output is kept, it has to be enough: the step that
		// failed tells, and the test as a whole does not bury that.
		if c.told.Swap(true) {
			return
		}
		for _, n := range c.Nodes() {
			for _, name := range []string{"understudy-log.txt", "crm_mon.txt", "journal.txt"} {
				b, _ := os.ReadFile(filepath.Join(dir, n.Name(), name))
				lines := strings.Split(strings.TrimSpace(string(b)), "\n")
				t.Logf("%s, the end of %s:\n%s", n.Name(), name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
			}
		}
	})
}

// step runs one step between two states of rest.
func (c *cluster) step(t *testing.T, run func(*testing.T, *cluster)) {
	c.keepLogs(t)
	c.settle(t)
	run(t, c)
	c.settle(t)
}

// settle waits until the cluster is at rest: one active, a standby that would take over.
func (c *cluster) settle(t *testing.T) {
	t.Helper()
	eventually(t, 90*time.Second, "a cluster at rest", c.atRest)
}

// atRest says what is missing for settle.
func (c *cluster) atRest() error {
	ctx, cancel := context.WithTimeout(interrupted, 5*time.Second)
	defer cancel()
	active := 0
	for _, n := range c.Nodes() {
		if !n.Running() {
			return fmt.Errorf("%s is off", n.Name())
		}
		r, err := c.Agent(n).Ready(ctx, stack.Service)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name(), err)
		}
		if !r.Ready {
			return fmt.Errorf("%s says: %s", n.Name(), strings.Join(r.Blockers, "; "))
		}
		sv, err := c.service(n)
		if err != nil {
			return err
		}
		if sv.Role == api.RoleActive {
			active++
		}
	}
	if active != 1 {
		return fmt.Errorf("%d nodes are active", active)
	}
	return nil
}

// repair brings the cluster back to where the next step can start.
func (c *cluster) repair() error {
	ctx, cancel := context.WithTimeout(interrupted, 3*time.Minute)
	defer cancel()
	err := errors.Join(c.HealAll(ctx), c.SetAutoBoot(true))
	err = errors.Join(err, c.EachNode(func(n *lab.Node) error {
		if err := n.Boot(ctx); err != nil {
			return err
		}
		_, err := n.Shell(ctx, `systemctl kill -s CONT podman.service || true
systemctl start podman.socket understudy corosync pacemaker`)
		return err
	}))
	if err != nil {
		return err
	}
	if err := c.WaitOnline(ctx, "n1", "n2"); err != nil {
		return err
	}
	_, err = c.Node("n1").Shell(ctx, `pcs property set maintenance-mode=false
pcs resource enable registry || true
pcs resource cleanup >/dev/null`)
	for err == nil {
		rest := c.atRest()
		if rest == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return rest
		case <-time.After(200 * time.Millisecond):
		}
	}
	return err
}

// service is what the node's agent says of the service there.
func (c *cluster) service(n *lab.Node) (api.ServiceStatus, error) {
	return c.serviceCalled(n, stack.Service)
}

func (c *cluster) serviceCalled(n *lab.Node, name string) (api.ServiceStatus, error) {
	ctx, cancel := context.WithTimeout(interrupted, 5*time.Second)
	defer cancel()
	st, err := c.Agent(n).Status(ctx)
	if err != nil {
		return api.ServiceStatus{}, fmt.Errorf("%s: %w", n.Name(), err)
	}
	for _, sv := range st.Nodes[0].Services {
		if sv.Service == name {
			return sv, nil
		}
	}
	return api.ServiceStatus{Role: api.RoleStopped}, nil
}

func (c *cluster) mustService(t *testing.T, n *lab.Node) api.ServiceStatus {
	t.Helper()
	sv, err := c.service(n)
	must(t, err)
	return sv
}

// roles are the node that is active and the other, of a cluster at rest.
func (c *cluster) roles(t *testing.T) (active, standby *lab.Node) {
	t.Helper()
	for _, n := range c.Nodes() {
		if c.mustService(t, n).Role == api.RoleActive {
			active = n
		} else {
			standby = n
		}
	}
	if active == nil || standby == nil {
		t.Fatal("there is no one active node")
	}
	return active, standby
}

// waitRole waits until the node has the role.
func (c *cluster) waitRole(t *testing.T, n *lab.Node, role api.Role) {
	t.Helper()
	eventually(t, 90*time.Second, n.Name()+" to be "+string(role), func() error {
		sv, err := c.service(n)
		if err == nil && sv.Role != role {
			err = fmt.Errorf("it is %s", sv.Role)
		}
		return err
	})
}

// sh runs a script on a node.
func (c *cluster) sh(t *testing.T, n *lab.Node, script string) string {
	t.Helper()
	out, err := n.Shell(limited(t, 2*time.Minute), script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// journal is the text of the decisions about the service since a time, as a person reads it.
func (c *cluster) journal(t *testing.T, n *lab.Node, since time.Time) string {
	t.Helper()
	list, err := c.Agent(n).Log(limited(t, 10*time.Second), api.LogQuery{Since: since})
	must(t, err)
	var b strings.Builder
	for _, d := range list {
		fmt.Fprintf(&b, "%s %s: %s\n", d.Event, d.Service, d.Reason)
	}
	return b.String()
}
