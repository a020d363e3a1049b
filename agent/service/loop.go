package service

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// loop owns the one goroutine of background work that a role has.
type loop struct {
	mu     sync.Mutex // guards what follows
	cancel context.CancelFunc
	done   chan struct{}
	quit   chan struct{} // closed: end when the work in hand is done
	wake   chan struct{}
}

// start begins the work; a loop that runs is stopped first.
func (l *loop) start(work func(ctx context.Context, quit, wake <-chan struct{})) {
	l.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done, quit, wake := make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	l.cancel, l.done, l.quit, l.wake = cancel, done, quit, wake
	go func() {
		defer close(done)
		work(ctx, quit, wake)
	}()
}

// finish lets the work in hand end by itself, for so long, and stops it then: a
// shipment that is cut short costs its connection, which the hand-over needs next.
func (l *loop) finish(patience time.Duration) {
	l.mu.Lock()
	quit, done := l.quit, l.done
	l.quit = nil
	l.mu.Unlock()
	if quit != nil && done != nil {
		close(quit)
		select {
		case <-done:
		case <-time.After(patience):
		}
	}
	l.stop()
}

// stop ends the work and waits for it. It may be called when nothing runs.
func (l *loop) stop() {
	l.mu.Lock()
	cancel, done := l.cancel, l.done
	l.cancel, l.done = nil, nil
	l.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}

// poke asks the work to look now instead of at its next interval.
func (l *loop) poke() {
	l.mu.Lock()
	wake := l.wake
	l.mu.Unlock()
	select {
	case wake <- struct{}{}:
	default: // it is asked already, or nothing runs (a nil channel)
	}
}

// Name is the service's name: its resource in Pacemaker.
func (s *Service) Name() string { return s.name }

// Poke tells the service that something may be new: a commit, a peer's state.
func (s *Service) Poke() { s.loop.poke() }

// Changed tells the service that a container of it was changed or has ended.
func (s *Service) Changed() {
	s.containersChanged.Store(true)
	s.loop.poke()
}

// Role is the service's role on this node.
func (s *Service) Role() api.Role { return s.snapshot().Role }

// Spec is the service as it was ordered last, with all that its workload comes to.
func (s *Service) Spec() api.Spec { return s.snapshot().Spec }

// Has says whether the container is one of the service's.
func (s *Service) Has(container string) bool {
	return slices.Contains(s.snapshot().Spec.Containers, container)
}
