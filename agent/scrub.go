package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication/engine"
)

const (
	scrubLook = time.Minute // how often it is looked whether a round is due
	maxTold   = 20          // findings of a round that the journal gets one by one
)

// errScrubOver ends a round before its time; the next goes on from there.
var errScrubOver = errors.New("ended before its time")

// scrubber looks after one service's store: it has packs written anew, and verifies it and the
// live data: a round from time to time by itself, slowly, or one that an operator asked for, as
// fast as it can. Both stand still while an operation is under way on this node.
type scrubber struct {
	s      scrubbed
	engine *engine.Engine
	every  time.Duration // 0: only when asked
	rate   int64         // bytes per second
	busy   func() bool   // an operation is under way on this node
	log    *slog.Logger
	now    chan struct{} // ask for a round
	done   chan struct{} // nil: not started
	look   time.Duration // between two looks whether a round is due

	mu     sync.Mutex // guards what follows
	asked  bool       // the round under way, or the next, is an operator's
	active bool       // a round is under way
	cancel func()     // it
	err    error      // of the last round
	ended  time.Time  // of the last round that came to its end; zero: there was none
	found  [2]int64   // since the agent began: not mended, mended
}

// scrubbed is the service, as far as a scrub needs it.
type scrubbed interface {
	Name() string
	Roots(ctx context.Context) (map[string]string, error)
	KeepForeign()
	Scrubbed(format string, args ...any)
}

func newScrubber(s scrubbed, e *engine.Engine, every time.Duration, rate int64, busy func() bool, log *slog.Logger) *scrubber {
	return &scrubber{s: s, engine: e, every: every, rate: rate, busy: busy, log: log, now: make(chan struct{}, 1), look: scrubLook, ended: e.LastScrub().Ended}
}

// last is when everything was verified last, Unix ns; 0: never, as far as is known.
func (c *scrubber) last() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.IsZero() {
		return 0
	}
	return c.ended.UnixNano()
}

// start begins to look after the service until ctx ends; wait for done after it.
func (c *scrubber) start(ctx context.Context) {
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		tidied := make(chan struct{})
		go func() {
			defer close(tidied)
			c.tidy(ctx)
		}()
		c.run(ctx)
		<-tidied
	}()
}

// wait returns when what start began has ended.
func (c *scrubber) wait() {
	if c.done != nil {
		<-c.done
	}
}

func (c *scrubber) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.now:
			c.round(ctx)
		case <-time.After(c.look):
			if c.busy() {
				continue
			}
			if err := c.engine.TidyLacks(); err != nil {
				c.log.Warn("it cannot be seen whether what was lost is here again", "error", err)
			}
			if c.due() || c.again() {
				c.round(ctx)
			}
		}
	}
}

// tidy has packs written anew, beside the rounds, which may take days.
func (c *scrubber) tidy(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.look):
		}
		if c.busy() {
			continue
		}
		if err := c.engine.Repack(ctx, c.pace(ctx, false)); err != nil && !errors.Is(err, errScrubOver) {
			c.log.Warn("packs cannot be written anew: what is kept takes more room than it needs", "error", err)
		}
	}
}

// due says whether a round should begin, or go on: one that was asked for and cut short by
// the agent's end is gone on with, too. A clock that was set back does not put it off for years.
func (c *scrubber) due() bool {
	if head, err := c.engine.Head(); err != nil || head.IsZero() {
		return false
	}
	last := c.engine.LastScrub()
	if !last.Began.IsZero() && last.Ended.IsZero() {
		return true
	}
	age := time.Since(last.Ended)
	return c.every > 0 && (last.Ended.IsZero() || age < 0 || age > c.every)
}

// again says whether the live data is to be looked at once more: what it has to be compared
// with was lacking, and is here. (A block that a pack and a live file share is bad in both.)
func (c *scrubber) again() bool { return c.engine.LastScrub().Again && c.engine.Lacks() == 0 }

func (c *scrubber) round(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.active, c.cancel = true, cancel
	asked := c.asked
	c.mu.Unlock()
	began, told := time.Now(), 0
	res, err := c.engine.Scrub(ctx, engine.ScrubOptions{
		Fresh: asked, Live: c.again(),
		Roots: c.s.Roots, Pace: c.pace(ctx, asked), Foreign: func(context.Context, []string) { c.s.KeepForeign() },
		Found: func(f engine.Found) {
			c.count(f.Mended)
			c.log.Error("damage was found", "what", f.What, "repair", f.Repair, "mended", f.Mended)
			if told++; told <= maxTold { // a disk that dies must not push all else out of the journal
				c.s.Scrubbed("%s: %s", f.What, f.Repair)
			}
		},
	})
	if told > maxTold {
		c.s.Scrubbed("and %d more: understudy scrub %s --status lists the latest", told-maxTold, c.s.Name())
	}
	c.mu.Lock()
	c.active = false
	if ctx.Err() == nil {
		c.err = err
	}
	if err == nil {
		c.ended = res.Ended
	}
	if asked {
		c.asked = false
	}
	c.mu.Unlock()
	switch {
	case errors.Is(err, errScrubOver), ctx.Err() != nil:
	case err != nil:
		c.log.Error("the scrub could not go on", "error", err)
		c.s.Scrubbed("the scrub could not go on: %v", err)
	default:
		c.log.Info("scrubbed", "bytes", res.Done, "packs", res.Packs, "live", res.Live, "took", time.Since(began), "asked", asked)
	}
}

func (c *scrubber) count(mended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if mended {
		c.found[1]++
	} else {
		c.found[0]++
	}
}

// findings counts what was found since the agent began, by whether it was mended.
func (c *scrubber) findings() map[bool]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return map[bool]int64{false: c.found[0], true: c.found[1]}
}

// pace holds a round of its own accord to its rate, and any round up while the node has
// something better to do.
func (c *scrubber) pace(ctx context.Context, asked bool) func(int) error {
	var ahead time.Duration
	return func(n int) error {
		for c.busy() {
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return errScrubOver
		}
		if asked || c.rate <= 0 {
			return nil
		}
		ahead += time.Duration(float64(n) / float64(c.rate) * float64(time.Second))
		if ahead < 20*time.Millisecond {
			return nil
		}
		defer func() { ahead = 0 }()
		return sleep(ctx, ahead)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return errScrubOver
	case <-time.After(d):
		return nil
	}
}

// ask begins a round now, in place of a slow one that is under way.
func (c *scrubber) ask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked {
		return // it is under way, or next
	}
	c.asked = true
	if c.active {
		c.cancel()
	}
	c.now <- struct{}{} // has room: nobody else asks
}

// status is what there is to tell.
func (c *scrubber) status() api.ScrubStatus {
	c.mu.Lock()
	running, err := c.active || c.asked, c.err
	c.mu.Unlock()
	last := c.engine.LastScrub()
	st := api.ScrubStatus{
		Service: c.s.Name(), Running: running, Began: last.Began, Ended: last.Ended, Done: last.Done, Total: last.Total,
		Packs: last.Packs, Live: last.Live, LiveAt: last.WasLive, Lacks: c.engine.Lacks(), Found: []api.Damage{},
	}
	if err != nil {
		st.Error = err.Error()
	}
	for _, f := range slices.Backward(last.Found) {
		st.Found = append(st.Found, api.Damage{At: f.At, What: f.What, Repair: f.Repair, Mended: f.Mended})
	}
	return st
}

// Scrub says how the verification of a service stands, after beginning a round where
// begin says so, or after giving up what no node has any more.
func (a *Agent) Scrub(name string, req api.ScrubRequest) (api.ScrubStatus, error) {
	s, err := a.service(name, false)
	if err != nil {
		return api.ScrubStatus{}, err
	}
	if req.GiveUp {
		gone, err := s.engine.GiveUp()
		if err != nil {
			return api.ScrubStatus{}, err
		}
		s.Scrubbed("an operator gave up what no node has any more; generations that went: %v", gone)
	}
	if req.Begin {
		s.scrub.ask()
	}
	return s.scrub.status(), nil
}

// busy says whether an operation is under way on this node.
func (a *Agent) busy() bool {
	return slices.ContainsFunc(a.list(), func(s *running) bool { return s.Busy() })
}
