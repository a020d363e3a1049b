package agent

import (
	"context"
	"errors"
	"fmt"
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

const (
	// finalTime is how long a hand-over tries to get its last generation across.
	finalTime = 5 * time.Second
	// mendEvery spaces attempts to send a peer what its disk has forgotten.
	mendEvery = 30 * time.Second
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

	mu     sync.Mutex // guards what follows
	data   map[string]*link
	mended map[string]time.Time // service → when it was looked after last
	counts map[string]sent      // service → what was sent
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
	limit := wire.Limit(c.Limits.Bandwidth)
	for _, cp := range c.Peers {
		o := wire.ClientOptions{
			Addr: net.JoinHostPort(cp.Address, strconv.Itoa(cp.SSHPort)), Name: cp.Name, User: c.SSH.User,
			KeyFile: c.SSH.KeyFile, KnownHosts: c.SSH.KnownHosts, Timeout: 5 * time.Second, Limit: limit, Logger: log,
		}
		p.list = append(p.list, &peer{name: cp.Name, options: o, bulk: newLink(o), sent: map[string]time.Time{}, data: map[string]*link{}, mended: map[string]time.Time{}, counts: map[string]sent{}})
	}
	return p
}

// Names lists the configured peers.
func (p *peers) Names() []string {
	var names []string
	for _, one := range p.list {
		names = append(names, one.name)
	}
	return names
}

func (p *peers) find(name string) (*peer, error) {
	for _, one := range p.list {
		if one.name == name {
			return one, nil
		}
	}
	return nil, fmt.Errorf("no [[peer]] of the configuration is called %q", name)
}

// Ship brings a peer's store up to ours, and sends ahead what is packed of the next generation.
func (p *peers) Ship(ctx context.Context, name, to string) error {
	one, err := p.find(to)
	if err != nil {
		return err
	}
	e, err := p.engines(name)
	if err != nil {
		return err
	}
	l := one.link(name)
	return l.use(ctx, func(c *wire.Client) error {
		sh := wire.NewShipper(wire.ShipperOptions{Source: e.Store(), Logger: p.log, Mend: one.mendDue(name)})
		report, err := sh.Ship(ctx, c)
		one.count(name, report)
		if report.Peer.Service != "" && report.Peer.Lacks == nil {
			one.nothingLost(name)
		}
		if err != nil {
			e.Damaged(ctx, err)
			return err
		}
		if report.Generations > 0 {
			p.log.Debug("shipped", "service", name, "peer", one.name, "head", report.Peer.Head, "generations", report.Generations,
				"bytes", report.Bytes, "took", report.Took)
		}
		report, err = sh.Ahead(ctx, c, l.unsent(e.Ahead()))
		if report.Packs > 0 {
			p.log.Debug("sent ahead", "service", name, "peer", one.name, "packs", report.Packs, "bytes", report.Bytes)
		}
		e.Damaged(ctx, err)
		return err
	})
}

// Mend sends a peer what it has lost, and nothing else.
func (p *peers) Mend(ctx context.Context, name, to string) error {
	one, err := p.find(to)
	if err != nil {
		return err
	}
	e, err := p.engines(name)
	if err != nil {
		return err
	}
	return one.link(name).use(ctx, func(c *wire.Client) error {
		sent, err := wire.NewShipper(wire.ShipperOptions{Source: e.Store(), Logger: p.log}).Mend(ctx, c)
		if sent > 0 {
			p.log.Info("sent what the peer had lost", "service", name, "peer", one.name, "files", sent)
		}
		e.Damaged(ctx, err)
		return err
	})
}

// sent is what a peer was sent of a service since the agent began.
type sent struct{ generations, bytes int64 }

func (p *peer) count(service string, r wire.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.counts[service]
	p.counts[service] = sent{of.generations + int64(r.Generations), of.bytes + r.Bytes}
}

// mendDue says whether what the peer has lost is to be sent to it now.
func (p *peer) mendDue(service string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.mended[service]) < mendEvery {
		return false
	}
	p.mended[service] = time.Now()
	return true
}

// nothingLost makes what the peer loses next be sent at once.
func (p *peer) nothingLost(service string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mended, service)
}

// ShipFinal is Ship for a hand-over: it tries again for a while, also what failed a
// moment ago. A refusal does not get better, and a peer that is down is not waited for.
func (p *peers) ShipFinal(ctx context.Context, name string) map[string]error {
	ctx = context.WithValue(ctx, urgent{}, true)
	end := time.Now().Add(finalTime)
	for {
		results := p.shipAll(ctx, name)
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

// shipAll asks every peer at once and collects their answers.
func (p *peers) shipAll(ctx context.Context, name string) map[string]error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	results := make(map[string]error, len(p.list))
	for _, one := range p.list {
		wg.Go(func() {
			err := p.Ship(ctx, name, one.name)
			mu.Lock()
			defer mu.Unlock()
			results[one.name] = err
		})
	}
	wg.Wait()
	return results
}

// Close ends the connections.
func (p *peers) Close() error {
	var errs []error
	for _, one := range p.list {
		errs = append(errs, one.close())
	}
	return errors.Join(errs...)
}
