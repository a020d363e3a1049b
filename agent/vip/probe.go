package vip

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-ha/understudy/agent/api"
)

// Probe asks the network whether another machine has, or is about to take,
// one of addrs, and returns a [*DuplicateError] for the first that answers.
// All addresses are probed at the same time; without a duplicate it takes
// ProbeCount × ProbeInterval.
//
// An address this node holds already is no duplicate, and is probed like the
// others: if another machine holds it too, that is worth knowing. On another
// interface than the wanted one it is refused, with [api.KindArgs].
// An interface without carrier is an error: nothing could be learned there.
func (m *Manager) Probe(ctx context.Context, addrs []Address) error {
	places, links, err := m.locate(addrs)
	if err != nil {
		return err
	}
	if err := m.refuseElsewhere(places); err != nil {
		return err
	}
	groups := map[probeGroup][]located{}
	for _, a := range places {
		if a.link.Mute {
			continue
		}
		if !a.link.Up {
			return api.Errorf(api.KindGeneric, "check the cable and `ip link show "+a.NIC+"`",
				"interface %s of virtual IP %s is down or has no carrier", a.NIC, a.Prefix)
		}
		g := probeGroup{a.link.Index, a.IP().Is6()}
		groups[g] = append(groups[g], a)
	}
	eg, ctx := errgroup.WithContext(ctx)
	for g, members := range groups {
		eg.Go(func() error { return m.probeOn(ctx, g, members, links) })
	}
	return eg.Wait()
}

// probeGroup is what one socket can probe: one interface, one protocol.
type probeGroup struct {
	index int
	v6    bool
}

// refuseElsewhere refuses addresses that are on another of our own interfaces:
// the same address twice on a node answers from either, with either MAC.
func (m *Manager) refuseElsewhere(addrs []located) error {
	have, err := m.kernel.addrs(0)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		for _, h := range have {
			if h.Prefix.Addr() == a.IP() && h.Index != a.link.Index {
				return api.Errorf(api.KindArgs, "take it away there, or set nic to that interface",
					"virtual IP %s is already on another interface (index %d) of this node, not on %s", a.Prefix, h.Index, a.NIC)
			}
		}
	}
	return nil
}

func (m *Manager) probeOn(ctx context.Context, g probeGroup, addrs []located, links []link) error {
	l := addrs[0].link
	byIP := map[netip.Addr]Address{}
	var ips []netip.Addr
	var frames [][]byte
	for _, a := range addrs {
		byIP[a.IP()] = a.Address
		ips = append(ips, a.IP())
		frames = append(frames, probeFrame(l.MAC, a.IP()))
	}
	w, err := m.kernel.listen(l, g.v6, ips)
	if err != nil {
		return err
	}
	defer w.close()
	for range m.opts.ProbeCount {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.send(frames...); err != nil {
			return err
		}
		if err := awaitClaim(ctx, w, time.Now().Add(m.opts.ProbeInterval), byIP, links); err != nil {
			return err
		}
	}
	return nil
}

// awaitClaim reads until the deadline and returns a DuplicateError when
// a MAC that is none of ours claims one of the addresses.
func awaitClaim(ctx context.Context, w wire, until time.Time, byIP map[netip.Addr]Address, links []link) error {
	atDeadline := error(nil)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until, atDeadline = d, context.DeadlineExceeded
	}
	for {
		f, err := w.recv(until)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return cmp.Or(ctx.Err(), atDeadline)
		}
		if err != nil {
			return err
		}
		c, ok := parseClaim(f)
		if !ok || isOurs(links, c.MAC) {
			continue
		}
		if a, ok := byIP[c.IP]; ok {
			return &DuplicateError{Address: a, MAC: bytes.Clone(c.MAC), Probing: c.Probing}
		}
	}
}

// isOurs tells whether mac is one of this node's own: our frames come back to
// us, from a bridge, a bond, or by way of another interface on the same network.
func isOurs(links []link, mac net.HardwareAddr) bool {
	for _, l := range links {
		if bytes.Equal(l.MAC, mac) {
			return true
		}
	}
	return false
}
