package ocf

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

func TestStopWithoutAgent(t *testing.T) {
	n := newNode(t)
	n.vars["OCF_RESKEY_vip"] = "192.0.2.100/24"
	n.vars["OCF_RESKEY_on-unhealthy"] = "nonsense" // stop does not validate
	n.record(api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{deadProcess()}})
	if code := n.run(ActionStop); code != Success {
		t.Fatalf("exit code %d\n%s", code, n.stderr.String())
	}
	var limit time.Duration
	args := strings.Fields(n.read("evict.args"))
	if len(args) == 3 {
		limit, _ = time.ParseDuration(strings.TrimPrefix(args[1], "--timeout="))
	}
	if len(args) != 3 || args[0] != "evict" || args[2] != "web" || limit <= 0 || limit > 2*time.Second {
		t.Errorf("evict was run with %q: it wants its time, and the service without the instance", args)
	}
	if code := n.run(ActionMonitor); code != NotRunning {
		t.Errorf("after the stop, monitor says %d\n%s", code, n.stderr.String())
	}
	if got := strings.TrimSpace(n.read("score.args")); got != "-D" {
		t.Errorf("the score was taken back with %q: the agent was not there to do it", got)
	}
	if !strings.Contains(n.read("score.env"), "OCF_RESOURCE_INSTANCE=web\n") {
		t.Error("crm_attribute --promotion needs the resource's name in its environment")
	}
}

func TestStopByAgent(t *testing.T) {
	n := newNode(t)
	n.agent.answers[api.ActionStop] = says(api.RoleStopped, "")
	n.serve()
	if code := n.run(ActionStop); code != Success {
		t.Fatalf("exit code %d\n%s", code, n.stderr.String())
	}
	if n.read("evict.args")+n.read("score.args") != "" {
		t.Error("the agent had stopped it, and still evict or crm_attribute was run")
	}
	calls := n.agent.asked()
	if len(calls) != 1 || time.Until(calls[0].deadline) > time.Second {
		t.Errorf("the agent was asked %+v: at most half of the two seconds is its own", calls)
	}
}

// TestStopTellsTheTruth: neither the agent's nor evict's word is enough while
// something recorded is there.
func TestStopTellsTheTruth(t *testing.T) {
	for name, rec := range map[string]api.LocalRecord{
		"process": {Role: api.RoleActive, Containers: []api.LocalContainer{ownProcess(t)}},
		"address": {Role: api.RoleActive, Addresses: []string{"192.0.2.100/24"}},
		"cgroup":  {Role: api.RoleActive, Containers: []api.LocalContainer{{Name: "registry", ID: "abc", PID: os.Getpid(), StartTime: 1, Cgroup: "/libpod-abc"}}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.hold("192.0.2.100/24")
			n.write("cgroup/libpod-abc/cgroup.events", "populated 1\nfrozen 0\n")
			n.record(rec)
			n.agent.answers[api.ActionStop] = says(api.RoleStopped, "")
			n.serve()
			if code := n.run(ActionStop); code != ErrGeneric {
				t.Fatalf("exit code %d\n%s", code, n.stderr.String())
			}
			if n.read("evict.args") == "" {
				t.Error("evict was not tried")
			}
			if !strings.Contains(n.reason(), "still on this node") {
				t.Errorf("reason: %s", n.reason())
			}
		})
	}
}

// TestStopEvicts: what evict really ends is gone afterwards.
func TestStopEvicts(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	n := newNode(t)
	n.record(api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{{Name: "registry", ID: "a", PID: cmd.Process.Pid}}})
	if code := n.run(ActionMonitor); code != RunningPromoted {
		t.Fatalf("monitor: exit code %d\n%s", code, n.stderr.String())
	}
	n.opts.Evict = []string{n.script("evict", "kill -9 "+strconv.Itoa(cmd.Process.Pid)+"; sleep 0.1"), "evict"}
	if code := n.run(ActionStop); code != Success {
		t.Fatalf("stop: exit code %d\n%s", code, n.stderr.String())
	}
	if code := n.run(ActionMonitor); code != NotRunning {
		t.Errorf("monitor: exit code %d\n%s", code, n.stderr.String())
	}
}

func TestStopFails(t *testing.T) {
	for name, tc := range map[string]struct {
		evict string
		want  string
	}{
		"evict fails":            {"echo one >&2; echo address 192.0.2.100 cannot be removed >&2; exit 1", "address 192.0.2.100 cannot be removed"},
		"evict hangs":            {"sleep 30", "not done in time"},
		"evict's child lives on": {"sleep 30 & exit 1", "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.opts.Evict = []string{n.script("evict", tc.evict), "evict"}
			if code := n.run(ActionStop); code != ErrGeneric {
				t.Fatalf("exit code %d\n%s", code, n.stderr.String())
			}
			if !strings.Contains(n.reason(), tc.want) {
				t.Errorf("reason: %s\nwant: %s", n.reason(), tc.want)
			}
		})
	}
}

// TestStopWithoutSoftware: a node that lost the software is judged by the record.
func TestStopWithoutSoftware(t *testing.T) {
	for name, tc := range map[string]struct {
		leave func(*node)
		want  Code
	}{
		"no trace": {func(*node) {}, Success},
		"all gone": {func(n *node) {
			n.record(api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{deadProcess()}})
		}, Success},
		"it runs": {func(n *node) {
			n.record(api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{ownProcess(n.t)}})
		}, ErrGeneric},
		"illegible record": {func(n *node) { n.write("run/services/web.json", "{") }, ErrGeneric},
		"no such name":     {func(n *node) { n.vars["OCF_RESOURCE_INSTANCE"] = "../../etc/passwd" }, Success},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.opts.Evict = []string{n.path("none"), "evict"}
			tc.leave(n)
			if code := n.run(ActionStop); code != tc.want {
				t.Fatalf("exit code %d, want %d\n%s", code, tc.want, n.stderr.String())
			}
		})
	}
}
