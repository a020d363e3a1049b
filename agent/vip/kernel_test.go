package vip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// world is a kernel with eth0 (mac1, up, 192.0.2.1/24, 2001:db8::1/64) and
// what the contract needs to do to it from outside.
type world struct {
	kernel
	setLink func(up bool)
	// hold has another machine hold an address, with clientMAC.
	hold func(Address)
}

func TestKernelContractFake(t *testing.T) {
	f := newFake("eth0")
	f.give(2, "192.0.2.1/24")
	f.give(2, "2001:db8::1/64")
	contract(t, world{
		kernel:  f,
		setLink: func(up bool) { f.setLink("eth0", up) },
		hold:    func(a Address) { f.others[a.IP()] = clientMAC },
	})
}

func TestKernelContractLinux(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := lan(t)
	contract(t, world{
		kernel:  linux{},
		setLink: func(up bool) { c.setLink(t, up) },
		hold:    func(a Address) { c.holds(t, a) },
	})
}

// contract is what every kernel does.
func contract(t *testing.T, w world) {
	links, err := w.links()
	if err != nil {
		t.Fatal(err)
	}
	eth0, ok := byName(links, "eth0")
	if !ok || !eth0.Up || eth0.Mute || eth0.MAC.String() != mac1.String() {
		t.Fatalf("eth0: %+v", eth0)
	}
	if lo, ok := byName(links, "lo"); !ok || !lo.Mute {
		t.Errorf("lo: %+v", lo)
	}
	contractAddrs(t, w, eth0)
	contractChanges(t, w, eth0)
	contractWire(t, w, eth0)
}

func contractAddrs(t *testing.T, w world, eth0 link) {
	look := func(ip netip.Addr) (ifAddr, bool) {
		t.Helper()
		have, err := w.addrs(eth0.Index)
		if err != nil {
			t.Fatal(err)
		}
		return find(have, eth0.Index, ip)
	}
	if own, ok := look(netip.MustParseAddr("192.0.2.1")); !ok || own.ours() || own.Lease != 0 || own.Prefix.Bits() != 24 {
		t.Errorf("the node's own address: %+v %v", own, ok)
	}
	for _, a := range []ifAddr{
		{Index: eth0.Index, Prefix: vip4.Prefix, Label: "eth0:us", Proto: Mark, NoRoute: true},
		{Index: eth0.Index, Prefix: vip6.Prefix, Proto: Mark, NoRoute: true, Deprec: true},
		{Index: eth0.Index, Prefix: netip.MustParsePrefix("198.51.100.9/32"), Label: "eth0:us", Proto: Mark},
		{Index: eth0.Index, Prefix: netip.MustParsePrefix("2001:db8:1::9/64"), Proto: Mark},
	} {
		for _, lease := range []time.Duration{0, 100 * time.Second, 300 * time.Second, 0} { // renewed each time
			a.Lease = lease
			if err := w.replace(a); err != nil {
				t.Fatal(err)
			}
			got, ok := look(a.Prefix.Addr())
			if got.Lease > lease || lease > 0 && got.Lease < lease-10*time.Second {
				t.Errorf("lease of %s: %v, want %v", a.Prefix, got.Lease, lease)
			}
			got.Lease = lease
			if !ok || got != a {
				t.Errorf("got %+v %v, want %+v", got, ok, a)
			}
		}
		if err := w.remove(a); err != nil {
			t.Error(err)
		}
		if err := w.remove(a); !errors.Is(err, errAbsent) {
			t.Errorf("the second removal of %s: %v", a.Prefix, err)
		}
		if _, ok := look(a.Prefix.Addr()); ok {
			t.Errorf("%s is there after its removal", a.Prefix)
		}
	}
	if err := w.replace(ifAddr{Index: 4711, Prefix: vip4.Prefix}); err == nil {
		t.Error("an address was added to an interface that is not there")
	}
	if err := w.remove(ifAddr{Index: 4711, Prefix: vip4.Prefix}); !errors.Is(err, errAbsent) {
		t.Errorf("removal from an interface that is not there: %v", err)
	}
}

func contractChanges(t *testing.T, w world, eth0 link) {
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := w.subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, ok func(change) bool) {
		t.Helper()
		timeout := time.After(30 * time.Second)
		for {
			select {
			case c := <-changes:
				if c.Index == eth0.Index && ok(c) {
					return
				}
			case <-timeout:
				t.Fatalf("no change seen: %s", what)
			}
		}
	}
	for _, p := range []netip.Prefix{vip4.Prefix, vip6.Prefix} {
		a := ifAddr{Index: eth0.Index, Prefix: p, Proto: Mark}
		if err := w.replace(a); err != nil {
			t.Fatal(err)
		}
		want("address added", func(c change) bool { return c.Addr == p.Addr() })
		if err := w.remove(a); err != nil {
			t.Fatal(err)
		}
		want("address removed", func(c change) bool { return c.Addr == p.Addr() })
	}
	w.setLink(false)
	want("link down", func(c change) bool { return c.Down && !c.Addr.IsValid() })
	w.setLink(true)
	want("link up", func(c change) bool { return !c.Down && !c.Addr.IsValid() })
	cancel()
	for range changes { // closed, sooner or later
	}
}

func contractWire(t *testing.T, w world, eth0 link) {
	for _, a := range []Address{vip4, vip6} {
		wire, err := w.listen(eth0, a.IP().Is6(), []netip.Addr{a.IP()})
		if err != nil {
			t.Fatal(err)
		}
		for {
			start := time.Now()
			if _, err := wire.recv(start.Add(20 * time.Millisecond)); errors.Is(err, os.ErrDeadlineExceeded) {
				if time.Since(start) < 20*time.Millisecond {
					t.Error("recv gave up before its deadline")
				}
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		w.hold(a)
		answered := false
		for range 300 { // the other machine may need a moment after its link came back
			if err := wire.send(probeFrame(mac1, a.IP())); err != nil {
				t.Fatal(err)
			}
			if answered = answerTo(t, wire, a); answered {
				break
			}
		}
		if !answered {
			t.Errorf("no answer to the probe for %s", a)
		}
		if err := wire.close(); err != nil {
			t.Error(err)
		}
		if err := w.send(eth0, announceFrames(mac1, a.IP())...); err != nil {
			t.Error(err)
		}
	}
}

// answerTo reads for a tenth of a second and tells whether clientMAC claims the address.
func answerTo(t *testing.T, w wire, a Address) bool {
	t.Helper()
	until := time.Now().Add(100 * time.Millisecond)
	for {
		f, err := w.recv(until)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := parseClaim(f); ok && !c.Probing && c.IP == a.IP() && c.MAC.String() == clientMAC.String() {
			return true
		}
	}
}

// Whatever its prefix length and lease, an address must not change the node's
// own routes, and removing it must not take the node's own address with it.
func TestOwnAddressesAndRoutesSurvive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	lan(t)
	m := New(Options{})
	defer m.Close()
	routes := func() string {
		t.Helper()
		out := ""
		for _, args := range [][]string{{"-4", "route", "show", "dev", "eth0"}, {"-6", "route", "show", "dev", "eth0"}} {
			b, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("ip %v: %v: %s", args, err, b)
			}
			for line := range strings.Lines(string(b)) {
				if !strings.HasPrefix(line, "fe80:") { // comes when the kernel is ready
					out += line
				}
			}
		}
		if strings.Contains(out, "expires") || !strings.Contains(out, "192.0.2.0/24") || !strings.Contains(out, "2001:db8::/64") {
			t.Errorf("the node's own routes:\n%s", out)
		}
		return out
	}
	before := routes()
	for _, addrs := range [][]Address{
		{vip4, vip6},
		{at("192.0.2.100/25", "eth0"), at("2001:db8::100/80", "eth0")},
		{at("192.0.2.100/32", "eth0"), at("2001:db8::100/128", "eth0")},
	} {
		if err := m.Add(t.Context(), addrs, AddOptions{Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
		equal(t, "routes while held", routes(), before)
		if err := m.Renew(t.Context(), addrs, time.Minute); err != nil {
			t.Fatal(err)
		}
		equal(t, "routes after a renewal", routes(), before)
		if err := m.Remove(t.Context(), addrs); err != nil {
			t.Fatal(err)
		}
		equal(t, "routes after removal", routes(), before)
	}
	held, err := m.Held(t.Context(), []Address{at("192.0.2.1/24", "eth0"), at("2001:db8::1/64", "eth0")})
	if err != nil || len(held) != 2 {
		t.Errorf("the node's own addresses: %v %v", held, err)
	}
}

// An address that somebody else put there is marked as ours when it is added.
func TestAddMarksWhatIsThere(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	lan(t)
	m := New(Options{})
	defer m.Close()
	links, err := linux{}.links()
	if err != nil {
		t.Fatal(err)
	}
	eth0, _ := byName(links, "eth0")
	for _, a := range []Address{vip4, vip6} {
		if err := (linux{}).replace(ifAddr{Index: eth0.Index, Prefix: a.Prefix}); err != nil {
			t.Fatal(err)
		}
		if err := m.Add(t.Context(), []Address{a}, AddOptions{Lease: time.Hour}); err != nil {
			t.Fatal(err)
		}
		ours, err := m.HeldOurs(t.Context())
		if err != nil || len(ours) != 1 || ours[0].Address != a || !ours[0].Leased {
			t.Errorf("ours: %+v %v", ours, err)
		}
		if err := m.Remove(t.Context(), []Address{a}); err != nil {
			t.Fatal(err)
		}
	}
}

// Where nothing else covers the subnet, the address brings its route and is found by it.
func TestResolveOnLinux(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	lan(t)
	m := New(Options{})
	defer m.Close()
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	_, direct, _ := net.ParseCIDR("203.0.113.0/24")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	for _, r := range []*netlink.Route{
		{LinkIndex: l.Attrs().Index, Dst: direct, Scope: unix.RT_SCOPE_LINK},
		{LinkIndex: l.Attrs().Index, Dst: all, Gw: net.IPv4(192, 0, 2, 2)},
	} {
		if err := netlink.RouteAdd(r); err != nil {
			t.Fatal(err)
		}
	}
	for cidr, want := range map[string]string{
		"192.0.2.100/24": "eth0", "2001:db8::100/64": "eth0", "203.0.113.7/24": "eth0",
		"198.51.100.1/24":    "", // only by way of a gateway: not on this network
		"2001:db8:9::100/64": "",
	} {
		a, err := m.Resolve(cidr, "")
		if a.NIC != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q %v, want %q", cidr, a.NIC, err, want)
		}
	}
}
