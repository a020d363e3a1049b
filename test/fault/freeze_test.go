package fault

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/understudy-ha/understudy/agent/cgroup"
)

// freezer is the agent's, with its guard, of one cgroup. Just before it freezes, the
// application writes once more.
type freezer struct {
	job   job
	tree  string
	guard *cgroup.Keeper
	f     *cgroup.Freezer
}

func newFreezer(j job, tree string) (*freezer, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// With the race detector a process would sleep for a second at its end, and who is killed is waited for with its guard.
	f := &freezer{job: j, tree: tree, guard: cgroup.KeepGuard([]string{"/usr/bin/env", roleEnv + "=" + guard, "GORACE=atexit_sleep_ms=0", exe}, nil)}
	f.f = cgroup.NewFreezer(cgroup.FreezerOptions{Dir: j.Freezes, Guard: f.guard.Guard})
	return f, nil
}

func (f *freezer) Freeze(ctx context.Context) (thaw func() error, err error) {
	if err := writeLate(f.tree, f.job.Late); err != nil {
		return nil, err
	}
	if f.job.Cgroup == "" {
		return func() error { return nil }, nil
	}
	z, err := f.f.Freeze(ctx, cgroup.FreezeRequest{Service: svc, Cgroups: []string{f.job.Cgroup}, Max: slow})
	if err != nil {
		return nil, err
	}
	return z.Thaw, nil
}

func (f *freezer) close() error { return f.guard.Close() }

const cgroupName = "understudy-fault-"

// containers makes a cgroup with a process in it, for captures to freeze; "" where this
// machine lets nobody.
func containers(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if f[2] != "cgroup2" && (f[2] != "cgroup" || !strings.Contains(","+f[3]+",", ",freezer,")) {
			continue
		}
		sweep(f[1])
		dir := filepath.Join(f[1], cgroupName+strconv.Itoa(os.Getpid()))
		if os.Mkdir(dir, 0o755) == nil {
			inhabit(t, dir)
			return dir
		}
	}
	t.Log("no cgroup can be made here: nothing is frozen in this run")
	return ""
}

// sweep removes the cgroups of tests that were killed.
func sweep(mount string) {
	dirs, _ := filepath.Glob(filepath.Join(mount, cgroupName+"*"))
	for _, dir := range dirs {
		pid := strings.TrimPrefix(filepath.Base(dir), cgroupName)
		if _, err := os.Stat("/proc/" + pid); os.IsNotExist(err) {
			_ = os.Remove(dir)
		}
	}
}

func inhabit(t testing.TB, dir string) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		until(t, "the cgroup is empty", func() bool { return os.Remove(dir) == nil })
	})
	must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendln(nil, cmd.Process.Pid), 0o600))
}

// thawed waits for the containers to run, without any help: the guard needs a moment to
// see that the agent is dead.
func thawed(t testing.TB, dir string) {
	t.Helper()
	until(t, "the containers run again", func() bool {
		for name, runs := range map[string]string{"cgroup.freeze": "0", "freezer.state": "THAWED"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil && strings.TrimSpace(string(b)) != runs {
				return false
			}
		}
		return true
	})
}
