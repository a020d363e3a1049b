package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/config"
	"github.com/understudy-ha/understudy/agent/service"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/wire"
)

// After a failed connection a peer is left alone for a while, longer each time:
// a node that is down must not cost a connection attempt in every cycle.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
	// finalTime is how long a hand-over tries to get its last generation across.
	finalTime = 5 * time.Second
)

// peers ships services' stores to the configured peers.
type peers struct {
	list    []*peer
	engines func(service string) (*engine.Engine, error)
	spool   string // where images are exported to
	log     *slog.Logger
}

// peer is one of them. Each service has a connection of its own for data, so that one's
// first synchronisation does not hold up another; images have one besides.
type peer struct {
	name    string
	options wire.ClientOptions
	bulk    *link
	sent    map[string]time.Time // image ID → when it was sent; used with bulk held

	mu   sync.Mutex // guards data
	data map[string]*link
}

// link is the service's connection.
func (p *peer) link(service string) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.data[service]
	if !ok {
		l = newLink(p.options)
		p.data[service] = l
	}
	return l
}

func (p *peer) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.bulk.close()
	for _, l := range p.data {
		err = errors.Join(err, l.close())
	}
	return err
}

var _ service.Peers = (*peers)(nil)

func newPeers(c *config.Config, engines func(string) (*engine.Engine, error), log *slog.Logger) *peers {
	p := &peers{engines: engines, spool: filepath.Join(c.Store, "spool"), log: log}
	for _, cp := range c.Peers {
		o := wire.ClientOptions{
			Addr: net.JoinHostPort(cp.Address, strconv.Itoa(cp.SSHPort)), Name: cp.Name, User: c.SSH.User,
			KeyFile: c.SSH.KeyFile, KnownHosts: c.SSH.KnownHosts, Timeout: 5 * time.Second, Logger: log,
		}
		p.list = append(p.list, &peer{name: cp.Name, options: o, bulk: newLink(o), sent: map[string]time.Time{}, data: map[string]*link{}})
	}
	return p
}

// each asks every peer at once and collects their answers.
func (p *peers) each(ask func(*peer) error) map[string]error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	results := make(map[string]error, len(p.list))
	for _, one := range p.list {
		wg.Go(func() {
			err := ask(one)
			mu.Lock()
			defer mu.Unlock()
			results[one.name] = err
		})
	}
	wg.Wait()
	return results
}

// Ship brings each peer's store up to ours.
func (p *peers) Ship(ctx context.Context, name string) map[string]error {
	e, err := p.engines(name)
	return p.each(func(one *peer) error {
		if err != nil {
			return err
		}
		return one.link(name).use(ctx, func(c *wire.Client) error {
			report, err := wire.NewShipper(wire.ShipperOptions{Source: e.Store(), Logger: p.log}).Ship(ctx, c)
			if err == nil && report.Generations > 0 {
				p.log.Debug("shipped", "service", name, "peer", one.name, "head", report.Peer.Head, "generations", report.Generations,
					"bytes", report.Bytes, "took", report.Took)
			}
			return err
		})
	})
}

// ShipFinal is Ship for a hand-over: it tries again for a while, also what failed a
// moment ago. A refusal does not get better, and a peer that is down is not waited for.
func (p *peers) ShipFinal(ctx context.Context, name string) map[string]error {
	ctx = context.WithValue(ctx, urgent{}, true)
	end := time.Now().Add(finalTime)
	for {
		results := p.Ship(ctx, name)
		again := len(results) > 0
		for _, err := range results {
			if err == nil || errors.Is(err, replication.ErrStaleTerm) || errors.Is(err, replication.ErrWrongParent) || errors.Is(err, wire.ErrNoService) {
				again = false
			}
		}
		if !again || ctx.Err() != nil || time.Now().After(end) {
			return results
		}
		select {
		case <-ctx.Done():
		case <-time.After(firstPause):
		}
	}
}

// Close ends the connections.
func (p *peers) Close() error {
	var errs []error
	for _, one := range p.list {
		errs = append(errs, one.close())
	}
	return errors.Join(errs...)
}

// link is a connection that is made when it is needed and kept. Whoever has taken
// from free may use what is below it.
type link struct {
	options wire.ClientOptions
	free    chan struct{}

	client *wire.Client
	pause  time.Duration
	until  time.Time // no attempt before
	last   error
}

func newLink(o wire.ClientOptions) *link {
	l := &link{options: o, free: make(chan struct{}, 1)}
	l.free <- struct{}{}
	return l
}

// use runs f with a connection. A connection that failed is made anew the next time.
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
	select {
	case <-c.Done():
		l.client = nil
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
	if time.Now().Before(l.until) && ctx.Value(urgent{}) == nil {
		return nil, l.last
	}
	c, err := wire.Dial(ctx, l.options)
	if err != nil {
		if ctx.Err() == nil { // our own hurry is not the peer's fault
			l.pause = min(max(2*l.pause, firstPause), longestPause)
			l.until, l.last = time.Now().Add(l.pause), err
		}
		return nil, err
	}
	l.client, l.pause, l.until = c, 0, time.Time{}
	return c, nil
}

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
