package cgroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// ErrExpired is what Thaw returns when the freeze had ended by itself: what was
// read under it is not of one instant and must be dropped.
var ErrExpired = errors.New("the containers were thawed before the capture was done, because the freeze had reached its bound or its guard had died")

// FreezerOptions set a Freezer up.
type FreezerOptions struct {
	Dir   string         // of the records, on a file system that a reboot empties: /run/understudy/freeze
	Guard func() *Guard  // the running guard, nil when there is none; asked before each freeze
	Log   *slog.Logger   // nil: nowhere
	Host  *Host          // for For; nil: this machine
	hook  func(s string) // tests: called between the steps
}

// Freezer stops services' containers, each for a bounded time. Services may be
// frozen concurrently, each of them once at a time.
type Freezer struct {
	opts FreezerOptions
	mu   sync.Mutex
	held map[string][]string // service → cgroups frozen by us
}

// NewFreezer makes a Freezer. Call [ThawAll] on its directory first: what a
// killed agent left frozen must not be found by the first capture.
func NewFreezer(o FreezerOptions) *Freezer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Host == nil {
		o.Host = NewHost(Options{Log: o.Log})
	}
	if o.hook == nil {
		o.hook = func(string) {}
	}
	return &Freezer{opts: o, held: map[string][]string{}}
}

// FreezeRequest names what to stop and for how long at most.
type FreezeRequest struct {
	Service string
	Cgroups []string
	Max     time.Duration // from before the first one is stopped
}

// Freeze is a freeze under way.
type Freeze struct {
	At      time.Time // all stood still then
	f       *Freezer
	req     FreezeRequest
	ours    []string // those that were not frozen already, by `podman pause` say
	guard   *Guard
	token   uint64
	started time.Time
	done    chan struct{} // closed by Thaw
	ended   chan struct{} // closed when the watcher is gone
	once    sync.Once
	expired bool // guarded by ended
	err     error
}

// Freeze returns when every process of the cgroups stands still. It stops
// nothing without a guard that has said it will end the freeze. The caller must
// call Thaw. When it returns an error nothing is frozen by it; a
// [replication.StoodStill] says for how long some of it was.
func (f *Freezer) Freeze(ctx context.Context, req FreezeRequest) (*Freeze, error) {
	z := &Freeze{f: f, req: req, done: make(chan struct{}), ended: make(chan struct{})}
	if err := z.begin(); err != nil {
		return nil, fmt.Errorf("freeze service %s: %w", req.Service, err)
	}
	z.started = time.Now()
	ctx, cancel := context.WithDeadline(ctx, z.started.Add(req.Max))
	defer cancel()
	err := z.stop(ctx)
	if err != nil {
		err = errors.Join(err, z.end())
		close(z.ended)
		return nil, &replication.StoodStill{For: time.Since(z.started), Err: fmt.Errorf("freeze service %s: %w", req.Service, err)}
	}
	z.At = time.Now()
	go z.watch()
	return z, nil
}

// begin claims the service, writes the record and has the guard acknowledge.
func (z *Freeze) begin() error {
	f := z.f
	if z.req.Max <= 0 || len(z.req.Cgroups) == 0 {
		return fmt.Errorf("nothing to freeze: %d cgroups for %v", len(z.req.Cgroups), z.req.Max)
	}
	if z.guard = f.opts.Guard(); z.guard == nil {
		return api.Errorf(api.KindUnavailable, "restart the agent if this stays", "the freeze guard is not running, and without it a killed agent would leave the containers frozen")
	}
	for _, c := range z.req.Cgroups {
		already, err := wantsFrozen(c)
		if err != nil {
			return err
		}
		if !already {
			z.ours = append(z.ours, c)
		}
	}
	f.mu.Lock()
	_, busy := f.held[z.req.Service]
	if !busy {
		f.held[z.req.Service] = z.ours
	}
	f.mu.Unlock()
	if busy {
		return api.Errorf(api.KindBusy, "", "a freeze of service %s is under way", z.req.Service)
	}
	err := writeRecord(f.opts.Dir, record{Service: z.req.Service, Cgroups: z.ours, Deadline: time.Now().Add(z.req.Max)})
	if err == nil {
		f.opts.hook("recorded")
		z.token, err = z.guard.arm(z.ours, z.req.Max, recordPath(f.opts.Dir, z.req.Service))
	}
	if err != nil {
		return errors.Join(err, z.release())
	}
	f.opts.hook("armed")
	return nil
}

// stop freezes all, then waits for all: they come to a stand side by side.
func (z *Freeze) stop(ctx context.Context) error {
	for _, c := range z.ours {
		if err := freeze(c); err != nil {
			return fmt.Errorf("freeze cgroup %s: %w", c, err)
		}
		z.f.opts.hook("frozen")
	}
	for _, c := range z.req.Cgroups {
		if err := awaitFrozen(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// watch ends the freeze when its time is up or its guard dies.
func (z *Freeze) watch() {
	defer close(z.ended)
	timer := time.NewTimer(time.Until(z.started.Add(z.req.Max)))
	defer timer.Stop()
	select {
	case <-z.done:
		return
	case <-timer.C:
	case <-z.guard.Done():
	}
	z.expired = true
	z.f.opts.Log.Warn("freeze ended before the capture was done", "service", z.req.Service, "max", z.req.Max)
	if err := thawAll(z.ours); err != nil {
		z.f.opts.Log.Error("thaw", "service", z.req.Service, "err", err)
	}
}

// Thaw lets the containers run again. It may be called twice and returns the
// same. ErrExpired means that they ran before Thaw was called.
func (z *Freeze) Thaw() error {
	z.once.Do(func() {
		close(z.done)
		<-z.ended
		late := z.expired || time.Since(z.started) >= z.req.Max
		for _, c := range z.ours {
			// Somebody else, or the guard by its own clock, may have been first.
			late = late || !isFrozen(c)
		}
		z.err = z.end()
		if late {
			z.err = errors.Join(z.err, ErrExpired)
		}
	})
	return z.err
}

// end thaws and stands the guard down. What cannot be thawed stays recorded and
// guarded.
func (z *Freeze) end() error {
	if err := thawAll(z.ours); err != nil {
		return err
	}
	z.f.opts.hook("thawed")
	z.guard.disarm(z.token)
	return z.release()
}

func (z *Freeze) release() error {
	err := removeRecord(z.f.opts.Dir, z.req.Service)
	z.f.mu.Lock()
	defer z.f.mu.Unlock()
	delete(z.f.held, z.req.Service)
	return err
}

// IsFrozenByUs says whether a cgroup, or one above it, is or is about to be
// frozen by this Freezer: a monitor must not read it as a failure.
func (f *Freezer) IsFrozenByUs(cgroup string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, cgroups := range f.held {
		for _, c := range cgroups {
			if cgroup == c || strings.HasPrefix(cgroup, c+"/") {
				return true
			}
		}
	}
	return false
}

// Frozen says whether a freeze of a service is under way.
func (f *Freezer) Frozen(service string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, held := f.held[service]
	return held
}

// ServiceFreezer freezes the containers of one service.
type ServiceFreezer struct {
	freezer *Freezer
	service string
	names   []string
	max     time.Duration
}

// For makes a service's freezer: each Freeze finds the running containers of
// those names anew, and stops them for at most max.
func (f *Freezer) For(service string, names []string, max time.Duration) *ServiceFreezer {
	return &ServiceFreezer{freezer: f, service: service, names: names, max: max}
}

// Freeze returns when the service's containers stand still; thaw is
// [Freeze.Thaw]. Containers that do not run need no freezing; when none runs,
// thaw does nothing.
func (s *ServiceFreezer) Freeze(ctx context.Context) (thaw func() error, err error) {
	found, _, err := s.freezer.opts.Host.find(s.names, nil)
	if err != nil {
		return nil, err
	}
	var cgroups []string
	for _, c := range found {
		for _, dir := range c.Cgroups {
			if _, err := wantsFrozen(dir); err != nil {
				continue // v1: one of the hierarchies has the freezer
			}
			if alive, err := Alive(dir); err == nil && alive {
				cgroups = append(cgroups, dir)
			}
		}
		if len(c.Cgroups) == 0 && c.Init != 0 {
			return nil, fmt.Errorf("container %s runs without a cgroup and cannot be frozen: run it without --cgroups=disabled", c.Name)
		}
	}
	if len(cgroups) == 0 {
		return func() error { return nil }, nil
	}
	z, err := s.freezer.Freeze(ctx, FreezeRequest{Service: s.service, Cgroups: cgroups, Max: s.max})
	if err != nil {
		return nil, err
	}
	return z.Thaw, nil
}
