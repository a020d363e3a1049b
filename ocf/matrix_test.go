package ocf

import (
	"testing"

	"github.com/understudy-ha/understudy/agent/api"
)

// situation is a state of a node, as the resource agent meets it.
type situation struct {
	name  string
	setUp func(*node)
	want  map[string]Code // by action; "probe" is a monitor without interval
}

// every action of the matrix; meta-data and help do not look at the node.
var matrixActions = []string{
	"probe", ActionMonitor, ActionStart, ActionPromote, ActionDemote, ActionStop, ActionValidate, ActionReload, ActionMetaData, "notify",
}

// all answers every action with what the node is after it.
func all(monitor answer) map[string]answer {
	return map[string]answer{
		api.ActionMonitor: monitor, api.ActionValidate: says(api.RoleStopped, ""), api.ActionReload: monitor,
		api.ActionStart: says(api.RoleStandby, api.HealthHealthy), api.ActionDemote: says(api.RoleStandby, api.HealthHealthy),
		api.ActionPromote: says(api.RoleActive, api.HealthHealthy), api.ActionStop: says(api.RoleStopped, ""),
	}
}

// alike runs an agent that can do everything.
func alike(monitor answer) func(*node) {
	return func(n *node) {
		n.agent.answers = all(monitor)
		n.serve()
	}
}

// works is what a node answers whose agent can do everything.
func works(probe, monitor Code) map[string]Code {
	return map[string]Code{"probe": probe, ActionMonitor: monitor}
}

// away is what orders that need an agent come to without one.
func away(probe, monitor, order, stop, validate Code) map[string]Code {
	return map[string]Code{
		"probe": probe, ActionMonitor: monitor, ActionStart: order, ActionPromote: order, ActionDemote: order,
		ActionStop: stop, ActionValidate: validate,
	}
}

var situations = []situation{
	{"not configured", alike(refuses(api.KindNotFound)), map[string]Code{"probe": NotRunning, ActionMonitor: NotRunning, ActionReload: ErrGeneric}},
	{"stopped", alike(says(api.RoleStopped, api.HealthHealthy)), works(NotRunning, NotRunning)},
	{"standby", alike(says(api.RoleStandby, api.HealthHealthy)), works(Success, Success)},
	{"standby, not ready", alike(says(api.RoleStandby, api.HealthUnhealthy)), works(Degraded, Degraded)},
	{"active", alike(says(api.RoleActive, api.HealthHealthy)), works(RunningPromoted, RunningPromoted)},
	{"active, starting", alike(says(api.RoleActive, api.HealthStarting)), works(RunningPromoted, RunningPromoted)},
	{"unhealthy", alike(says(api.RoleActive, api.HealthUnhealthy)), works(DegradedPromoted, DegradedPromoted)},
	{"process gone", alike(says(api.RoleActive, api.HealthFailed)), works(FailedPromoted, FailedPromoted)},
	{"software absent", func(n *node) {
		n.opts.ConfigPath = n.path("none")
		n.opts.Evict = []string{n.path("none"), "evict"}
	}, map[string]Code{
		"probe": NotRunning, ActionMonitor: NotRunning, ActionStart: ErrInstalled, ActionPromote: ErrInstalled, ActionDemote: ErrInstalled,
		ActionValidate: ErrInstalled, ActionReload: ErrInstalled,
	}},
	{"agent dead, stopped", func(*node) {}, away(NotRunning, NotRunning, ErrGeneric, Success, Success)},
	{
		"agent dead, standby", func(n *node) { n.record(api.LocalRecord{Role: api.RoleStandby}) },
		away(Success, Success, ErrGeneric, Success, Success),
	},
	{"agent dead, active", func(n *node) {
		n.record(api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{ownProcess(n.t)}, Addresses: []string{"192.0.2.100/24"}})
		n.hold("192.0.2.100/24")
	}, away(RunningPromoted, RunningPromoted, ErrGeneric, ErrGeneric, Success)}, // evict says it worked: the process says no
	{"agent dead, active and its process too", func(n *node) {
		n.record(api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{deadProcess()}})
	}, away(FailedPromoted, FailedPromoted, ErrGeneric, Success, Success)},
	{"agent hung, active", func(n *node) {
		n.record(api.LocalRecord{Role: api.RoleActive, Addresses: []string{"192.0.2.100/24"}})
		n.hold("192.0.2.100/24")
		n.opts.Evict = []string{n.script("evict", "exit 1"), "evict"}
		n.serve()
	}, away(RunningPromoted, RunningPromoted, ErrGeneric, ErrGeneric, ErrGeneric)},
	{"Podman dead, active", func(n *node) {
		alike(says(api.RoleActive, api.HealthUnknown))(n)
		for _, a := range []string{api.ActionStart, api.ActionPromote, api.ActionDemote, api.ActionValidate} {
			n.agent.answers[a] = refuses(api.KindGeneric)
		}
	}, away(RunningPromoted, RunningPromoted, ErrGeneric, Success, ErrGeneric)},
	{"Podman hung, standby", func(n *node) {
		alike(says(api.RoleStandby, api.HealthUnknown))(n)
		for _, a := range []string{api.ActionStart, api.ActionPromote, api.ActionDemote, api.ActionStop, api.ActionValidate} {
			n.agent.answers[a] = nil
		}
	}, away(Success, Success, ErrGeneric, Success, ErrGeneric)},
}

// TestMatrix is what ocf-tester leaves out: every action in every situation, in time.
func TestMatrix(t *testing.T) {
	always := map[string]Code{ActionMetaData: Success, "notify": ErrUnimplemented, ActionReload: Success}
	for _, s := range situations {
		for _, action := range matrixActions {
			t.Run(s.name+"/"+action, func(t *testing.T) {
				t.Parallel()
				n := newNode(t)
				n.vars["OCF_RESKEY_CRM_meta_timeout"] = "1500"
				if action == ActionStop {
					n.vars["OCF_RESKEY_CRM_meta_timeout"] = "4000" // evict is a process of its own, the machine may be busy
				}
				s.setUp(n)
				name := action
				if action == "probe" {
					name = ActionMonitor
					n.vars["OCF_RESKEY_CRM_meta_interval"] = "0"
				}
				want, ok := s.want[action]
				if !ok {
					want = always[action] // 0 for the orders to an agent that works
				}
				got := n.run(name)
				if got != want {
					t.Errorf("exit code %d, want %d\n%s", got, want, n.stderr.String())
				}
				quiet := got == Success || got == NotRunning || got == RunningPromoted
				if !quiet && n.reason() == "" {
					t.Errorf("exit code %d without a reason:\n%s", got, n.stderr.String())
				}
				for _, c := range n.agent.asked() {
					if probe := action == "probe"; c.req.Probe != probe {
						t.Errorf("the agent was told probe=%v in a %s", c.req.Probe, action)
					}
				}
			})
		}
	}
}
