package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// consistently fills in what makes a capture of running containers be of one
// instant, as the service's parameters want it.
func (s *Service) consistently(q *replication.SealRequest, spec api.Spec) {
	switch spec.Consistency {
	case api.ConsistencyNone:
		q.Loose = true
		return
	case api.ConsistencyHooks:
		q.Quiesce = func(ctx context.Context) (func() error, error) { return s.beforeCapture(ctx, spec) }
	}
	q.Freezer = s.Procs.Freezer(s.name, spec.Containers, q.FreezeMax)
}

// An application that before-capture has locked stays so until after-capture ran. So the
// mark Quiesced is durable before the one and goes when the other has succeeded; while it
// is there, after-capture is owed: settle runs it again and again, also in an agent that
// was started since, and no capture comes in between. It goes with the containers, too:
// what held in them ended with them (see persist).

// beforeCapture asks the application to make its data ready. One capture does so at a time.
func (s *Service) beforeCapture(ctx context.Context, spec api.Spec) (resume func() error, err error) {
	if len(s.snapshot().Quiesced) > 0 && !s.bothFailed() {
		return nil, api.Errorf(api.KindGeneric, "understudy status says why it fails; consistency=frozen captures without it",
			"service %s: nothing is captured while after-capture has not succeeded since the last capture", s.name)
	}
	s.hooks.Lock()
	if err := s.owe(spec.AfterCapture); err != nil {
		s.hooks.Unlock()
		return nil, err
	}
	s.Crash("hooks:before")
	// Also when the agent is being stopped: it may be long until the next one runs.
	resume = func() error {
		defer s.hooks.Unlock()
		err := s.afterCapture(context.WithoutCancel(ctx), spec.AfterCapture, spec)
		if err != nil {
			signal(s.owed)
		}
		return err
	}
	if err := s.hook(ctx, "before-capture", spec.BeforeCapture, spec); err != nil {
		// It may have got half of its way: what undoes it runs too. Where that fails as well there may be
		// nothing to undo, and the next capture tries both again.
		err = errors.Join(err, resume())
		s.mu.Lock()
		s.failed.both = s.failed.times > 0
		s.mu.Unlock()
		return nil, err
	}
	s.Crash("hooks:between")
	return resume, nil
}

// owe makes durable that the command has to run. Without one nothing has to.
func (s *Service) owe(command []string) error {
	if len(command) == 0 {
		return nil
	}
	s.mu.Lock()
	s.failed = failedHook{}
	s.mu.Unlock()
	return s.persist(func(r *record) { r.Quiesced = command })
}

// afterCapture runs the command, and takes the mark away when it has succeeded. Whoever
// calls it holds s.hooks.
func (s *Service) afterCapture(ctx context.Context, command []string, spec api.Spec) error {
	err := s.hook(ctx, "after-capture", command, spec)
	if err == nil && len(command) > 0 {
		s.Crash("hooks:after")
		err = s.persist(func(r *record) { r.Quiesced = nil })
	}
	if ctx.Err() != nil {
		return err // it was us who ended it
	}
	s.mu.Lock()
	times := s.failed.times
	if err != nil {
		s.failed = failedHook{times: times + 1, both: s.failed.both, command: command, last: err}
	}
	s.mu.Unlock()
	if err == nil && times > 0 {
		s.decide(api.EventReplication, s.snapshot().Term, "after-capture has succeeded; it had failed, times: %d", times)
	}
	return err
}

// failedHook is an after-capture that failed, and how often it did so since its capture.
type failedHook struct {
	times   int
	both    bool // before-capture had failed
	command []string
	last    error
}

// bothFailed: after-capture is owed, of a capture whose before-capture had failed, too. What that left is not known.
func (s *Service) bothFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed.both
}

// hookWarningLocked is what status says of it; s.mu is held.
func (s *Service) hookWarningLocked() string {
	f := s.failed
	if f.times == 0 || len(s.rec.Quiesced) == 0 {
		return ""
	}
	return fmt.Sprintf("service %s: after-capture=%q has failed since the last capture (times: %d): what before-capture did in the container may still hold there, and with consistency=hooks nothing is captured. "+
		"It is run again every %s until it succeeds, as it has to also where there is nothing to undo: mend what makes it fail, or have after-capture name a command that works. It failed with: %v",
		s.name, strings.Join(f.command, " "), f.times, time.Duration(againMost), f.last)
}

// Between two tries of an after-capture that fails.
const (
	againFirst = time.Second
	againMost  = 10 * time.Second
)

// startSettling runs after-capture while it is owed. stop ends that, also in the middle.
func (s *Service) startSettling(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	if rec := s.snapshot(); len(rec.Quiesced) > 0 {
		s.decide(api.EventReplication, rec.Term, "after-capture has not succeeded since the last capture: it is run until it does")
		signal(s.owed)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.owed:
				s.settle(ctx)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// settle runs after-capture until it has succeeded.
func (s *Service) settle(ctx context.Context) {
	for pause := againFirst; !s.settled(ctx); pause = min(2*pause, againMost) {
		select {
		case <-ctx.Done():
			return
		case <-s.owed: // another command, perhaps
		case <-s.after(pause):
		}
	}
}

// settled runs after-capture if it is owed, and says whether it is no longer. The
// parameters may name another command by now, one that works; where they name none, it
// is the one that was owed.
func (s *Service) settled(ctx context.Context) bool {
	if len(s.snapshot().Quiesced) == 0 {
		return true
	}
	s.hooks.Lock() // a capture under way runs it itself
	defer s.hooks.Unlock()
	select {
	case <-s.owed: // of that capture, or of parameters that are looked at now
	default:
	}
	rec := s.snapshot()
	command := rec.Spec.AfterCapture
	if len(command) == 0 {
		command = rec.Quiesced
	}
	return len(rec.Quiesced) == 0 || s.afterCapture(ctx, command, rec.Spec) == nil
}

// hook runs one of the two commands, in its time.
func (s *Service) hook(ctx context.Context, name string, command []string, spec api.Spec) error {
	if len(command) == 0 {
		return nil
	}
	limit := spec.HookTimeout
	if limit <= 0 {
		limit = api.DefaultHookTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(limit))
	defer cancel()
	if err := s.Runtime.Exec(ctx, command[0], command[1:]); err != nil {
		return api.Errorf(api.KindGeneric, "run it by hand with podman exec, or write consistency=frozen", "%s of service %s: %w", name, s.name, err)
	}
	return nil
}
