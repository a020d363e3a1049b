package vip

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/understudy-ha/understudy/agent/api"
)

// What the client's network sees of a takeover: probes, then announcements of
// every address in every form, byte by byte, at once and spaced.
func TestTakeoverAsTheClientSeesIt(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := lan(t)
	m := New(Options{AnnounceRepeats: 2})
	defer m.Close()
	more := at("192.0.2.101/24", "eth0")
	addrs := []Address{vip4, vip6, more}
	if err := m.Probe(t.Context(), addrs); err != nil {
		t.Fatal(err)
	}
	for what, frame := range map[string]string{"arp probe": wantARPProbe, "nd probe": wantSolicit} {
		eventually(t, what, func() bool { return len(c.got(unhex(t, frame))) == DefaultProbeCount })
	}
	for _, a := range addrs {
		if n := c.neighbour(t, a.IP()); n != "" {
			t.Errorf("the probe taught the client that %s is at %s", a.IP(), n)
		}
	}
	if n := c.claims(mac1); n[vip4.IP()]+n[vip6.IP()]+n[more.IP()] != 0 {
		t.Errorf("announced before it is held: %v", n)
	}

	if err := m.Add(t.Context(), addrs, AddOptions{Lease: time.Hour}); err != nil {
		t.Fatal(err)
	}
	for what, frame := range map[string]string{"request": wantARPRequest, "reply": wantARPReply, "advertisement": wantAdvertise} {
		var at []time.Time
		eventually(t, what+" three times", func() bool { at = c.got(unhex(t, frame)); return len(at) >= 3 })
		for i := 1; i < len(at); i++ {
			// 10 ms for the client's own clock reading.
			if d := at[i].Sub(at[i-1]); d < MinAnnounceSpacing-10*time.Millisecond {
				t.Errorf("%s repeated after %v", what, d)
			}
		}
	}
	eventually(t, "the second address", func() bool { return c.claims(mac1)[more.IP()] == 6 })

	if err := m.Remove(t.Context(), addrs); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // what was on its way
	c.forget()
	m.Announce(addrs)
	time.Sleep(2 * MinAnnounceSpacing)
	if n := c.claims(mac1); n[vip4.IP()]+n[vip6.IP()]+n[more.IP()] != 0 {
		t.Errorf("announced after removal: %v", n)
	}
}

func TestPlantedDuplicate(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := lan(t)
	m := New(Options{ProbeInterval: 200 * time.Millisecond})
	defer m.Close()
	for _, a := range []Address{vip4, vip6} {
		if err := m.Probe(t.Context(), []Address{a}); err != nil {
			t.Fatalf("%s before it is planted: %v", a, err)
		}
		c.holds(t, a)
		err := m.Probe(t.Context(), []Address{at("192.0.2.77/24", "eth0"), a})
		var dup *DuplicateError
		if !errors.As(err, &dup) || dup.Address != a || dup.MAC.String() != clientMAC.String() || dup.Probing || api.KindOf(err) != api.KindRefused {
			t.Errorf("%s: got %v", a, err)
		}
	}
}

// Clients that remember the former active's MAC must turn to the new one at once.
func TestStaleNeighbourIsCorrected(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := lan(t)
	m := New(Options{AnnounceRepeats: -1}) // the first announcement alone must do it
	defer m.Close()
	for _, a := range []Address{vip4, vip6} {
		err := c.nl.NeighSet(&netlink.Neigh{
			LinkIndex: c.index, IP: a.IP().AsSlice(), State: netlink.NUD_REACHABLE,
			HardwareAddr: net.HardwareAddr{2, 0xde, 0xad, 0, 0, 1},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Add(t.Context(), []Address{vip4, vip6}, AddOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, a := range []Address{vip4, vip6} {
		eventually(t, "correction of "+a.IP().String(), func() bool { return c.neighbour(t, a.IP()) == mac1.String() })
	}
}

func wantEvent(t *testing.T, ch <-chan Event, kind EventKind, a Address) {
	t.Helper()
	select {
	case e := <-ch:
		if e.Kind != kind || e.Address != a {
			t.Fatalf("got %v of %v, want %v of %v", e.Kind, e.Address, kind, a)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("no event; want %v of %v", kind, a)
	}
}

func TestFlapOnLinux(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := lan(t)
	m := New(Options{AnnounceRepeats: -1})
	defer m.Close()
	events := m.Watch(t.Context())
	if err := m.Add(t.Context(), []Address{vip4}, AddOptions{}); err != nil {
		t.Fatal(err)
	}
	c.setLink(t, false) // the cable is pulled
	wantEvent(t, events, EventLinkDown, vip4)
	if err := m.Probe(t.Context(), []Address{vip4}); err == nil {
		t.Error("a probe without carrier learned something")
	}
	c.forget()
	c.setLink(t, true)
	wantEvent(t, events, EventLinkUp, vip4)
	eventually(t, "announced anew", func() bool { return len(c.got(unhex(t, wantARPReply))) == 1 })

	// Taken down by hand, an interface loses its IPv6 addresses.
	if err := m.Add(t.Context(), []Address{vip6}, AddOptions{}); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(l); err != nil {
		t.Fatal(err)
	}
	kinds := map[EventKind]Address{}
	for range 2 {
		select {
		case e := <-events:
			kinds[e.Kind] = e.Address
		case <-time.After(30 * time.Second):
			t.Fatal("no event")
		}
	}
	if kinds[EventLost] != vip6 || kinds[EventLinkDown] != vip4 {
		t.Errorf("got %v", kinds)
	}
}

func TestLossOnLinux(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	lan(t)
	m := New(Options{})
	defer m.Close()
	events := m.Watch(t.Context())
	for _, a := range []Address{vip4, vip6} {
		if err := m.Add(t.Context(), []Address{a}, AddOptions{Lease: MinLease}); err != nil {
			t.Fatal(err)
		}
		wantEvent(t, events, EventLost, a) // its lease runs out
		if err := m.Renew(t.Context(), []Address{a}, time.Minute); api.KindOf(err) != api.KindNotRunning {
			t.Errorf("renewing what is lost: %v", err)
		}
		if held, err := m.Held(t.Context(), []Address{a}); err != nil || len(held) != 0 {
			t.Errorf("held: %v %v", held, err)
		}
		if err := m.Add(t.Context(), []Address{a}, AddOptions{}); err != nil {
			t.Fatal(err)
		}
		links, err := linux{}.links()
		if err != nil {
			t.Fatal(err)
		}
		eth0, _ := byName(links, "eth0")
		if err := (linux{}).remove(ifAddr{Index: eth0.Index, Prefix: a.Prefix}); err != nil { // by an operator's hand
			t.Fatal(err)
		}
		wantEvent(t, events, EventLost, a)
	}
}
