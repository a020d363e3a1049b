package service

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// shipping sends to each standby on a goroutine of its own, so that a slow one holds
// up no other.
type shipping struct {
	fresh []chan struct{} // by peer
	wg    sync.WaitGroup
	ended chan struct{} // signalled when a peer was sent to

	mu     sync.Mutex // guards what follows
	sealed int        // generations of its loop since the start
	peers  []progress // by peer
}

// progress is how far a peer is.
type progress struct {
	has     int // of sealed
	sending bool
	failed  bool // the last time
}

func (s *Service) startShipping(ctx context.Context, quit <-chan struct{}) *shipping {
	names := s.Peers.Names()
	sh := &shipping{ended: make(chan struct{}, 1), peers: make([]progress, len(names))}
	for i, peer := range names {
		fresh := make(chan struct{}, 1)
		sh.fresh = append(sh.fresh, fresh)
		sh.wg.Go(func() {
			s.shipLoop(ctx, quit, fresh, peer, func() error {
				return sh.follow(i, func() error { return s.shipTo(ctx, peer) })
			})
		})
	}
	return sh
}

// follow notes how far a peer is when it was sent to.
func (sh *shipping) follow(peer int, send func() error) error {
	sh.mu.Lock()
	sealed := sh.sealed
	p := &sh.peers[peer]
	p.sending = true
	sh.mu.Unlock()
	err := send()
	sh.mu.Lock()
	p.sending = false
	if err == nil {
		p.has = sealed
	}
	p.failed = err != nil
	sh.mu.Unlock()
	signal(sh.ended)
	return err
}

// isNew says that a generation was sealed.
func (sh *shipping) isNew() {
	sh.mu.Lock()
	sh.sealed++
	sh.mu.Unlock()
}

// crowded: one generation more would only wait: the peers that are being sent to have not yet got the one before the last. One
// that could not be sent to does not count until it can again.
func (sh *shipping) crowded() bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	crowded := false
	for _, p := range sh.peers {
		if p.has >= sh.sealed-1 {
			return false
		}
		crowded = crowded || p.sending && !p.failed
	}
	return crowded
}

// paceMost is how long a capture waits for the generations before it to be sent.
const paceMost = 2 * time.Second

// pace waits while it is crowded: what cannot be sent yet only makes the containers stand still, and what can
// be sent come later. Not for long: the history here goes on whatever the standbys do. False: it is time to end.
func (sh *shipping) pace(ctx context.Context, quit <-chan struct{}) bool {
	enough := time.NewTimer(paceMost)
	defer enough.Stop()
	for sh.crowded() {
		select {
		case <-ctx.Done():
			return false
		case <-quit:
			return false
		case <-enough.C:
			return true
		case <-sh.ended:
		}
	}
	return true
}

// now says that there is something new to send. It does not block.
func (sh *shipping) now() {
	for _, c := range sh.fresh {
		signal(c)
	}
}

// wait returns when nothing is sent any more, after ctx ended or quit was closed.
func (sh *shipping) wait() { sh.wg.Wait() }

// shipLoop sends a peer what is new, and what it lacks if it was away.
func (s *Service) shipLoop(ctx context.Context, quit, fresh <-chan struct{}, peer string, send func() error) {
	var images sync.WaitGroup
	ictx, cancel := context.WithCancel(ctx) // an image is not waited for
	defer images.Wait()
	defer cancel()
	sending := make(chan struct{}, 1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-quit:
			return
		case <-fresh:
		}
		_ = send() // it has said so
		select {
		case sending <- struct{}{}: // images do not hold up data
			images.Go(func() { s.shipImages(ictx, peer); <-sending })
		default:
		}
	}
}

// shipTo brings a standby up to the head and keeps what went wrong for status.
func (s *Service) shipTo(ctx context.Context, peer string) error {
	err := s.Peers.Ship(ctx, s.name, peer)
	if ctx.Err() == nil {
		s.peerProblem(peer, err)
	}
	return err
}

func (s *Service) shipImages(ctx context.Context, peer string) {
	s.mu.Lock()
	images := s.defined.Images
	s.mu.Unlock()
	if err := s.Peers.Images(ctx, s.name, peer, images, s.Runtime.ExportImage); err != nil && ctx.Err() == nil {
		s.log.Warn("images cannot be sent", "peer", peer, "error", err)
	}
}

// afterFirst is how long the other standbys may go on when one has it all: cutting a
// shipment short costs its connection.
const afterFirst = time.Second

// shipFirst brings the standbys up to the head and answers with the first that has
// it, or "" and why nobody has.
func (s *Service) shipFirst(ctx context.Context) (first string, failed map[string]error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		peer string
		err  error
	}
	names := s.Peers.Names()
	results := make(chan result, len(names))
	var wg sync.WaitGroup
	for _, peer := range names {
		wg.Go(func() { results <- result{peer, s.shipTo(ctx, peer)} })
	}
	failed = map[string]error{}
	for range names {
		r := <-results
		if r.err == nil {
			first = r.peer
			break
		}
		failed[r.peer] = r.err
	}
	late := time.AfterFunc(afterFirst, cancel)
	defer late.Stop()
	wg.Wait()
	return first, failed
}

// peerProblem keeps whether a peer gets what is new, and notes changes. What only a
// person can settle is an alarm.
func (s *Service) peerProblem(peer string, err error) {
	event, note := api.EventReplication, ""
	s.mu.Lock()
	before, was := s.lagging[peer]
	switch {
	case err == nil && was:
		delete(s.lagging, peer)
		note = peer + " gets what is new again"
	case err != nil:
		text := "does not get what is new: " + err.Error()
		if errors.Is(err, ErrAlarm) {
			event, text = api.EventAlarm, "ALARM: "+peer+" "+text
		} else {
			text = peer + " " + text
		}
		if text != before {
			s.lagging[peer], note = text, text
		}
	}
	s.mu.Unlock()
	if note != "" {
		s.decide(event, s.snapshot().Term, "%s", note)
	}
}
