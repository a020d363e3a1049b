package ocf

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// TestWaitsForAgent: systemd restarts the agent; an order given meanwhile is carried out.
func TestWaitsForAgent(t *testing.T) {
	for _, action := range []string{ActionStart, ActionPromote, ActionDemote, ActionReload, ActionStop} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.vars["OCF_RESKEY_CRM_meta_timeout"] = "20000"
			n.agent.answers = all(says(api.RoleStandby, api.HealthHealthy))
			done := make(chan struct{})
			go func() { defer close(done); time.Sleep(100 * time.Millisecond); n.serve() }()
			defer func() { <-done }()
			if code := n.run(action); code != Success {
				t.Fatalf("exit code %d\n%s", code, n.stderr.String())
			}
			if len(n.agent.asked()) != 1 || n.read("evict.args") != "" {
				t.Errorf("the agent was asked %d times; evict: %q", len(n.agent.asked()), n.read("evict.args"))
			}
		})
	}
}

func TestWaitsWhileBusy(t *testing.T) {
	n := newNode(t)
	var times atomic.Int32
	n.agent.answers[api.ActionPromote] = func() (api.ActionResult, error) {
		if times.Add(1) < 3 {
			return refuses(api.KindBusy)()
		}
		return says(api.RoleActive, api.HealthHealthy)()
	}
	n.serve()
	if code := n.run(ActionPromote); code != Success || times.Load() != 3 {
		t.Errorf("exit code %d after %d tries\n%s", code, times.Load(), n.stderr.String())
	}
}

func TestRefusalIsNotRepeated(t *testing.T) {
	for kind, want := range map[api.Kind]Code{
		api.KindRefused: ErrGeneric, api.KindInstalled: ErrInstalled, api.KindArgs: ErrArgs, api.KindPermission: ErrPermission,
		api.KindConfigured: ErrConfigured, api.KindFailedActive: FailedPromoted, api.KindNotRunning: ErrGeneric, "news from the future": ErrGeneric,
	} {
		n := newNode(t)
		n.agent.answers[api.ActionPromote] = refuses(kind)
		n.serve()
		if code := n.run(ActionPromote); code != want || len(n.agent.asked()) != 1 {
			t.Errorf("%s: exit code %d, want %d, after %d tries", kind, code, want, len(n.agent.asked()))
		}
		if want := "it is " + string(kind) + "; look into it"; n.reason() != want {
			t.Errorf("reason %q, want %q", n.reason(), want)
		}
	}
}

// TestEveryKindHasACode: a kind without one would be taken for a passing failure.
func TestEveryKindHasACode(t *testing.T) {
	for _, k := range []api.Kind{
		api.KindGeneric, api.KindArgs, api.KindConfigured, api.KindInstalled, api.KindPermission, api.KindNotRunning, api.KindRefused,
		api.KindBusy, api.KindDeadline, api.KindUnavailable, api.KindNotFound, api.KindIncompatible, api.KindFailedActive,
	} {
		if _, ok := codes[k]; !ok {
			t.Errorf("no exit code for %s", k)
		}
	}
}

// TestWrongTunable: it keeps a service from starting here, and never stops one that runs.
func TestWrongTunable(t *testing.T) {
	want := map[string]Code{
		ActionStart: ErrArgs, ActionValidate: ErrArgs, ActionPromote: Success, ActionDemote: Success,
		ActionReload: Success, ActionStop: Success, ActionMonitor: DegradedPromoted,
	}
	for action, code := range want {
		n := newNode(t)
		n.vars["OCF_RESKEY_max-rpo"] = "for ever"
		alike(says(api.RoleActive, api.HealthHealthy))(n)
		if got := n.run(action); got != code {
			t.Errorf("%s: exit code %d, want %d\n%s", action, got, code, n.stderr.String())
		}
		if action != ActionStop && !strings.Contains(n.stderr.String(), "max-rpo") {
			t.Errorf("%s does not name the parameter:\n%s", action, n.stderr.String())
		}
		for _, c := range n.agent.asked() {
			if c.action == api.ActionReload {
				t.Error("a wrong value went to the agent as a changed one")
			}
			if c.req.Spec.MaxRPO != api.DefaultMaxRPO {
				t.Errorf("%s: max-rpo went to the agent as %s", action, c.req.Spec.MaxRPO)
			}
		}
	}
}

// TestWrongShape: there is no service without its containers, on any node.
func TestWrongShape(t *testing.T) {
	for _, action := range []string{ActionStart, ActionPromote, ActionDemote, ActionValidate} {
		n := newNode(t)
		n.vars["OCF_RESKEY_containers"] = ""
		alike(says(api.RoleActive, api.HealthHealthy))(n)
		if got := n.run(action); got != ErrConfigured || len(n.agent.asked()) != 0 {
			t.Errorf("%s: exit code %d\n%s", action, got, n.stderr.String())
		}
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	n := newNode(t)
	n.vars["OCF_RESKEY_vip"] = "192.0.2.100"
	n.vars["OCF_RESKEY_interval"] = "often"
	n.vars["OCF_RESKEY_vip-conflict"] = "ask"
	n.vars["OCF_RESKEY_frezze-max"] = "1s"
	if code := n.run(ActionValidate); code != ErrConfigured {
		t.Errorf("exit code %d: the worst decides", code)
	}
	for _, name := range []string{"vip:", "interval:", "vip-conflict:", "frezze-max"} {
		if !strings.Contains(n.stderr.String(), name) {
			t.Errorf("%s is not named:\n%s", name, n.stderr.String())
		}
	}
	if !strings.Contains(n.reason(), "parameter vip:") {
		t.Errorf("the exit reason is not the worst: %q", n.reason())
	}
}

func TestValidateLevels(t *testing.T) {
	n := newNode(t)
	if code := n.run(ActionValidate); code != Success || !strings.Contains(n.stderr.String(), "only the parameters were checked") {
		t.Errorf("level 0 without an agent: exit code %d\n%s", code, n.stderr.String())
	}
	n.vars["OCF_CHECK_LEVEL"] = "10"
	if code := n.run(ActionValidate); code != ErrGeneric {
		t.Errorf("level 10 without an agent: exit code %d\n%s", code, n.stderr.String())
	}
	n.agent.answers[api.ActionValidate] = refuses(api.KindInstalled)
	n.serve()
	if code := n.run(ActionValidate); code != ErrInstalled {
		t.Errorf("the agent misses something: exit code %d\n%s", code, n.stderr.String())
	}
}

func TestUsage(t *testing.T) {
	n := newNode(t)
	if code := n.run("help"); code != Success || !strings.Contains(n.stdout.String(), "reload-agent") {
		t.Errorf("help: exit code %d, %q", code, n.stdout.String())
	}
	if code := n.run(""); code != ErrArgs || n.stdout.Len() > 0 {
		t.Errorf("no action: exit code %d, %q", code, n.stdout.String())
	}
}

// TestChangeThatCannotBeTakenUp: it never stops a service that runs, and monitor
// goes on saying so: an address that is wrong, or that the agent cannot take.
func TestChangeThatCannotBeTakenUp(t *testing.T) {
	for _, c := range []struct{ name, vip, says string }{
		{"wrong", "192.0.2.100", "lacks the prefix length"},
		{"refused", "192.0.2.100/24", "it is refused"},
	} {
		for action, want := range map[string]Code{ActionReload: Success, ActionMonitor: DegradedPromoted} {
			n := newNode(t)
			n.vars["OCF_RESKEY_vip"] = c.vip
			alike(says(api.RoleActive, api.HealthHealthy))(n)
			n.agent.answers[api.ActionReload] = refuses(api.KindRefused)
			if c.name == "refused" {
				n.agent.answers[api.ActionMonitor] = func() (api.ActionResult, error) {
					return api.ActionResult{Role: api.RoleActive, Health: api.HealthHealthy, Problem: "it is refused"}, nil
				}
			}
			if got := n.run(action); got != want || !strings.Contains(n.stderr.String(), c.says) {
				t.Errorf("%s, %s: exit code %d, want %d\n%s", c.name, action, got, want, n.stderr.String())
			}
			for _, asked := range n.agent.asked() {
				if c.name == "wrong" && len(asked.req.Spec.Containers) > 0 {
					t.Errorf("%s: a wrong address went to the agent as a changed one", action)
				}
			}
		}
	}
}
