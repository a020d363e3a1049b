package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/replication"
)

func guardCommand() []string { return []string{"/usr/bin/env", "CGROUP_TEST=guard", os.Args[0]} }

func keeper(t *testing.T) *Keeper {
	t.Helper()
	k := KeepGuard(guardCommand(), nil)
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// awaitThawed waits for a cgroup to run again.
func awaitThawed(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); isFrozen(dir); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it stays frozen")
		}
	}
}

func records(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestFreezeAndThaw(t *testing.T) {
	top := root(t)
	a, b := mkdir(t, top, "a"), mkdir(t, top, "b", "below")
	in(t, a, "sh", "-c", "while :; do :; done")
	in(t, b, "sleep", "100")
	cgroups := []string{a, filepath.Dir(b)}
	run := t.TempDir() + "/freeze"
	f := NewFreezer(FreezerOptions{Dir: run, Guard: keeper(t).Guard})
	z, err := f.Freeze(t.Context(), FreezeRequest{Service: "web/1", Cgroups: cgroups, Max: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cgroups {
		if !isFrozen(c) || !f.IsFrozenByUs(c) {
			t.Errorf("%s is not frozen", c)
		}
	}
	if !f.IsFrozenByUs(b) || f.IsFrozenByUs(top) || !f.Frozen("web/1") || f.Frozen("web") {
		t.Error("IsFrozenByUs")
	}
	if got := records(t, run); len(got) != 1 || filepath.Base(got[0]) != "web%2F1.json" {
		t.Errorf("records %v", got)
	}
	if _, err := f.Freeze(t.Context(), FreezeRequest{Service: "web/1", Cgroups: cgroups, Max: time.Second}); err == nil {
		t.Error("a second freeze of the same service")
	}
	if !isFrozen(a) {
		t.Error("the refused freeze undid the other")
	}
	for range 2 {
		if err := z.Thaw(); err != nil {
			t.Error(err)
		}
	}
	if isFrozen(a) || f.IsFrozenByUs(a) || f.Frozen("web/1") || len(records(t, run)) != 0 {
		t.Error("something is left of the freeze")
	}
}

// A freeze that fails with one stopped already says for how long it was.
func TestFreezeFailsHalfWay(t *testing.T) {
	top := root(t)
	a, b := mkdir(t, top, "a"), mkdir(t, top, "b")
	in(t, a, "sleep", "100")
	f := NewFreezer(FreezerOptions{Dir: t.TempDir(), Guard: keeper(t).Guard, hook: func(step string) {
		if step != "frozen" {
			return
		}
		if err := os.Remove(b); err != nil {
			t.Error(err)
		}
	}})
	began := time.Now()
	_, err := f.Freeze(t.Context(), FreezeRequest{Service: "s", Cgroups: []string{a, b}, Max: 30 * time.Second})
	var stood *replication.StoodStill
	if !errors.As(err, &stood) || stood.For <= 0 || stood.For > time.Since(began) {
		t.Errorf("it does not say how long it was: %v, %+v", err, stood)
	}
	if isFrozen(a) || f.Frozen("s") {
		t.Error("something is left of the freeze")
	}
	if _, err := f.Freeze(t.Context(), FreezeRequest{Service: "s"}); errors.As(err, &stood) {
		t.Errorf("nothing stood still: %v", err)
	}
}

// A container that an operator has paused stays paused.
func TestPausedStaysPaused(t *testing.T) {
	top := root(t)
	a, b := mkdir(t, top, "a"), mkdir(t, top, "b")
	in(t, a, "sleep", "100")
	in(t, b, "sleep", "100")
	if err := freeze(a); err != nil {
		t.Fatal(err)
	}
	f := NewFreezer(FreezerOptions{Dir: t.TempDir(), Guard: keeper(t).Guard})
	z, err := f.Freeze(t.Context(), FreezeRequest{Service: "s", Cgroups: []string{a, b}, Max: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if f.IsFrozenByUs(a) || !f.IsFrozenByUs(b) {
		t.Error("whose freeze it is")
	}
	if err := z.Thaw(); err != nil {
		t.Fatal(err)
	}
	if !isFrozen(a) || isFrozen(b) {
		t.Errorf("frozen: %v, %v", isFrozen(a), isFrozen(b))
	}
}

func TestFreezeEndsAtItsBound(t *testing.T) {
	dir := root(t)
	in(t, dir, "sleep", "100")
	run := t.TempDir()
	f := NewFreezer(FreezerOptions{Dir: run, Guard: keeper(t).Guard})
	z, err := f.Freeze(t.Context(), FreezeRequest{Service: "s", Cgroups: []string{dir}, Max: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	awaitThawed(t, dir)
	if err := z.Thaw(); !errors.Is(err, ErrExpired) {
		t.Errorf("thaw after the bound: %v", err)
	}
	if len(records(t, run)) != 0 || f.Frozen("s") {
		t.Error("something is left of the freeze")
	}
}

// Without a guard that answers nothing is frozen.
func TestNoGuardNoFreeze(t *testing.T) {
	dir := root(t)
	in(t, dir, "sleep", "100")
	req := FreezeRequest{Service: "s", Cgroups: []string{dir}, Max: time.Second}
	run := t.TempDir()
	hung, err := StartGuard(guardCommand(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	if err := hung.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	dead, err := StartGuard(guardCommand(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	dead.cmd.Process.Kill()
	<-dead.Done()
	for name, g := range map[string]*Guard{"none": nil, "hung": hung, "dead": dead} {
		f := NewFreezer(FreezerOptions{Dir: run, Guard: func() *Guard { return g }})
		if _, err := f.Freeze(t.Context(), req); err == nil {
			t.Errorf("%s: frozen", name)
		}
		if asked, _ := wantsFrozen(dir); asked || len(records(t, run)) != 0 || f.Frozen("s") {
			t.Errorf("%s: something is left", name)
		}
	}
	<-hung.Done() // one that does not answer is ended, and noticed
	if _, err := StartGuard([]string{"/bin/true"}, nil); err == nil {
		t.Error("a program that is no guard")
	}
}

// The guard is killed during a freeze: the agent notices and thaws at once, and
// the next freeze has another guard.
func TestGuardKilled(t *testing.T) {
	dir := root(t)
	in(t, dir, "sleep", "100")
	k := keeper(t)
	f := NewFreezer(FreezerOptions{Dir: t.TempDir(), Guard: k.Guard})
	req := FreezeRequest{Service: "s", Cgroups: []string{dir}, Max: time.Hour}
	z, err := f.Freeze(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	k.guard.cmd.Process.Kill()
	awaitThawed(t, dir)
	if err := z.Thaw(); !errors.Is(err, ErrExpired) {
		t.Errorf("thaw: %v", err)
	}
	if z, err = f.Freeze(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if err := z.Thaw(); err != nil {
		t.Error(err)
	}
}

// fakeAgent freezes what it is told, says so, and does not thaw.
func fakeAgent() {
	k := KeepGuard(guardCommand(), nil)
	hook := func(step string) {
		fmt.Println(step, k.guard.cmd.Process.Pid)
		if step == os.Getenv("AGENT_STOP_AT") {
			time.Sleep(time.Hour)
		}
	}
	max, err := time.ParseDuration(os.Getenv("AGENT_MAX"))
	if err != nil {
		panic(err)
	}
	k.Guard()
	f := NewFreezer(FreezerOptions{Dir: os.Getenv("AGENT_DIR"), Guard: k.Guard, hook: hook})
	if _, err := f.Freeze(context.Background(), FreezeRequest{Service: "s", Cgroups: strings.Split(os.Getenv("AGENT_CGROUPS"), ":"), Max: max}); err != nil {
		panic(err)
	}
	hook("done")
	time.Sleep(time.Hour)
}

// agent starts a fakeAgent and waits until it is at a step; guard is its guard's pid.
func agent(t *testing.T, run string, max time.Duration, step string, cgroups ...string) (cmd *exec.Cmd, guard int) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CGROUP_TEST=agent", "AGENT_DIR="+run, "AGENT_MAX="+max.String(), "AGENT_STOP_AT="+step, "AGENT_CGROUPS="+strings.Join(cgroups, ":"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		at := ""
		fmt.Sscan(lines.Text(), &at, &guard)
		if at == step {
			return cmd, guard
		}
	}
	t.Fatalf("the agent did not come to %q", step)
	return nil, 0
}

// The agent is killed at every step of a freeze: nothing stays frozen, though
// the bound is far away.
func TestAgentKilled(t *testing.T) {
	for _, step := range []string{"recorded", "armed", "frozen", "done"} {
		t.Run(step, func(t *testing.T) {
			top := root(t)
			a, b := mkdir(t, top, "a"), mkdir(t, top, "b")
			in(t, a, "sleep", "100")
			in(t, b, "sleep", "100")
			run := t.TempDir()
			cmd, guard := agent(t, run, time.Hour, step, a, b)
			cmd.Process.Kill()
			awaitThawed(t, a)
			awaitThawed(t, b)
			awaitGone(t, guard) // it has nothing left to live for
			if _, err := ThawAll(run); err != nil || len(records(t, run)) != 0 {
				t.Errorf("%v, %v", err, records(t, run))
			}
		})
	}
}

// The agent hangs: the guard thaws at the bound. It hangs before it has frozen,
// and freezes when it comes to again, past the bound: that ends as well.
func TestAgentHangs(t *testing.T) {
	for _, step := range []string{"armed", "done"} {
		t.Run(step, func(t *testing.T) {
			dir := root(t)
			in(t, dir, "sleep", "100")
			cmd, _ := agent(t, t.TempDir(), 100*time.Millisecond, step, dir)
			if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			awaitThawed(t, dir)
			if step == "armed" {
				time.Sleep(150 * time.Millisecond) // past the bound
				if err := freeze(dir); err != nil {
					t.Fatal(err)
				}
				awaitThawed(t, dir)
			}
		})
	}
}

// Agent and guard are both killed: the records say what to thaw.
func TestBothKilled(t *testing.T) {
	top := root(t)
	a, b := mkdir(t, top, "a"), mkdir(t, top, "b")
	in(t, a, "sleep", "100")
	in(t, b, "sleep", "100")
	run := t.TempDir()
	cmd, guard := agent(t, run, time.Hour, "done", a, b)
	syscall.Kill(guard, syscall.SIGKILL)
	cmd.Process.Signal(syscall.SIGSTOP)
	cmd.Process.Kill()
	cmd.Wait()
	awaitGone(t, guard)
	// Between the two kills the agent may itself have noticed the guard's death.
	if err := errors.Join(freeze(a), freeze(b)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(run+"/.s.json.tmp1", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	services, err := ThawAll(run)
	if err != nil || !cmp.Equal(services, []string{"s"}) {
		t.Errorf("%v, %v", services, err)
	}
	awaitThawed(t, a)
	awaitThawed(t, b)
	if len(records(t, run)) != 0 {
		t.Error("records are left")
	}
	if services, err := ThawAll(run); err != nil || services != nil {
		t.Errorf("again: %v, %v", services, err)
	}
}

func TestThawAll(t *testing.T) {
	if _, err := ThawAll(t.TempDir() + "/none"); err != nil {
		t.Errorf("no directory: %v", err)
	}
	run := t.TempDir()
	for name, text := range map[string]string{"gone.json": `{"service":"gone","cgroups":["/nonexistent/cgroup"]}`, "bad.json": "{"} {
		if err := os.WriteFile(filepath.Join(run, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	services, err := ThawAll(run)
	if !cmp.Equal(services, []string{"gone"}) || err == nil || !strings.Contains(err.Error(), "podman ps") {
		t.Errorf("%v, %v", services, err)
	}
	if got := records(t, run); len(got) != 1 {
		t.Errorf("records %v: what could not be read must stay", got)
	}
}

// A service's freezer finds what runs by the containers' names.
func TestServiceFreezer(t *testing.T) {
	top := root(t)
	dir := mkdir(t, top, "libpod-"+ids[0]+".scope")
	mkdir(t, top, "libpod-"+ids[1]+".scope")
	name := "freeze-me"
	startConmon(t, conmonBinary(t), mkdir(t, top, "conmons"), mkdir(t, dir, "container"), podmanArgs(name, ids[0], ids[0]))
	f := NewFreezer(FreezerOptions{Dir: t.TempDir(), Guard: keeper(t).Guard, Host: NewHost(Options{Root: top, Storage: []string{}})})
	thaw, err := f.For("s", []string{name, "not-here"}, 30*time.Second).Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !isFrozen(dir) {
		t.Error("not frozen")
	}
	if err := thaw(); err != nil || isFrozen(dir) {
		t.Errorf("thaw: %v", err)
	}
	thaw, err = f.For("s", []string{"not-here"}, time.Second).Freeze(t.Context())
	if err != nil || thaw() != nil {
		t.Errorf("nothing runs: %v", err)
	}
}
