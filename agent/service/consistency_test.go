package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

const (
	lock   = "db flush -all"
	unlock = "db resume"
)

// hooked is testSpec with a command before a capture, and the one that undoes it.
func hooked() api.Spec {
	spec := testSpec
	spec.Consistency, spec.HookTimeout = api.ConsistencyHooks, api.Duration(time.Minute)
	spec.BeforeCapture, spec.AfterCapture = strings.Fields(lock), strings.Fields(unlock)
	return spec
}

// database is an application in a container of the node that lock makes wait for unlock.
type database struct {
	n *node

	mu     sync.Mutex // guards what follows
	locked bool
	ran    []string
	fail   map[string]int // command → how often it fails from here on
	hang   map[string]int // command → how often it does not end by itself
}

func newDatabase(n *node) *database {
	d := &database{n: n, fail: map[string]int{}, hang: map[string]int{}}
	n.exec = d.exec
	return d
}

func (d *database) exec(ctx context.Context, line string) error {
	_, bounded := ctx.Deadline()
	if !bounded || ctx.Err() != nil {
		d.n.t.Errorf("%q is run without a time of its own", line)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ran = append(d.ran, line)
	if line == lock {
		if d.locked {
			d.n.t.Error("a capture is begun while the database is locked by another")
		}
		if rec, err := load(d.n.dir, "registry"); err != nil || len(rec.Quiesced) == 0 {
			d.n.t.Errorf("the database is locked before it is durable that it must be unlocked: %+v, %v", rec, err)
		}
		d.locked = d.fail[lock] == 0 // where it fails it did nothing; where it hangs it got half of its way
	}
	if d.hang[line] > 0 && bounded {
		d.hang[line]--
		<-ctx.Done()
		return ctx.Err()
	}
	if d.fail[line] > 0 {
		d.fail[line]--
		return errors.New("code 1")
	}
	if line != lock {
		d.locked = false
	}
	return nil
}

func (d *database) count(line string) (k int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.ran {
		if r == line {
			k++
		}
	}
	return k
}

// wantUnlocked waits until the database goes on and nothing is owed to it, also for an agent to come.
func (d *database) wantUnlocked() {
	d.n.t.Helper()
	for range 1000 {
		d.mu.Lock()
		locked := d.locked
		d.mu.Unlock()
		if rec, err := load(d.n.dir, "registry"); err == nil && len(rec.Quiesced) == 0 && !locked {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	rec, err := load(d.n.dir, "registry")
	d.n.t.Fatalf("locked: %v, owed: %q (%v), run were %q", d.locked, rec.Quiesced, err, d.ran)
}

func (n *node) write() { n.with(func() { n.tree++ }) }

// activeHooked is an active node that has captured once with both commands.
func activeHooked(t *testing.T) (*node, *Service, *database) {
	t.Helper()
	n := newNode(t)
	d := newDatabase(n)
	s := n.agent()
	for _, a := range []string{api.ActionStart, api.ActionPromote} {
		if err := order(t, s, a, hooked()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Replicate(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.wantUnlocked()
	if d.count(lock) != 1 || d.count(unlock) != 1 {
		t.Fatalf("run were %q", d.ran)
	}
	return n, s, d
}

func owedWarning(s *Service) string {
	for _, w := range s.Status().Warnings {
		if strings.Contains(w, "after-capture=") {
			return w
		}
	}
	return ""
}

// replicate runs a cycle; crashed says whether the agent was killed in it.
func replicate(t *testing.T, s *Service) (crashed bool, err error) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if r != errCrash { //nolint:errorlint // the very value that was thrown
				panic(r)
			}
			crashed = true
		}
	}()
	_, err = s.Replicate(t.Context())
	return false, err
}

var hookSteps = []string{"hooks:before", "hooks:between", "hooks:after"}

// TestKilledInHooks: killed at any point, the agent that comes next unlocks the database, though no file changes.
func TestKilledInHooks(t *testing.T) {
	for _, at := range hookSteps {
		t.Run(at, func(t *testing.T) {
			n, s, d := activeHooked(t)
			s.loop.stop()
			n.write()
			n.with(func() { n.crashAt = at })
			if crashed, err := replicate(t, s); !crashed {
				t.Fatalf("not killed at %s: %v", at, err)
			}
			if rec, err := load(n.dir, "registry"); err != nil || !slices.Equal(rec.Quiesced, strings.Fields(unlock)) {
				t.Fatalf("owed is %q, %v", rec.Quiesced, err)
			}
			before, locks := d.count(unlock), d.count(lock)
			s = n.agent()
			s.Resume()
			d.wantUnlocked()
			n.write()
			if _, err := replicate(t, s); err != nil {
				t.Errorf("the next capture: %v", err)
			}
			wantSealed(t, n)
			s.Close()
			// One for each capture since, and one for the one that was cut short.
			if d.count(unlock)-before != d.count(lock)-locks+1 {
				t.Errorf("run were %q", d.ran)
			}
		})
	}
}

// TestContainersEndWhatIsOwed: with the containers ends what held in them; nothing is run in those that are
// started next.
func TestContainersEndWhatIsOwed(t *testing.T) {
	for _, then := range []string{api.ActionDemote, api.ActionStop, "evicted", "reboot", "restore"} {
		t.Run(then, func(t *testing.T) {
			n, s, d := activeHooked(t)
			old, _ := replica{n}.Head()
			s.loop.stop()
			n.write()
			n.with(func() { n.crashAt = "hooks:between" })
			if crashed, err := replicate(t, s); !crashed {
				t.Fatalf("not killed: %v", err)
			}
			before := d.count(unlock)
			s = n.agent() // nothing in the background: it does not get to it
			d.mu.Lock()
			d.locked = false // as it is in a new process
			d.mu.Unlock()
			n.with(func() {
				if then == "evicted" || then == "reboot" {
					n.noProcess()
				}
			})
			var err error
			switch then {
			case "evicted":
				err = MarkStopped(n.dir, "registry")
			case "reboot":
				if err = s.persist(func(r *record) { r.BootID = "another" }); err == nil {
					s = n.agent()
				}
			case "restore":
				_, _, err = restore(s, old.String())
			default:
				err = order(t, s, then, hooked())
			}
			if err != nil {
				t.Fatal(err)
			}
			if rec, err := load(n.dir, "registry"); err != nil || len(rec.Quiesced) > 0 && then != "restore" {
				t.Errorf("owed is still %q, %v", rec.Quiesced, err)
			}
			for _, a := range []string{api.ActionStart, api.ActionPromote} {
				if then == "restore" {
					break
				}
				if err := order(t, s, a, hooked()); err != nil {
					t.Fatal(err)
				}
			}
			wantActive(t, n, s)
			n.write()
			if _, err := replicate(t, s); err != nil {
				t.Error(err)
			}
			s.Close()
			d.wantUnlocked()
			if locks := d.count(lock) - 2; d.count(unlock) != before+locks {
				t.Errorf("run were %q", d.ran)
			}
		})
	}
}

// TestAfterCaptureIsRunUntilItSucceeds: no file changes, the next capture is far away, and meanwhile none is begun.
func TestAfterCaptureIsRunUntilItSucceeds(t *testing.T) {
	for _, tc := range []struct {
		fails  int
		pauses []time.Duration // seconds
	}{
		{2, []time.Duration{1}},
		{8, []time.Duration{1, 2, 4, 8, 10, 10, 10}},
	} {
		t.Run(fmt.Sprint(tc.fails), func(t *testing.T) {
			n, s, d := activeHooked(t)
			s.loop.stop()
			paused, again := make(chan time.Duration), make(chan time.Time)
			s.after = func(p time.Duration) <-chan time.Time {
				select {
				case paused <- p:
				case <-t.Context().Done():
				}
				return again
			}
			defer s.startSettling(t.Context())()
			d.mu.Lock()
			d.fail[unlock] = tc.fails
			d.mu.Unlock()
			n.write()
			if _, err := replicate(t, s); err == nil || !strings.Contains(err.Error(), "after-capture of service registry") {
				t.Errorf("the capture whose after-capture fails: %v", err)
			}
			for i, want := range tc.pauses {
				if got := <-paused; got != want*time.Second {
					t.Errorf("pause %d is %s, not %d s", i, got, want)
				}
				w := owedWarning(s)
				for _, part := range []string{"service registry", unlock, fmt.Sprintf("times: %d", i+2), "code 1", "mend what makes it fail"} {
					if !strings.Contains(w, part) {
						t.Errorf("status does not say %q: %q", part, w)
					}
				}
				n.write()
				if _, err := replicate(t, s); err == nil || !strings.Contains(err.Error(), "nothing is captured") {
					t.Errorf("a capture while it is owed: %v", err)
				}
				again <- time.Time{}
			}
			d.wantUnlocked()
			n.said(t, "after-capture has succeeded", fmt.Sprint("times: ", tc.fails))
			if w := owedWarning(s); w != "" {
				t.Errorf("it has succeeded, and status says %q", w)
			}
			if d.count(lock) != 2 || d.count(unlock) != 2+tc.fails {
				t.Errorf("run were %q", d.ran)
			}
			if _, err := replicate(t, s); err != nil {
				t.Error(err)
			}
			wantSealed(t, n)
		})
	}
}

// TestBothFail: where before-capture did nothing there may be nothing to undo, and after-capture fails at it. The next
// capture tries both again.
func TestBothFail(t *testing.T) {
	n, s, d := activeHooked(t)
	s.loop.stop()
	s.after = func(time.Duration) <-chan time.Time { return nil }
	defer s.startSettling(t.Context())()
	d.mu.Lock()
	d.fail[lock], d.fail[unlock] = 1, 2 // in the capture, and once more
	d.mu.Unlock()
	n.write()
	if _, err := replicate(t, s); err == nil {
		t.Fatal("both commands failed and the capture did not")
	}
	for range 1000 {
		if strings.Contains(owedWarning(s), "times: 2") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := replicate(t, s); err != nil {
		t.Error(err)
	}
	d.wantUnlocked()
}

// TestAnotherAfterCapture: one that cannot succeed is replaced while it is owed, by another or by none.
func TestAnotherAfterCapture(t *testing.T) {
	another, none := hooked(), testSpec
	another.AfterCapture = strings.Fields("db unlock-by-force")
	for name, tc := range map[string]struct {
		spec api.Spec
		runs string
	}{"another": {another, "db unlock-by-force"}, "none": {none, unlock}} {
		t.Run(name, func(t *testing.T) {
			n, s, d := activeHooked(t)
			s.loop.stop()
			s.after = func(time.Duration) <-chan time.Time { return nil } // only the new parameters wake it
			defer s.startSettling(t.Context())()
			d.mu.Lock()
			d.fail[unlock] = 2 // in the capture, and once more
			d.mu.Unlock()
			n.write()
			if _, err := replicate(t, s); err == nil {
				t.Fatal("the capture's after-capture did not fail")
			}
			for range 1000 {
				if strings.Contains(owedWarning(s), "times: 2") {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			before := d.count(tc.runs)
			if err := order(t, s, api.ActionReload, tc.spec); err != nil {
				t.Fatal(err)
			}
			d.wantUnlocked()
			if d.count(tc.runs) != before+1 {
				t.Errorf("run were %q", d.ran)
			}
		})
	}
}

// TestAHookThatHangs is ended by its time, and after-capture comes nevertheless.
func TestAHookThatHangs(t *testing.T) {
	for _, line := range []string{lock, unlock} {
		t.Run(line, func(t *testing.T) {
			n, s, d := activeHooked(t)
			s.loop.stop()
			if err := s.persist(func(r *record) { r.Spec.HookTimeout = api.Duration(500 * time.Millisecond) }); err != nil {
				t.Fatal(err)
			}
			defer s.startSettling(t.Context())()
			d.mu.Lock()
			d.hang[line] = 1
			d.mu.Unlock()
			before := d.count(unlock)
			head, _ := replica{n}.Head()
			n.write()
			if _, err := replicate(t, s); err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
				t.Errorf("the capture with a command that hangs: %v", err)
			}
			d.wantUnlocked()
			runs := map[string]int{lock: 1, unlock: 2}[line]
			if got := d.count(unlock) - before; got != runs {
				t.Errorf("after-capture was run %d times, not %d: %q", got, runs, d.ran)
			}
			if now, _ := (replica{n}).Head(); (now != head) != (line == unlock) {
				t.Errorf("the head was %s and is %s", head, now)
			}
		})
	}
}

// TestNoCommandAfter: then nothing is owed.
func TestNoCommandAfter(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	spec := hooked()
	spec.AfterCapture = nil
	if err := s.persist(func(r *record) { r.Spec, r.Role = spec, api.RoleActive }); err != nil {
		t.Fatal(err)
	}
	var q replication.SealRequest
	s.Procs = still{}
	s.consistently(&q, spec)
	if err := os.RemoveAll(n.dir); err != nil { // nothing is written either
		t.Fatal(err)
	}
	resume, err := q.Quiesce(t.Context())
	if err != nil || len(s.snapshot().Quiesced) > 0 || resume() != nil {
		t.Errorf("%v, owed: %q", err, s.snapshot().Quiesced)
	}
}

// TestNothingIsLockedUnmarked: where the mark cannot be made durable, before-capture does not run.
func TestNothingIsLockedUnmarked(t *testing.T) {
	n, s, d := activeHooked(t)
	s.loop.stop()
	n.write()
	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := replicate(t, s); err == nil || !strings.Contains(err.Error(), "record cannot be written") || d.count(lock) != 1 {
		t.Errorf("%v; run were %q", err, d.ran)
	}
}

type still struct{ Processes }

func (still) Freezer(string, []string, time.Duration) replication.Freezer { return frozenFor{} }

type frozenFor struct{}

func (frozenFor) Freeze(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}

// What undoes before-capture runs whatever happens, also when the agent is told to
// stop in between, and a failure of either says which and what to do.
func TestHooks(t *testing.T) {
	both := []string{lock, unlock}
	for _, fail := range []string{"", lock, unlock} {
		t.Run("fails: "+fail, func(t *testing.T) {
			n := newNode(t)
			d := newDatabase(n)
			d.fail[fail] = 1
			s := n.agent()
			s.Procs = still{}
			if err := s.persist(func(r *record) { r.Spec, r.Role = hooked(), api.RoleActive }); err != nil {
				t.Fatal(err)
			}
			var q replication.SealRequest
			s.consistently(&q, hooked())
			if q.Freezer == nil || q.Loose {
				t.Error("hooks without a freeze")
			}
			ctx, cancel := context.WithCancel(t.Context())
			resume, err := q.Quiesce(ctx)
			cancel()
			if err == nil {
				err = resume()
			}
			if !slices.Equal(d.ran, both) {
				t.Errorf("run were %q", d.ran)
			}
			if owed := len(s.snapshot().Quiesced) > 0; owed != (fail == unlock) {
				t.Errorf("after-capture is owed: %v", owed)
			}
			if (err != nil) != (fail != "") {
				t.Errorf("error %v", err)
			}
			if fail != "" && !strings.Contains(err.Error(), "-capture of service registry") {
				t.Errorf("it does not say what failed: %v", err)
			}
		})
	}
}

func TestConsistencyNone(t *testing.T) {
	s := &Service{name: "db", Options: Options{Procs: still{}}}
	var q replication.SealRequest
	s.consistently(&q, api.Spec{Consistency: api.ConsistencyNone})
	if !q.Loose || q.Freezer != nil || q.Quiesce != nil {
		t.Errorf("%+v", q)
	}
	q = replication.SealRequest{}
	s.consistently(&q, api.Spec{}) // as an agent of before kept it
	if q.Loose || q.Freezer == nil || q.Quiesce != nil {
		t.Errorf("%+v", q)
	}
}
