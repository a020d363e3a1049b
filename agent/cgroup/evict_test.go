package cgroup

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// awaitGone waits for a process that has let go of everything to be a zombie.
func awaitGone(t *testing.T, pids ...int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if !slices.ContainsFunc(pids, func(pid int) bool { return !isGone(pid) }) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("one of the processes %v is left", pids)
		}
	}
}

func isGone(pid int) bool {
	st, err := readStat("/proc", pid)
	return err != nil || st.state == "Z"
}

func TestKillAlsoWhatIsBelowAndFrozen(t *testing.T) {
	top := root(t)
	below := mkdir(t, top, "a", "b")
	p, q := in(t, top, "sleep", "100"), in(t, below, "sh", "-c", "trap '' TERM; sleep 100")
	if err := freeze(top); err != nil {
		t.Fatal(err)
	}
	if alive, err := Alive(top); !alive || err != nil {
		t.Fatalf("alive: %v, %v", alive, err)
	}
	if err := Kill(soon(t), top); err != nil {
		t.Fatal(err)
	}
	if alive, err := Alive(top); alive || err != nil {
		t.Errorf("alive: %v, %v", alive, err)
	}
	awaitGone(t, p.Process.Pid, q.Process.Pid)
	if err := Kill(soon(t), top+"/nothing"); err != nil {
		t.Errorf("a cgroup that is not there: %v", err)
	}
}

// Where there is no cgroup.kill (v1, old kernels) every process gets a signal.
// A plain directory stands for such a cgroup.
func TestKillBySignal(t *testing.T) {
	p := in(t, root(t), "sleep", "100")
	dir := t.TempDir()
	list := func(text string) {
		if err := os.WriteFile(dir+"/cgroup.procs", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list(strconv.Itoa(p.Process.Pid) + "\n999999999\n")
	done := make(chan error, 1)
	go func() { done <- Kill(soon(t), dir) }()
	awaitGone(t, p.Process.Pid)
	list("")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestEvict(t *testing.T) {
	for i, tc := range []struct {
		name  string
		env   []string
		grace time.Duration
	}{
		{"monitor ends with its container", nil, 0},
		{"monitor hangs, as with Podman", []string{"CONMON_HANG=1"}, 0},
		{"container ends on SIGTERM", []string{"CONMON_GRACE=1"}, 10 * time.Second},
		{"container ignores SIGTERM", nil, 50 * time.Millisecond},
		{"container is started again meanwhile", []string{"CONMON_RESTART=1"}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			top := root(t)
			// An ID of its own: evictions by ID look at the whole machine.
			id := strings.Repeat(fmt.Sprintf("%02x", 0x20+i), 32)
			name := "evict-" + strings.ReplaceAll(tc.name, " ", "-")
			dir := mkdir(t, top, "libpod-"+id)
			m := startConmon(t, conmonBinary(t), mkdir(t, top, "conmons"), dir, podmanArgs(name, id, id), tc.env...)
			other := in(t, mkdir(t, top, "libpod-"+ids[1]), "sleep", "100") // somebody else's
			h := NewHost(Options{Root: top, Storage: []string{}})
			start := time.Now()
			ev, err := h.Evict(soon(t), EvictRequest{Names: []string{name}, Grace: tc.grace})
			if err != nil {
				t.Fatal(err)
			}
			awaitGone(t, m.init, m.cmd.Process.Pid)
			if isGone(other.Process.Pid) {
				t.Error("another container was ended")
			}
			if pids, _ := Procs(dir); len(pids) > 0 {
				t.Errorf("%v are left", pids)
			}
			if len(ev.Killed) == 0 || len(ev.Containers) != 1 || ev.At.Before(start) {
				t.Errorf("evidence %+v", ev)
			}
			again, err := h.Evict(soon(t), EvictRequest{Names: []string{name}, IDs: []string{id}})
			if err != nil || len(again.Killed) > 0 || again.At.IsZero() {
				t.Errorf("again: %+v, %v", again, err)
			}
		})
	}
}

func TestEvictByRecordedID(t *testing.T) {
	top := root(t)
	p := in(t, mkdir(t, top, "machine.slice", "libpod-"+ids[0]+".scope", "container"), "sleep", "100")
	h := NewHost(Options{Root: top, Storage: []string{}})
	ev, err := h.Evict(soon(t), EvictRequest{Names: []string{"web"}, IDs: []string{ids[0]}})
	awaitGone(t, p.Process.Pid)
	if err != nil || !strings.Contains(ev.String(), "sleep") {
		t.Errorf("%v, %v", ev, err)
	}
}

// A container with no cgroup of its own dies with its first process.
func TestEvictWithoutCgroup(t *testing.T) {
	top := root(t)
	own := mkdir(t, top, "conmons")
	pidfile := t.TempDir() + "/pidfile"
	args := podmanArgs("nocgroup", ids[1], ids[1])
	for i, a := range args {
		if a == "-p" {
			args[i+1] = pidfile
		}
	}
	m := startConmon(t, conmonBinary(t), own, own, args)
	if err := os.WriteFile(pidfile, []byte(strconv.Itoa(m.init)), 0o600); err != nil {
		t.Fatal(err)
	}
	h := NewHost(Options{Root: top, Storage: []string{}})
	if _, err := h.Evict(soon(t), EvictRequest{Names: []string{"nocgroup"}}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, m.init, m.cmd.Process.Pid)
}

func TestEvictIsBounded(t *testing.T) {
	top := root(t)
	in(t, mkdir(t, top, "libpod-"+ids[0]), "sleep", "100")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h := NewHost(Options{Root: top, Storage: []string{}})
	_, err := h.Evict(ctx, EvictRequest{IDs: []string{ids[0]}})
	if err != nil && api.KindOf(err) != api.KindDeadline {
		t.Errorf("%v", err)
	}
}

func TestStuckError(t *testing.T) {
	err := error(&StuckError{Where: "cgroup /x", Processes: []Process{{PID: 7, Name: "postgres", State: "D", In: "nfs_wait_bit_killable"}}})
	want := "cgroup /x still has processes that were killed and cannot die, because they wait in the kernel: 7 (postgres, state D in nfs_wait_bit_killable); its storage or network file system does not answer: repair that, or power the node off"
	if err.Error() != want || api.KindOf(err) != api.KindDeadline {
		t.Errorf("%v", err)
	}
	self := stuck("here", []int{os.Getpid()})
	if self.Processes[0].State != "R" && self.Processes[0].State != "S" || self.Processes[0].Name == "?" {
		t.Errorf("%+v", self)
	}
}
