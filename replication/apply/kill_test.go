package apply

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// small is a tree with one of each kind of change in it, for tests that go
// through every step.
func small(t testing.TB, in func(string) string) {
	t.Helper()
	treetest.Must(t, os.MkdirAll(in("d/e"), 0o755))
	treetest.Must(t, os.Mkdir(in("f2d"), 0o755))
	for _, f := range []string{"a", "d/b", "d/e/c", "gone", "both", "f2d/x"} {
		treetest.Write(t, in(f), []byte(f))
	}
	treetest.Must(t, os.Link(in("a"), in("d/hard")))
	treetest.Must(t, os.Symlink("a", in("s")))
	treetest.Must(t, os.Mkdir(in("moved"), 0o700))
	treetest.Chattr(t, "+i", in("d/hard"), in("gone"), in("f2d/x"), in("f2d"), in("d/e"))
	treetest.Chattr(t, "+a", in("both"), in("moved"))
}

func smallChange(t testing.TB, in func(string) string) {
	t.Helper()
	treetest.Free(t, in("."))
	patch(t, in("a"), 0, []byte("A"))
	treetest.Write(t, in("d/fresh"), []byte("new in the generation"))
	treetest.Must(t, os.Remove(in("gone")))
	treetest.Must(t, os.RemoveAll(in("f2d")))
	treetest.Write(t, in("f2d"), []byte("a file now"))
	treetest.Must(t, os.Chmod(in("both"), 0o600))
	treetest.Must(t, os.Rename(in("moved"), in("d/e/moved")))
	treetest.Must(t, os.Remove(in("s")))
	treetest.Must(t, os.Mkdir(in("s"), 0o711))
	treetest.Write(t, in("s/new"), nil)
	treetest.Must(t, os.Link(in("d/b"), in("s/link")))
	treetest.Must(t, os.Remove(in("d/hard")))
	treetest.Chattr(t, "+i", in("a"), in("d/b"), in("d/e"), in("."))
	treetest.Chattr(t, "+a", in("both"), in("s/new"))
}

var errKilled = errors.New("killed here")

// Stopped before each of its steps, an apply that is done again converges, and
// says of no tree that it is at a generation when it is not.
func TestInterruptedAtEveryStep(t *testing.T) {
	for _, start := range []string{"from a generation", "from nothing known"} {
		t.Run(start, func(t *testing.T) {
			mnt := treetest.Mount(t, "ext4")
			for n, done := 0, false; !done; n++ {
				dir := filepath.Join(mnt, strconv.Itoa(n))
				r := newRig(t, dir)
				small(t, inside(r.src))
				r.cycle(t)
				first := r.base.ID
				smallChange(t, inside(r.src))
				r.capture(t)
				r.ship(t)
				if start == "from nothing known" {
					treetest.Must(t, r.applier.SetApplied(replication.ID{}))
				}
				step := 0
				r.hook = func(string) error {
					if step++; step > n {
						return errKilled
					}
					return nil
				}
				_, err := r.applier.Apply(context.Background(), r.base.ID, r.roots())
				r.hook = nil
				if done = err == nil; !done && !errors.Is(err, errKilled) {
					t.Fatalf("step %d: %v", n, err)
				}
				r.reopen(t)
				at, err := r.applier.Applied()
				treetest.Must(t, err)
				if !at.IsZero() {
					diffs, err := r.applier.Verify(context.Background(), at, r.roots())
					treetest.Must(t, err)
					if len(diffs) > 0 {
						t.Errorf("killed at step %d: said to be at %s (first %s), is not: %q", n, at, first, diffs)
					}
				}
				r.apply(t)
				r.checkTree(t)
				treetest.Same(t, r.src, r.dst)
				if n > 200 {
					t.Fatal("it never ends")
				}
				treetest.Free(t, dir)
				treetest.Must(t, os.RemoveAll(dir))
			}
		})
	}
}

// A pending apply to one generation, then one to the next: both are done.
func TestPendingThenNext(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "xfs"))
	small(t, inside(r.src))
	r.cycle(t)
	smallChange(t, inside(r.src))
	r.capture(t)
	r.ship(t)
	r.hook = func(step string) error {
		if strings.HasPrefix(step, "rename f2d") {
			return errKilled
		}
		return nil
	}
	if _, err := r.applier.Apply(context.Background(), r.base.ID, r.roots()); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	r.hook = nil
	r.reopen(t)
	j, err := r.applier.Pending()
	if err != nil || j == nil || j.To != r.base.ID {
		t.Fatalf("pending %+v, %v", j, err)
	}
	treetest.Write(t, r.src+"/d/third", []byte("third"))
	r.cycle(t)
	treetest.Same(t, r.src, r.dst)
}

// TestMain runs the child of TestKilled.
func TestMain(m *testing.M) {
	if path := os.Getenv(mapsFile); path != "" {
		mappingMain(path)
	}
	if path := os.Getenv(pagesFile); path != "" {
		pagesMain(path)
	}
	_ = flag.Set("rapid.checks", "25") // each mounts, captures and runs rsync; more with -rapid.checks
	if dir := os.Getenv("APPLY_KILL_DIR"); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// child applies and kills its own process, for real, before the given step: the one with
// that number, or the first whose name begins so.
func child(dir string) {
	at := os.Getenv("APPLY_KILL_AT")
	n, err := strconv.Atoi(os.Getenv("APPLY_KILL_STEP"))
	if err != nil && at == "" {
		panic(err)
	}
	s, err := store.Open(filepath.Join(dir, "away"), "svc", store.Options{})
	if err != nil {
		panic(err)
	}
	a, err := New(filepath.Join(dir, "state"), s, Options{Hook: func(step string) error {
		if n--; at == "" && n < 0 || at != "" && strings.HasPrefix(step, at) {
			return unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		return nil
	}})
	if err != nil {
		panic(err)
	}
	id, err := s.Head()
	if err != nil {
		panic(err)
	}
	if _, err := a.Apply(context.Background(), id, map[string]string{"data": filepath.Join(dir, "standby/_data")}); err != nil {
		panic(err)
	}
	os.Exit(0)
}

func TestKilled(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "xfs"))
	small(t, inside(r.src))
	r.cycle(t)
	smallChange(t, inside(r.src))
	r.capture(t)
	r.ship(t)
	kills := 0
	// Each child gets one step further than the one before, over what that left.
	for n := 0; ; n++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "APPLY_KILL_DIR="+r.dir, "APPLY_KILL_STEP="+strconv.Itoa(n))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err == nil {
			break
		}
		if !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("step %d: %v\n%s", n, err, out)
		}
		kills++
	}
	if kills < 20 {
		t.Errorf("only %d steps", kills)
	}
	r.reopen(t)
	at, err := r.applier.Applied()
	if err != nil || at != r.base.ID {
		t.Fatalf("applied %s, %v", at, err)
	}
	treetest.Same(t, r.src, r.dst)
}
