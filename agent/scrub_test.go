package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// notes is a service that only listens.
type notes struct {
	mu    sync.Mutex
	lines []string
	tree  string
}

func (*notes) Name() string { return "wiki" }
func (n *notes) Roots(context.Context) (map[string]string, error) {
	return map[string]string{"data": n.tree}, nil
}
func (*notes) KeepForeign() {}
func (n *notes) Scrubbed(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

// scrubRig is a scrubber of a store with some packs.
func scrubRig(t *testing.T, rate int64, set ...func(*scrubber)) (c *scrubber, busy *atomic.Bool, stop func()) {
	t.Helper()
	s := newShelf(t)
	for i := range 5 {
		s.write("file", fmt.Sprint("text ", i))
		s.seal()
	}
	busy = &atomic.Bool{}
	c = newScrubber(&notes{tree: s.tree}, s.engine, 0, rate, busy.Load, s.Logger)
	for _, change := range set {
		change(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.start(ctx)
	stop = sync.OnceFunc(func() { cancel(); c.wait() })
	t.Cleanup(stop)
	return c, busy, stop
}

func await(t *testing.T, c *scrubber, what string, ok func(api.ScrubStatus) bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok(c.status()) {
			return
		}
	}
	t.Fatalf("never %s: %+v", what, c.status())
}

// TestScrubStandsStill while an operation is under way on the node, and goes on after it.
func TestScrubStandsStill(t *testing.T) {
	c, busy, _ := scrubRig(t, 0)
	busy.Store(true)
	c.ask()
	c.ask()
	time.Sleep(300 * time.Millisecond)
	if st := c.status(); !st.Running || st.Packs > 0 {
		t.Errorf("during a takeover: %+v", st)
	}
	busy.Store(false)
	await(t, c, "done", func(st api.ScrubStatus) bool { return !st.Running && st.Packs == 5 && !st.Ended.IsZero() })
}

// TestAskedScrubReplacesASlowOne, from its beginning, and none outlives the agent.
func TestAskedScrubReplacesASlowOne(t *testing.T) {
	c, _, stop := scrubRig(t, 1) // a byte a second: this round would never end
	c.now <- struct{}{}
	await(t, c, "begun", func(st api.ScrubStatus) bool { return st.Running })
	c.ask()
	await(t, c, "done", func(st api.ScrubStatus) bool { return !st.Running && st.Packs == 5 && st.Error == "" })
	c.now <- struct{}{}
	await(t, c, "begun again", func(st api.ScrubStatus) bool { return st.Running })
	stop()
	if st := c.status(); st.Running || st.Error != "" {
		t.Errorf("after the end: %+v", st)
	}
}

// TestScrubOfItsOwnAccord: when it is due, and not while the node has something better to do.
func TestScrubOfItsOwnAccord(t *testing.T) {
	var looks atomic.Int64
	var better atomic.Bool
	better.Store(true)
	c, _, stop := scrubRig(t, 0, func(c *scrubber) {
		c.every, c.look = time.Hour, time.Millisecond
		c.busy = func() bool { looks.Add(1); return better.Load() }
	})
	for looks.Load() < 20 {
		time.Sleep(time.Millisecond)
	}
	if st := c.status(); st.Running || st.Packs > 0 {
		t.Errorf("during a takeover: %+v", st)
	}
	better.Store(false)
	await(t, c, "done", func(st api.ScrubStatus) bool { return !st.Running && st.Packs == 5 && !st.Ended.IsZero() })
	stop()
	if c.due() {
		t.Error("due just after one")
	}
	if c.every = time.Nanosecond; !c.due() {
		t.Error("not due when its time is over")
	}
	if c.every = 0; c.due() {
		t.Error("due although it is only to be when asked")
	}
}

// TestScrubKeepsItsRate: a slow machine takes longer, none is faster.
func TestScrubKeepsItsRate(t *testing.T) {
	c := &scrubber{rate: 1 << 20, busy: func() bool { return false }}
	pace, began := c.pace(t.Context(), false), time.Now()
	for range 16 {
		if err := pace(16 << 10); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 230*time.Millisecond { // 250, but for what is not worth a sleep yet
		t.Errorf("256 KiB at 1 MiB/s took %s", took)
	}
}

// TestPacksAreWrittenAnew by the scrubber's side, without a round being due.
func TestPacksAreWrittenAnew(t *testing.T) {
	s := newShelf(t)
	for i := range 260 {
		s.write("letter"+strconv.Itoa(i), fmt.Sprint("letter ", i))
		s.seal()
	}
	packs := func() []string {
		names, err := filepath.Glob(filepath.Join(s.engine.Store().Dir(), "packs", "*.pack"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	for _, p := range packs() {
		old := time.Now().Add(-2 * time.Hour)
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	c := newScrubber(&notes{tree: s.tree}, s.engine, 0, 0, func() bool { return false }, s.Logger)
	c.look = time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	c.start(ctx)
	defer c.wait()
	defer cancel()
	for end := time.Now().Add(time.Minute); len(packs()) > 1 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if n := len(packs()); n != 1 {
		t.Errorf("%d packs are left of 260", n)
	}
}
