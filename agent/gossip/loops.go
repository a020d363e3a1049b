package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/understudy-ha/understudy/agent/api"
)

// maxBackoff is the longest wait between two calls to a peer that is away, in
// intervals: a healed network must not wait much longer for us.
const maxBackoff = 5

// clockEvery is the time between clock queries, in intervals.
const clockEvery = 5

// publishLoop makes a new state of this node each interval and when asked.
func (g *Gossip) publishLoop(ctx context.Context) {
	tick := time.NewTicker(g.opts.Interval)
	defer tick.Stop()
	for {
		if err := g.refreshOwn(); err != nil {
			g.log.Error("the local state cannot be sent", "error", err)
		}
		for _, k := range g.kick {
			poke(k)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-g.publish:
		}
	}
}

// refreshOwn asks for the local state and gives it the next number.
func (g *Gossip) refreshOwn() error {
	s := g.opts.Local()
	known := g.table.incarnations()
	g.own.Lock()
	defer g.own.Unlock()
	s.Version, s.Node, s.Software = api.Version, g.opts.Node, g.opts.Software
	s.Incarnation, s.Seq, s.At = g.own.state.Incarnation, g.own.state.Seq+1, time.Now().UnixNano()
	s = asSent(s)
	s.Services = slices.Clone(s.Services)
	b, err := encodeState(stateMessage{header: header{Addr: g.own.addr}, State: s, Known: known})
	if err != nil {
		return err
	}
	g.own.state, g.own.encoded = s, b
	return nil
}

// surpass takes an incarnation greater than one a peer knows of us.
func (g *Gossip) surpass(known int64, peer string) {
	g.own.Lock()
	mine := g.own.state.Incarnation
	if known > mine {
		g.own.state.Incarnation = known + 1
	}
	g.own.Unlock()
	if known > mine {
		g.complain("a peer remembers a later start of this node than this one: the clock was set back, or two nodes have the same name",
			"peer", peer)
		g.Publish()
	}
}

// inboxLoop handles what was received, in order.
func (g *Gossip) inboxLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-g.inbox:
			g.handle(m)
		}
	}
}

func (g *Gossip) handle(m message) {
	body := m.data[1:]
	switch m.data[0] {
	case kindState:
		g.handleState(body, m.at)
	case kindQuery:
		var q clockQuery
		if json.Unmarshal(body, &q) == nil && q.To == g.opts.Node {
			a := clockAnswer{From: g.opts.Node, To: q.From, ID: q.ID, Received: m.at.UnixNano()}
			if n := g.table.member(q.From); n != nil {
				a.Sent = time.Now().UnixNano()
				g.sendDatagram(n, encodeClock(kindAnswer, a))
			}
		}
	case kindAnswer:
		var a clockAnswer
		if json.Unmarshal(body, &a) == nil && a.To == g.opts.Node {
			g.table.mu.Lock()
			if e := g.table.peers[a.From]; e != nil {
				e.clock.answered(a, m.at)
			}
			g.table.mu.Unlock()
		}
	default:
		g.complain("a message of a kind this version does not know was ignored", "kind", m.data[0])
	}
}

func (g *Gossip) handleState(body []byte, at time.Time) {
	m, err := decodeState(body)
	switch {
	case err != nil && !errors.Is(err, errVersion):
		g.complain("a state that cannot be read was ignored", "error", err)
		return
	case m.Node == g.opts.Node:
		g.complain("a state with this node's own name was ignored", "software", m.Software,
			"next", "give every node its own name: node in "+api.ConfigPath)
		return
	case !g.table.has(m.Node):
		g.complain("the state of a node that is not a configured peer was ignored", "node", m.Node,
			"next", "name it as a peer in "+api.ConfigPath)
		return
	case !g.table.isFrom(m.header):
		g.complain("the state of a second node with the same name was ignored", "node", m.Node, "address", m.Addr,
			"next", "give every node its own name: node in "+api.ConfigPath)
		return
	case err != nil: // another version
		g.foreign(m.header)
		return
	}
	if g.table.merge(m.State, at) {
		g.changed(m.Node)
	}
	g.surpass(m.Known[g.opts.Node], m.Node)
}

// changed puts a peer on the list of those OnChange is to be told of.
func (g *Gossip) changed(name string) {
	g.changes.Lock()
	defer g.changes.Unlock()
	if !slices.Contains(g.changes.names, name) && g.table.has(name) {
		g.changes.names = append(g.changes.names, name)
	}
	poke(g.changes.ready)
}

// changesLoop tells OnChange.
func (g *Gossip) changesLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.changes.ready:
		}
		g.changes.Lock()
		names := g.changes.names
		g.changes.names = nil
		g.changes.Unlock()
		for _, n := range names {
			if ctx.Err() != nil {
				return
			}
			g.opts.OnChange(g.table.view(n, time.Now()))
		}
	}
}

// peerLoop calls one peer until it answers, sends it our states while it is
// alive, and asks for its clock. A peer that is slow holds up no other.
func (g *Gossip) peerLoop(ctx context.Context, p Peer) {
	backoff, lastClock := g.opts.Interval, time.Time{}
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.kick[p.Name]:
			n := g.table.member(p.Name)
			if n == nil {
				continue
			}
			g.sendOwn(n)
			if time.Since(lastClock) >= clockEvery*g.opts.Interval || !g.clockKnown(p.Name) {
				lastClock = time.Now()
				g.askClock(n)
			}
		case <-retry.C:
			if g.table.member(p.Name) != nil {
				backoff = g.opts.Interval
				retry.Reset(backoff)
				continue
			}
			if err := g.call(ctx, p); err != nil {
				g.log.Debug("peer does not answer yet", "peer", p.Name, "address", p.Addr, "error", err)
			}
			retry.Reset(backoff*3/4 + rand.N(backoff/2))
			backoff = min(backoff*3/2, maxBackoff*g.opts.Interval)
		}
	}
}

// call asks a peer to exchange states with us, which makes us members of each other.
func (g *Gossip) call(ctx context.Context, p Peer) error {
	host, port, err := p.hostPort()
	if err != nil {
		return err
	}
	// Not memberlist's own look-up: it would ask the name servers itself, and
	// never the hosts file first.
	lookup, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(lookup, "ip", host)
	if err != nil {
		return err
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), port)
	}
	g.table.setAllowed(p.Name, addrs)
	for _, a := range addrs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err = g.members.Join([]string{a.String()}); err == nil {
			return nil
		}
	}
	return err
}

func (g *Gossip) sendOwn(n *memberlist.Node) {
	g.own.Lock()
	b := g.own.encoded
	g.own.Unlock()
	if len(b) <= maxDatagram {
		g.sendDatagram(n, b)
		return
	}
	if err := g.members.SendReliable(n, b); err != nil {
		g.log.Debug("state not sent", "peer", n.Name, "error", err)
	}
}

func (g *Gossip) sendDatagram(n *memberlist.Node, b []byte) {
	if err := g.members.SendBestEffort(n, b); err != nil {
		g.log.Debug("datagram not sent", "peer", n.Name, "error", err)
	}
}

func (g *Gossip) clockKnown(peer string) bool {
	_, _, ok := g.Clock(peer)
	return ok
}

func (g *Gossip) askClock(n *memberlist.Node) {
	id := rand.Uint64()
	g.table.mu.Lock()
	g.table.peers[n.Name].clock.asked(id, time.Now())
	g.table.mu.Unlock()
	g.sendDatagram(n, encodeClock(kindQuery, clockQuery{From: g.opts.Node, To: n.Name, ID: id}))
}
