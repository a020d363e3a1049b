package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/understudy-ha/understudy/agent/service"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

// After a failed connection a peer is left alone for a while, longer each time:
// a node that is down must not cost a connection attempt in every cycle.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
)

// link is a connection that is made when it is needed and kept. Whoever has taken
// from free may use what is below it.
type link struct {
	options wire.ClientOptions
	now     func() time.Time // time.Now, but for tests
	free    chan struct{}

	client *wire.Client
	ahead  map[replication.Hash]struct{} // packs of the generation that is being made, which need not be offered again
	pause  time.Duration
	until  time.Time // no attempt before
	last   error
}

func newLink(o wire.ClientOptions) *link {
	l := &link{options: o, now: time.Now, free: make(chan struct{}, 1)}
	l.free <- struct{}{}
	return l
}

// use runs f with a connection. A connection that failed is made anew the next time, as
// is one whose receiver cannot read what it is sent: what runs there may be older than
// what was installed there since.
func (l *link) use(ctx context.Context, f func(*wire.Client) error) error {
	select {
	case <-l.free:
		defer func() { l.free <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := l.connect(ctx)
	if err != nil {
		return err
	}
	err = f(c)
	if errors.Is(err, replication.ErrFormat) {
		_ = c.Close()
	}
	select {
	case <-c.Done():
		l.client, l.ahead = nil, nil
		_ = c.Close() // it is broken already
	default:
	}
	return err
}

// urgent, in a context, says that a pause after a failed attempt does not count.
type urgent struct{}

func (l *link) connect(ctx context.Context) (*wire.Client, error) {
	if l.client != nil {
		select {
		case <-l.client.Done():
			_ = l.client.Close() // it is broken already
			l.client = nil
		default:
			return l.client, nil
		}
	}
	if l.now().Before(l.until) && ctx.Value(urgent{}) == nil {
		return nil, l.last
	}
	c, err := wire.Dial(ctx, l.options)
	if err != nil {
		if errors.Is(err, wire.ErrHostKey) {
			err = alarm{err}
		}
		if ctx.Err() == nil { // our own hurry is not the peer's fault
			l.pause = min(max(2*l.pause, firstPause), longestPause)
			l.until, l.last = l.now().Add(jittered(l.pause)), err
		}
		return nil, err
	}
	l.client, l.pause, l.until = c, 0, time.Time{}
	return c, nil
}

// unsent are those of the packs that were not offered before over this connection. An
// offer that failed is the connection's end, or comes again with the generation.
func (l *link) unsent(packs []store.PackFile) []store.PackFile {
	if len(packs) == 0 {
		l.ahead = nil
		return nil
	}
	if l.ahead == nil {
		l.ahead = map[replication.Hash]struct{}{}
	}
	var out []store.PackFile
	for _, f := range packs {
		if _, ok := l.ahead[f.Hash]; !ok {
			l.ahead[f.Hash] = struct{}{}
			out = append(out, f)
		}
	}
	return out
}

// jittered is between half of d and d: many services that lost a peer at one instant
// do not all come back at one instant.
func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// alarm is an error that only a person can settle.
type alarm struct{ error }

func (alarm) Is(target error) bool { return target == service.ErrAlarm }

func (a alarm) Unwrap() error { return a.error }

// close waits for whoever uses the link.
func (l *link) close() error {
	<-l.free
	defer func() { l.free <- struct{}{} }()
	if l.client == nil {
		return nil
	}
	err := l.client.Close()
	l.client = nil
	return err
}
