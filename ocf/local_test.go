package ocf

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

func TestMonitorLocal(t *testing.T) {
	own, dead := ownProcess(t), deadProcess()
	other := dead
	other.Name = "other"
	for name, tc := range map[string]struct {
		rec  api.LocalRecord
		want Code
		says string
	}{
		"whole":              {api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{own}, Addresses: []string{"192.0.2.100/24", "2001:db8::100/64"}}, RunningPromoted, ""},
		"address gone":       {api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{own}, Addresses: []string{"192.0.2.101/24"}}, FailedPromoted, "address 192.0.2.101/24"},
		"a container gone":   {api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{own, other}}, FailedPromoted, "gone: container other"},
		"never started":      {api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{{Name: "registry", ID: "abc"}}}, FailedPromoted, "registry"},
		"not yet seen":       {api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{{Name: "registry"}}, Addresses: []string{"192.0.2.100/24"}}, RunningPromoted, ""},
		"cgroup":             {api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{{Name: "registry", Cgroup: "/full"}}}, RunningPromoted, ""},
		"cgroup, procs":      {api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{{Name: "registry", Cgroup: "/procs"}}}, RunningPromoted, ""},
		"cgroup empty":       {api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{{Name: "registry", Cgroup: "/empty"}}}, FailedPromoted, "registry"},
		"cgroup gone":        {api.LocalRecord{Role: api.RoleActive, Containers: []api.LocalContainer{{Name: "registry", Cgroup: "/none"}}}, FailedPromoted, "registry"},
		"standby":            {api.LocalRecord{Role: api.RoleStandby, Containers: []api.LocalContainer{dead}}, Success, ""},
		"promoting, begun":   {api.LocalRecord{Role: api.RoleStandby, Target: api.RoleActive, Containers: []api.LocalContainer{own}}, FailedPromoted, "on its way to active"},
		"promoting, not yet": {api.LocalRecord{Role: api.RoleStandby, Target: api.RoleActive, Containers: []api.LocalContainer{dead}}, Success, ""},
		"demoting, not done": {api.LocalRecord{Role: api.RoleActive, Target: api.RoleStandby, Containers: []api.LocalContainer{own}}, FailedPromoted, "on its way to standby"},
		"demoting, done":     {api.LocalRecord{Role: api.RoleActive, Target: api.RoleStandby, Containers: []api.LocalContainer{dead}}, Success, ""},
		"stopping":           {api.LocalRecord{Role: api.RoleStandby, Target: api.RoleStopped}, Success, ""},
		"stopped":            {api.LocalRecord{Role: api.RoleStopped}, NotRunning, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.hold("192.0.2.100/32", "2001:db8::100/64")
			n.write("cgroup/full/cgroup.events", "populated 1\nfrozen 1\n") // frozen for a capture is not gone
			n.write("cgroup/empty/cgroup.events", "populated 0\nfrozen 0\n")
			n.write("cgroup/procs/cgroup.procs", "4242\n")
			n.record(tc.rec)
			if code := n.run(ActionMonitor); code != tc.want || !strings.Contains(n.reason(), tc.says) {
				t.Errorf("exit code %d, want %d that says %q\n%s", code, tc.want, tc.says, n.stderr.String())
			}
		})
	}
}

func TestMonitorIllegibleRecord(t *testing.T) {
	for name, content := range map[string]string{"torn": `{"service":"we`, "of another": `{"service":"db"}`} {
		n := newNode(t)
		n.write("run/services/web.json", content)
		if code := n.run(ActionMonitor); code != ErrGeneric {
			t.Errorf("%s: exit code %d: it is not known to be stopped\n%s", name, code, n.stderr.String())
		}
	}
}

func TestAliveTellsZombies(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	k := kernel{proc: "/proc"}
	for k.alive(cmd.Process.Pid, 0) { // until it has exited: it stays a zombie until Wait
		time.Sleep(time.Millisecond)
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Fatal(err)
	}
	if !k.alive(os.Getpid(), 0) || k.alive(os.Getpid(), 1) {
		t.Error("a process is told from another by its start time")
	}
}

func TestOnUnhealthy(t *testing.T) {
	for choice, want := range map[string][2]Code{
		"":         {DegradedPromoted, Degraded},
		"degraded": {DegradedPromoted, Degraded},
		"fail":     {FailedPromoted, Degraded},
		"ignore":   {RunningPromoted, Success},
	} {
		for i, role := range []api.Role{api.RoleActive, api.RoleStandby} {
			n := newNode(t)
			n.vars["OCF_RESKEY_on-unhealthy"] = choice
			n.agent.answers[api.ActionMonitor] = func() (api.ActionResult, error) {
				return api.ActionResult{Role: role, Health: api.HealthUnhealthy, Message: "registry:\nHTTP 500"}, nil
			}
			n.serve()
			if code := n.run(ActionMonitor); code != want[i] {
				t.Errorf("on-unhealthy=%s, %s: exit code %d, want %d", choice, role, code, want[i])
			}
			if choice != "ignore" && n.reason() != "registry: HTTP 500" {
				t.Errorf("reason %q: one line, the agent's own", n.reason())
			}
		}
	}
}

func TestStandbyFailed(t *testing.T) {
	n := newNode(t)
	n.agent.answers[api.ActionMonitor] = says(api.RoleStandby, api.HealthFailed)
	n.serve()
	if code := n.run(ActionMonitor); code != ErrGeneric {
		t.Errorf("exit code %d", code)
	}
}

// TestPretendAbsent is ocf-tester's node without binaries.
func TestPretendAbsent(t *testing.T) {
	n := newNode(t)
	n.vars["OCF_TESTER_FAIL_HAVE_BINARY"] = "1"
	n.vars["OCF_RESKEY_CRM_meta_interval"] = "0"
	n.agent.answers[api.ActionMonitor] = says(api.RoleActive, api.HealthHealthy)
	n.serve()
	if code := n.run(ActionMonitor); code != NotRunning {
		t.Errorf("exit code %d\n%s", code, n.stderr.String())
	}
}
