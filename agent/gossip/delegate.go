package gossip

import (
	"bytes"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/understudy-ha/understudy/agent/api"
)

// delegate is what memberlist calls, from its own goroutines and some of it
// under its locks: nothing here blocks or calls memberlist.
type delegate struct {
	g    *Gossip
	self netip.AddrPort // where we are; the address may be unspecified
}

var (
	_ memberlist.Delegate         = (*delegate)(nil)
	_ memberlist.EventDelegate    = (*delegate)(nil)
	_ memberlist.AliveDelegate    = (*delegate)(nil)
	_ memberlist.ConflictDelegate = (*delegate)(nil)
)

// NodeMeta is version and software.
func (d *delegate) NodeMeta(limit int) []byte { return encodeMeta(d.g.opts.Software, limit) }

// NotifyMsg queues what a peer sent.
func (d *delegate) NotifyMsg(b []byte) { d.g.receive(b) }

// MergeRemoteState queues a peer's state from a push/pull.
func (d *delegate) MergeRemoteState(b []byte, _ bool) { d.g.receive(b) }

// LocalState is our own state as it was published last; none before Start is done.
func (d *delegate) LocalState(bool) []byte {
	d.g.own.Lock()
	defer d.g.own.Unlock()
	return d.g.own.encoded
}

// GetBroadcasts has none: states are sent to each peer directly.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// NotifyJoin notes that a peer is there.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.g.liveness(n.Name, clone(n)) }

// NotifyLeave notes that a peer left or does not answer.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.g.liveness(n.Name, nil) }

// NotifyUpdate notes a living peer's new particulars.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.g.liveness(n.Name, clone(n)) }

// clone copies a node while memberlist's lock is held.
func clone(n *memberlist.Node) *memberlist.Node {
	c := *n
	c.Addr, c.Meta = bytes.Clone(n.Addr), bytes.Clone(n.Meta)
	return &c
}

// NotifyAlive lets in the configured peers and nobody else. The error goes to
// memberlist's log; ours has said it better.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.g.opts.Node {
		ip, _ := netip.AddrFromSlice(n.Addr)
		if a := d.self.Addr(); !a.IsUnspecified() && ip.Unmap() != a.Unmap() {
			d.g.complain("another node has this node's name", "node", n.Name, "address", n.Address(),
				"next", "give every node its own name: node in "+api.ConfigPath)
			return fmt.Errorf("%s is this node's own name", n.Name)
		}
		return nil
	}
	if !d.g.table.has(n.Name) {
		d.g.complain("a node that is not a configured peer wants to join: refused", "node", n.Name, "address", n.Address(),
			"next", "name it as a peer in "+api.ConfigPath+", or keep it away: it has this cluster's gossip key")
		return fmt.Errorf("%s is not a configured peer", n.Name)
	}
	ip, _ := netip.AddrFromSlice(n.Addr)
	if !d.g.table.allows(n.Name, netip.AddrPortFrom(ip.Unmap(), n.Port)) {
		d.g.complain("a node with a peer's name is at another address than the configured one: refused", "node", n.Name, "address", n.Address(),
			"next", "give every node its own name; or if it is the peer, make its advertise address and the one configured here the same, in "+api.ConfigPath)
		return fmt.Errorf("%s is not at its configured address", n.Name)
	}
	if m, ok := decodeMeta(n.Meta); ok && m.Version != api.Version {
		d.g.foreign(header{Version: m.Version, Node: n.Name, Software: m.Software})
	}
	return nil
}

// NotifyConflict is told of two living nodes with one name.
func (d *delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.g.complain("two nodes have the same name: the second is ignored", "node", existing.Name,
		"first", existing.Address(), "second", other.Address(),
		"next", "give every node its own name: node in "+api.ConfigPath)
}

// complain logs a warning, and the same one not again for a while.
func (g *Gossip) complain(text string, args ...any) {
	if !g.bridge.heldBack(fmt.Sprint(append([]any{text}, args...)...)) {
		g.log.Warn(text, args...)
	}
}

// receive queues a message. When the queue is full it is dropped: the next
// interval brings a newer one.
func (g *Gossip) receive(b []byte) {
	if len(b) == 0 {
		return
	}
	select {
	case g.inbox <- message{data: bytes.Clone(b), at: time.Now()}:
	default:
		g.complain("gossip comes faster than it can be read; some was dropped")
	}
}

func (g *Gossip) liveness(name string, n *memberlist.Node) {
	if !g.table.setMember(name, n) {
		return
	}
	g.changed(name)
	if n != nil {
		g.log.Info("peer is there", "peer", name)
		poke(g.kick[name]) // it gets our state at once
	} else {
		g.log.Warn("peer is gone, or the network between us is", "peer", name)
	}
}

// foreign notes a peer of another version, and logs that once.
func (g *Gossip) foreign(h header) {
	if !g.table.setForeign(h, time.Now()) {
		return
	}
	g.log.Warn("peer speaks another version of the protocol: what it says is ignored",
		"peer", h.Node, "version", h.Version, "software", h.Software, "ours", api.Version,
		"next", "upgrade the older of the two nodes")
	g.changed(h.Node)
}
