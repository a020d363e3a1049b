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
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/wire"
)

// After a failed connection a peer is left alone for a while, longer each time:
// a node that is down must not cost a connection attempt in every cycle.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
)

// peers ships services' stores to the configured peers.
type peers struct {
	list    []*peer
	engines func(service string) (*engine.Engine, error)
	spool   string // where images are exported to
	log     *slog.Logger
}

// peer is one of them, with one connection for data and one for images, so that
// a large image does not hold up data.
type peer struct {
	name string
	data *link
	bulk *link
	sent map[string]time.Time // image ID → when it was sent; used with bulk held
}

var _ service.Peers = (*peers)(nil)

func newPeers(c *config.Config, engines func(string) (*engine.Engine, error), log *slog.Logger) *peers {
	p := &peers{engines: engines, spool: filepath.Join(c.Store, "spool"), log: log}
	for _, cp := range c.Peers {
		o := wire.ClientOptions{
			Addr: net.JoinHostPort(cp.Address, strconv.Itoa(cp.SSHPort)), Name: cp.Name, User: c.SSH.User,
			KeyFile: c.SSH.KeyFile, KnownHosts: c.SSH.KnownHosts, Timeout: 5 * time.Second, Logger: log,
		}
		p.list = append(p.list, &peer{name: cp.Name, data: &link{options: o}, bulk: &link{options: o}, sent: map[string]time.Time{}})
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
		return one.data.use(ctx, func(c *wire.Client) error {
			report, err := wire.NewShipper(wire.ShipperOptions{Source: e.Store(), Logger: p.log}).Ship(ctx, c)
			if err == nil && report.Generations > 0 {
				p.log.Debug("shipped", "service", name, "peer", one.name, "head", report.Peer.Head, "generations", report.Generations,
					"bytes", report.Bytes, "took", report.Took)
			}
			return err
		})
	})
}

// Close ends the connections.
func (p *peers) Close() error {
	var errs []error
	for _, one := range p.list {
		errs = append(errs, one.data.close(), one.bulk.close())
	}
	return errors.Join(errs...)
}

// link is a connection that is made when it is needed and kept.
type link struct {
	options wire.ClientOptions

	mu     sync.Mutex // held while the link is in use, guards what follows
	client *wire.Client
	pause  time.Duration
	until  time.Time // no attempt before
	last   error
}

// use runs f with a connection. A connection that failed is made anew the next time.
func (l *link) use(ctx context.Context, f func(*wire.Client) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	if time.Now().Before(l.until) {
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

func (l *link) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == nil {
		return nil
	}
	err := l.client.Close()
	l.client = nil
	return err
}
