//go:build lab

package e2e

import (
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/stack"
)

// Scripts that put a node's parts out of order and back.
const (
	agentDead  = "systemctl stop understudy"
	agentBack  = "systemctl start understudy"
	podmanDead = "systemctl stop podman.socket podman.service"
	podmanHung = "systemctl start podman.service; systemctl kill -s STOP podman.service"
	podmanBack = "systemctl kill -s CONT podman.service || true; systemctl start podman.socket"
)

// testMatrix is what ocf-tester leaves out: every action in every situation gives
// the right code, with a reason, within its timeout. Orders that change the role
// are the way from one situation to the next.
func testMatrix(t *testing.T, c *cluster) {
	_, n := c.roles(t)
	h := byHand(t, c, n, "matrix")
	run := func(name string, do func(t *testing.T)) {
		if !t.Failed() {
			t.Run(name, do)
		}
	}
	// broken is a situation that lasts as long as its orders.
	broken := func(name, harm, mend string, after int, wants ...want) {
		run(name, func(t *testing.T) {
			c.sh(t, n, harm)
			h.limit = short
			h.want(t, wants...)
			h.limit = patient
			c.sh(t, n, mend)
			h.to(t, after)
		})
	}
	run("not configured", func(t *testing.T) {
		h.want(t, want{action: "probe", code: notRunning}, want{action: "monitor", code: notRunning},
			want{action: "promote", code: errGeneric}, want{action: "demote", code: errGeneric},
			want{action: "reload-agent", code: success}, want{action: "validate-all", code: success}, want{action: "stop", code: success})
	})
	run("standby", func(t *testing.T) {
		h.want(t, want{action: "start", code: success}, want{action: "start", code: success},
			want{action: "probe", code: success}, want{action: "monitor", code: success}, want{action: "demote", code: success},
			want{action: "reload-agent", code: success}, want{action: "validate-all", code: success})
		if policy := c.sh(t, n, "podman inspect --format '{{.HostConfig.RestartPolicy.Name}}' matrix"); policy != "no" {
			t.Errorf("the container's restart policy is still %q", policy)
		}
	})
	run("active", func(t *testing.T) {
		h.want(t, want{action: "promote", code: success}, want{action: "promote", code: success},
			want{action: "probe", code: runningPromoted}, want{action: "monitor", code: runningPromoted},
			want{action: "reload-agent", code: success}, want{action: "validate-all", code: success})
	})
	run("unhealthy", func(t *testing.T) { unhealthy(t, h) })
	broken("agent dead, active", agentDead, agentBack, runningPromoted,
		want{action: "probe", code: runningPromoted}, want{action: "monitor", code: runningPromoted},
		want{action: "promote", code: errGeneric}, want{action: "demote", code: errGeneric}, want{action: "start", code: errGeneric},
		want{action: "reload-agent", code: success}, want{action: "validate-all", code: success})
	for name, harm := range map[string]string{"Podman dead, active": podmanDead, "Podman hung, active": podmanHung} {
		broken(name, harm, podmanBack, runningPromoted,
			want{action: "probe", code: runningPromoted}, want{action: "monitor", code: runningPromoted},
			want{action: "promote", code: success}, want{action: "reload-agent", code: success}, want{action: "validate-all", code: errGeneric})
	}
	run("process gone", func(t *testing.T) {
		c.sh(t, n, "podman kill matrix >/dev/null")
		h.to(t, failedPromoted)
		h.want(t, want{action: "probe", code: failedPromoted}, want{action: "demote", code: success}, want{action: "monitor", code: success})
	})
	run("what waited is dead", func(t *testing.T) {
		killWaiting(t, h)
		h.want(t, want{action: "promote", code: success}, want{action: "monitor", code: runningPromoted},
			want{action: "demote", code: success}, want{action: "monitor", code: success})
	})
	broken("agent dead, standby", agentDead, agentBack, success,
		want{action: "probe", code: success}, want{action: "monitor", code: success},
		want{action: "promote", code: errGeneric}, want{action: "demote", code: errGeneric}, want{action: "start", code: errGeneric},
		want{action: "reload-agent", code: success}, want{action: "validate-all", code: success})
	for name, harm := range map[string]string{"Podman dead, standby": podmanDead, "Podman hung, standby": podmanHung} {
		broken(name, harm, podmanBack, success,
			want{action: "probe", code: success}, want{action: "monitor", code: success},
			want{action: "start", code: success}, want{action: "demote", code: success},
			want{action: "reload-agent", code: success}, want{action: "validate-all", code: errGeneric})
	}
	run("promoted without Podman", func(t *testing.T) {
		c.sh(t, n, podmanDead)
		h.want(t, want{action: "promote", code: errGeneric})
		look(n).nothing(t, n, handAddress, "sleep")
		c.sh(t, n, podmanBack)
		h.want(t, want{action: "demote", code: success}, want{action: "monitor", code: success})
	})
	run("stopped", func(t *testing.T) {
		h.want(t, want{action: "stop", code: success}, want{action: "stop", code: success},
			want{action: "probe", code: notRunning}, want{action: "monitor", code: notRunning}, want{action: "validate-all", code: success})
		look(n).nothing(t, n, handAddress, "sleep")
	})
}

// killWaiting ends the process that waits in the standby's initialised container
// without Podman's knowledge: it goes on to call the container initialised.
func killWaiting(t *testing.T, h *hand) {
	t.Helper()
	eventually(t, 30*time.Second, "an initialised container", func() error {
		return lacks(h.c.sh(t, h.node, "podman inspect --format '{{.State.Status}}' matrix"), "initialized")
	})
	h.c.sh(t, h.node, "kill -9 $(podman inspect --format '{{.State.Pid}}' matrix)")
}

// unhealthy: a HEALTHCHECK that fails is what on-unhealthy says it is.
func unhealthy(t *testing.T, h *hand) {
	h.c.sh(t, h.node, "podman exec matrix touch /tmp/sick; podman healthcheck run matrix || true")
	h.to(t, degradedPromoted)
	h.want(t, want{action: "probe", code: degradedPromoted},
		want{action: "monitor", code: failedPromoted, params: []string{"on-unhealthy=fail"}},
		want{action: "monitor", code: runningPromoted, params: []string{"on-unhealthy=ignore"}},
		want{action: "monitor", code: degradedPromoted}, want{action: "promote", code: success},
		want{action: "reload-agent", code: success}, want{action: "validate-all", code: success})
	h.c.sh(t, h.node, "podman exec matrix rm /tmp/sick; podman healthcheck run matrix")
	h.to(t, runningPromoted)
}

// testStopAlone: stop tells the truth (invariant 6). With the agent dead, Podman
// hung, or both, it ends what runs, an exec session too, and removes the address;
// the kernel is the witness. With nothing there it succeeds.
func testStopAlone(t *testing.T, c *cluster) {
	_, n := c.roles(t)
	h := byHand(t, c, n, "alone")
	for _, s := range []struct{ name, harm string }{
		{"agent dead", agentDead},
		{"Podman hung", podmanHung},
		{"agent dead and Podman hung", agentDead + "\n" + podmanHung},
	} {
		t.Run(s.name, func(t *testing.T) {
			h.want(t, want{action: "start", code: success}, want{action: "promote", code: success}, want{action: "monitor", code: runningPromoted})
			c.sh(t, n, "podman exec -d alone sleep 1000")
			if tr := look(n); !tr.holds(handAddress) || tr.programs["sleep"] == 0 {
				t.Fatalf("the service is not active: %+v", tr)
			}
			c.sh(t, n, s.harm)
			h.want(t, want{action: "stop", code: success})
			look(n).nothing(t, n, handAddress, "sleep")
			h.want(t, want{action: "probe", code: notRunning}, want{action: "stop", code: success})
			c.sh(t, n, podmanBack+"\n"+agentBack)
			h.to(t, notRunning)
			if sv, err := c.serviceCalled(n, "alone"); err != nil || sv.Role != "stopped" {
				t.Errorf("the agent that came back says %q (%v)", sv.Role, err)
			}
		})
	}
}

// testDuplicateAddress: `pcs resource disable` leaves nothing on either node.
// Another machine takes the address meanwhile: no promotion succeeds, and the
// reason names it, until it is gone and the failure is cleaned up.
func testDuplicateAddress(t *testing.T, c *cluster) {
	n := c.Node("n1")
	c.sh(t, n, "pcs resource disable registry --wait=60")
	for _, n := range c.Nodes() {
		tr := look(n)
		tr.nothing(t, n, stack.VIP, "registry", "ledger")
		if tr.waiting > 0 {
			t.Errorf("%d initialised containers are left on %s", tr.waiting, n.Name())
		}
	}
	ctx := limited(t, 3*time.Minute)
	_, err := c.Client().Exec(ctx, "ip", "address", "add", stack.VIP+"/24", "dev", "eth0")
	must(t, err)
	remove := func() { _, _ = c.Client().Exec(ctx, "ip", "address", "del", stack.VIP+"/24", "dev", "eth0") }
	defer remove()
	began := time.Now()
	c.sh(t, n, "pcs resource enable registry")
	const mac = "02:00:5e:00:53:c8" // the client's
	eventually(t, 60*time.Second, "a refused promotion", func() error {
		text := c.journal(t, n, began) + c.journal(t, c.Node("n2"), began)
		return lacks(text, mac)
	})
	eventually(t, 60*time.Second, "the reason in the cluster's status", func() error {
		return lacks(c.sh(t, n, "crm_mon -1 --include=failures"), mac)
	})
	for _, n := range c.Nodes() {
		if look(n).holds(stack.VIP) {
			t.Errorf("%s took an address that somebody else has", n.Name())
		}
	}
	remove()
	c.sh(t, n, "pcs resource cleanup registry >/dev/null")
	c.settle(t)
}
