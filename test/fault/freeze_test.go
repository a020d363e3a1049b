package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
// application may write once more.
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
	if f.job.Late > 0 {
		if err := writeLate(f.tree, f.job.Late); err != nil {
			return nil, err
		}
	}
	z, err := f.f.Freeze(ctx, cgroup.FreezeRequest{Service: svc, Cgroups: []string{f.job.Cgroup}, Max: 10 * slow}) // its end is not to be what thaws
	if err != nil {
		return nil, err
	}
	if thawed, err := runs(f.job.Cgroup); thawed || err != nil {
		return nil, errors.Join(fmt.Errorf("the containers were said to be frozen; they run: %v", thawed), err, z.Thaw())
	}
	return z.Thaw, nil
}

func (f *freezer) close() error { return f.guard.Close() }

const cgroupName = "understudy-fault-"

// contain gives the active containers that each of its captures freezes; check looks that they run.
func (p *pair) contain() {
	p.t.Helper()
	p.cgroup, p.freezes = containers(p.t), p.t.TempDir()
	f, err := newFreezer(job{Cgroup: p.cgroup, Freezes: p.freezes}, p.n1.tree())
	must(p.t, err)
	p.t.Cleanup(func() { must(p.t, f.close()) })
	p.freezer = f
}

// containers makes a cgroup with a process in it.
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
		var dir string
		if dir, err = os.MkdirTemp(f[1], cgroupName+strconv.Itoa(os.Getpid())+"-"); err == nil {
			inhabit(t, dir)
			return dir
		}
	}
	t.Fatalf("no cgroup can be made, so nothing would be frozen; mount cgroup2, or version 1's freezer, where root can write: %v", err)
	return ""
}

// sweep removes the cgroups of tests that were killed.
func sweep(mount string) {
	dirs, _ := filepath.Glob(filepath.Join(mount, cgroupName+"*"))
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupName), "-")
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
		ok, err := runs(dir)
		must(t, err)
		return ok
	})
}

// runs says whether nobody wants a cgroup to be frozen.
func runs(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.freeze"))
	if errors.Is(err, fs.ErrNotExist) {
		b, err = os.ReadFile(filepath.Join(dir, "freezer.state"))
	}
	state := strings.TrimSpace(string(b))
	return state == "0" || state == "THAWED", err
}
