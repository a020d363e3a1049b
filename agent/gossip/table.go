package gossip

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/understudy-ha/understudy/agent/api"
)

// newer tells whether state a replaces b. Two states with the same three
// numbers are the same state: a node gives each of its states its own.
func newer(a, b api.NodeStatus) bool {
	return cmp.Or(
		cmp.Compare(a.Incarnation, b.Incarnation),
		cmp.Compare(a.Seq, b.Seq),
		cmp.Compare(a.At, b.At),
	) > 0
}

// table is what is known of the configured peers.
type table struct {
	mu    sync.Mutex
	peers map[string]*entry // guarded by mu; the keys never change
}

// entry is what is known of one peer.
type entry struct {
	state   api.NodeStatus   // Incarnation 0: none yet
	seen    time.Time        // when it was heard last; zero: never
	member  *memberlist.Node // while it is alive: our own copy, since memberlist changes its own
	addr    string           // of the member, also when it is dead
	allowed []netip.AddrPort // where the configuration says it is; none: not known yet
	foreign *header          // set while the peer speaks another version
	clock   clock
}

func newTable(peers []Peer) *table {
	t := &table{peers: map[string]*entry{}}
	for _, p := range peers {
		e := &entry{}
		if host, port, err := p.hostPort(); err == nil {
			if ip, err := netip.ParseAddr(host); err == nil {
				e.allowed = []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), port)}
			}
		}
		t.peers[p.Name] = e
	}
	return t
}

func (t *table) has(name string) bool { return t.peers[name] != nil }

// merge takes in a state and tells whether it is news. That it was heard
// counts in any case.
func (t *table) merge(s api.NodeStatus, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.peers[s.Node]
	if e == nil {
		return false
	}
	e.seen = now
	if !newer(s, e.state) {
		return false
	}
	e.state, e.foreign = s, nil
	return true
}

// setForeign notes that a peer speaks another version; true the first time.
func (t *table) setForeign(h header, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.peers[h.Node]
	if e == nil {
		return false
	}
	e.seen = now
	first := e.foreign == nil || *e.foreign != h
	e.foreign = &h
	return first
}

// setMember notes that a peer lives, and where, or with nil that it does not;
// true when its being alive has changed.
func (t *table) setMember(name string, n *memberlist.Node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.peers[name]
	if e == nil {
		return false
	}
	was := e.member != nil
	e.member = n
	if n != nil {
		e.addr = n.Address()
	}
	return was != (n != nil)
}

// setAllowed notes what a peer's host name stands for now.
func (t *table) setAllowed(name string, addrs []netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peers[name].allowed = addrs
}

// allows tells whether a peer may be at an address. Without this, a machine
// that was given the peer's name by mistake would take its place whenever the
// peer is down.
func (t *table) allows(name string, at netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	allowed := t.peers[name].allowed
	return len(allowed) == 0 || slices.Contains(allowed, at)
}

// isFrom tells whether a message comes from the configured peer, and not from
// another machine with the same name.
func (t *table) isFrom(h header) bool {
	at, err := netip.ParseAddrPort(h.Addr)
	if err != nil || !t.allows(h.Node, netip.AddrPortFrom(at.Addr().Unmap(), at.Port())) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.peers[h.Node].addr
	return known == "" || known == h.Addr
}

// member is a living peer, not to be changed; nil if it is not there.
func (t *table) member(name string) *memberlist.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.peers[name]; e != nil {
		return e.member
	}
	return nil
}

// incarnations are those known, by peer.
func (t *table) incarnations() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]int64{}
	for name, e := range t.peers {
		if e.state.Incarnation != 0 {
			out[name] = e.state.Incarnation
		}
	}
	return out
}

// view is one peer as a reader is to see it.
func (t *table) view(name string, now time.Time) api.NodeStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers[name].view(name, now)
}

func (e *entry) view(name string, now time.Time) api.NodeStatus {
	s := e.state
	s.Node = name
	// Readers get their own services, so that they may sort or change them.
	s.Services = slices.Clone(s.Services)
	if e.foreign != nil {
		// What it said when it still spoke our version is not true any more.
		s = api.NodeStatus{Node: name, Version: e.foreign.Version, Software: e.foreign.Software}
	}
	s.Alive = e.member != nil
	if !e.seen.IsZero() {
		s.SeenAgo = api.Duration(now.Sub(e.seen))
	}
	if c, ok := e.clock.best(now); ok {
		s.ClockOffset = api.Duration(c.offset)
	}
	return s
}

// all are all peers, by name.
func (t *table) all(now time.Time) []api.NodeStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]api.NodeStatus, 0, len(t.peers))
	for name, e := range t.peers {
		out = append(out, e.view(name, now))
	}
	slices.SortFunc(out, func(a, b api.NodeStatus) int { return cmp.Compare(a.Node, b.Node) })
	return out
}
