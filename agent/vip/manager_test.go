package vip

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// bubble runs a test with a manager on a fake kernel, in fake time.
// eth0 has the node's own addresses.
func bubble(t *testing.T, opts Options, run func(t *testing.T, f *fake, m *Manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eth0", "eth1")
		f.give(2, "192.0.2.1/24")
		f.give(2, "2001:db8::1/64")
		opts.kernel = f
		m := New(opts)
		defer m.Close()
		synctest.Wait()
		run(t, f, m)
	})
}

func at(cidr, nic string) Address { return Address{Prefix: netip.MustParsePrefix(cidr), NIC: nic} }

var vip4, vip6 = at("192.0.2.100/24", "eth0"), at("2001:db8::100/64", "eth0")

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\ngot:\n%s\nwant:\n%s", what, got, want)
	}
}

const (
	ownAddrs = "192.0.2.1/24 dev eth0\n2001:db8::1/64 dev eth0"
	said4    = "eth0: arp request 192.0.2.100 is-at 02:00:00:00:00:01 asks 192.0.2.100\n" +
		"eth0: arp reply 192.0.2.100 is-at 02:00:00:00:00:01 asks 192.0.2.100"
	said6 = "eth0: nd advertise 2001:db8::100 is-at 02:00:00:00:00:01"
)

func TestAddAnnounceRemove(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		ctx := t.Context()
		if err := m.Add(ctx, []Address{vip4}, AddOptions{Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
		equal(t, "at once", f.takeSent(), said4)
		if err := m.Add(ctx, []Address{vip6}, AddOptions{}); err != nil {
			t.Fatal(err)
		}
		equal(t, "at once", f.takeSent(), said6)
		equal(t, "addresses", f.text(), "192.0.2.1/24 dev eth0\n"+
			"192.0.2.100/24 dev eth0 label eth0:us proto 0x75 noprefixroute valid 1m0s\n"+
			"2001:db8::1/64 dev eth0\n"+
			"2001:db8::100/64 dev eth0 proto 0x75 noprefixroute deprecated")
		if err := m.Remove(ctx, []Address{vip4, vip6}); err != nil {
			t.Fatal(err)
		}
		if err := m.Remove(ctx, []Address{vip4, vip6}); err != nil {
			t.Fatalf("the second removal: %v", err)
		}
		equal(t, "addresses", f.text(), ownAddrs)
		time.Sleep(time.Hour)
		equal(t, "after removal", f.takeSent(), "")
	})
}

// Without another address in the subnet the address brings its own subnet
// route and may be used for connections.
func TestAddWithoutCover(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		addrs := []Address{at("198.51.100.7/24", "eth1"), at("2001:db8:1::7/64", "eth1")}
		if err := m.Add(t.Context(), addrs, AddOptions{}); err != nil {
			t.Fatal(err)
		}
		equal(t, "addresses", f.text(), "192.0.2.1/24 dev eth0\n198.51.100.7/24 dev eth1 label eth1:us proto 0x75\n"+
			"2001:db8:1::7/64 dev eth1 proto 0x75\n2001:db8::1/64 dev eth0")
	})
}

func TestAnnouncementSchedule(t *testing.T) {
	for _, c := range []struct {
		name string
		opts Options
		want []time.Duration // since Add, in the first minute
	}{
		{"defaults", Options{}, []time.Duration{0, 1200, 2400, 3600, 4800, 6000}},
		{"spacing is raised to the least", Options{AnnounceRepeats: 2, AnnounceSpacing: 10 * time.Millisecond}, []time.Duration{0, 1100, 2200}},
		{"no repeats", Options{AnnounceRepeats: -1}, []time.Duration{0}},
		{"refresh", Options{AnnounceRepeats: 1, AnnounceRefresh: 25 * time.Second}, []time.Duration{0, 1200, 26200, 51200}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, c.opts, func(t *testing.T, f *fake, m *Manager) {
				if err := m.Add(t.Context(), []Address{vip4}, AddOptions{}); err != nil {
					t.Fatal(err)
				}
				var got []time.Duration
				for ms := time.Duration(0); ms < 60_000; ms += 50 {
					synctest.Wait()
					if s := f.takeSent(); s != "" {
						got = append(got, ms)
						equal(t, "announcement", s, said4)
					}
					time.Sleep(50 * time.Millisecond)
				}
				if len(got) != len(c.want) {
					t.Fatalf("sent at %v ms, want %v", got, c.want)
				}
				for i := range got {
					if got[i] != c.want[i] {
						t.Errorf("sent at %v ms, want %v", got, c.want)
					}
				}
			})
		})
	}
}

// An announcement that is asked for anew keeps its distance from the last one.
func TestAnnounceAgainKeepsSpacing(t *testing.T) {
	bubble(t, Options{AnnounceRepeats: -1}, func(t *testing.T, f *fake, m *Manager) {
		if err := m.Add(t.Context(), []Address{vip4}, AddOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		f.takeSent()
		for range 5 {
			m.Announce([]Address{vip4, vip6})
		}
		time.Sleep(199 * time.Millisecond)
		synctest.Wait()
		equal(t, "too early", f.takeSent(), "")
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		equal(t, "in time", f.takeSent(), said4)
	})
}

func TestNotAnnouncedWhenNotOurs(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		f.mu.Lock()
		f.fail["subscribe"] = errors.New("no notifications") // nobody tells the manager
		f.mu.Unlock()
		f.dropSubscribers()
		if err := m.Add(t.Context(), []Address{vip4}, AddOptions{Lease: 3 * time.Second}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2500 * time.Millisecond)
		if n := strings.Count(f.takeSent(), "reply"); n != 3 {
			t.Errorf("%d announcements before the lease ran out, want 3", n)
		}
		time.Sleep(time.Minute)
		equal(t, "after the lease ran out", f.takeSent(), "")
	})
}

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(f *fake)
		addrs   []Address
		kind    api.Kind // empty: no error
		dup     Address
		probing bool
	}{
		{"nobody", func(*fake) {}, []Address{vip4, vip6}, "", Address{}, false},
		{"held, v4", func(f *fake) { f.others[vip4.IP()] = mac9 }, []Address{vip4, vip6}, api.KindRefused, vip4, false},
		{"held, v6", func(f *fake) { f.others[vip6.IP()] = mac9 }, []Address{vip4, vip6}, api.KindRefused, vip6, false},
		{"claimed, v4", func(f *fake) { f.probers[vip4.IP()] = mac9 }, []Address{vip4}, api.KindRefused, vip4, true},
		{"claimed, v6", func(f *fake) { f.probers[vip6.IP()] = mac9 }, []Address{vip6}, api.KindRefused, vip6, true},
		{"another address is held", func(f *fake) { f.others[vip6.IP().Next()] = mac9 }, []Address{vip6}, "", Address{}, false},
		{"ours already", func(f *fake) { f.give(2, "192.0.2.100/24") }, []Address{vip4}, "", Address{}, false},
		{"ours on another interface", func(f *fake) { f.give(3, "192.0.2.100/24") }, []Address{vip4}, api.KindArgs, Address{}, false},
		{"our other interface answers", func(f *fake) { f.others[vip4.IP()] = f.nics[2].MAC }, []Address{vip4}, "", Address{}, false},
		{"no carrier", func(f *fake) { f.setLink("eth0", false) }, []Address{vip4}, api.KindGeneric, Address{}, false},
		{"no interface", func(*fake) {}, []Address{at("192.0.2.100/24", "eth7")}, api.KindGeneric, Address{}, false},
		{"loopback has no neighbours", func(*fake) {}, []Address{at("198.51.100.1/32", "lo")}, "", Address{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
				c.prepare(f)
				start := time.Now()
				err := m.Probe(t.Context(), c.addrs)
				took := time.Since(start)
				var dup *DuplicateError
				switch {
				case c.kind == "" && err != nil, c.kind != "" && (err == nil || api.KindOf(err) != c.kind):
					t.Fatalf("got %v, want kind %q", err, c.kind)
				case c.dup.IsValidForTest() != errors.As(err, &dup):
					t.Fatalf("got %v, want a duplicate of %v", err, c.dup)
				case dup != nil && (dup.Address != c.dup || !bytes.Equal(dup.MAC, mac9) || dup.Probing != c.probing):
					t.Errorf("got %+v", dup)
				case dup != nil && !(strings.Contains(err.Error(), mac9.String()) && strings.Contains(err.Error(), "eth0")):
					t.Errorf("the message does not name MAC and interface: %v", err)
				}
				if took > 90*time.Millisecond {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// IsValidForTest tells a wanted duplicate from none.
func (a Address) IsValidForTest() bool { return a.Prefix.IsValid() }

func TestProbeEndsWithContext(t *testing.T) {
	bubble(t, Options{ProbeCount: 100}, func(t *testing.T, f *fake, m *Manager) {
		ctx, cancel := context.WithTimeout(t.Context(), 45*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := m.Probe(ctx, []Address{vip4}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d > 50*time.Millisecond {
			t.Errorf("took %v", d)
		}
	})
}

func TestAddAllOrNone(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		f.fail["replace "+vip6.Prefix.String()] = errors.New("planted")
		if err := m.Add(t.Context(), []Address{vip4, vip6}, AddOptions{}); err == nil || !strings.Contains(err.Error(), "planted") {
			t.Fatalf("got %v", err)
		}
		equal(t, "addresses", f.text(), ownAddrs)
		time.Sleep(time.Minute)
		equal(t, "sent", f.takeSent(), "")
	})
}

func TestAddRefuses(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		f.give(3, "192.0.2.100/24")
		if err := m.Add(t.Context(), []Address{vip4}, AddOptions{}); api.KindOf(err) != api.KindArgs {
			t.Errorf("an address that is on another interface: %v", err)
		}
		if err := m.Add(t.Context(), []Address{vip6}, AddOptions{Lease: time.Second}); err == nil {
			t.Error("a lease the kernel cannot keep was accepted")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Add(ctx, []Address{vip6}, AddOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		m.Close()
		if err := m.Add(t.Context(), []Address{vip6}, AddOptions{}); err == nil {
			t.Error("a closed manager added an address")
		}
		equal(t, "addresses", f.text(), "192.0.2.1/24 dev eth0\n192.0.2.100/24 dev eth1\n2001:db8::1/64 dev eth0")
	})
}

// Remove takes an address away wherever it is and whoever added it, and says
// so when it could not.
func TestRemoveIsThorough(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		f.give(3, "192.0.2.100/32")
		f.give(2, "192.0.2.100/24")
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Remove(ended, []Address{vip4}); err != nil {
			t.Fatal(err)
		}
		equal(t, "addresses", f.text(), ownAddrs)

		f.give(2, "192.0.2.100/24")
		f.fail["remove"] = errors.New("planted")
		if err := m.Remove(t.Context(), []Address{vip4}); err == nil || !strings.Contains(err.Error(), "planted") {
			t.Errorf("a removal that failed: %v", err)
		}
	})
}

func TestRenew(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		ctx, addrs := t.Context(), []Address{vip4, vip6}
		if err := m.Add(ctx, addrs, AddOptions{Lease: 10 * time.Second}); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			time.Sleep(8 * time.Second)
			if err := m.Renew(ctx, addrs, 10*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Renew(ctx, addrs, time.Second); err == nil {
			t.Error("a lease the kernel cannot keep was accepted")
		}
		f.take("2001:db8::100")
		if err := m.Renew(ctx, addrs, 20*time.Second); api.KindOf(err) != api.KindNotRunning || !strings.Contains(err.Error(), "2001:db8::100") {
			t.Errorf("renewing a lost address: %v", err)
		}
		equal(t, "the other one is renewed, the lost one is not back", f.text(), "192.0.2.1/24 dev eth0\n"+
			"192.0.2.100/24 dev eth0 label eth0:us proto 0x75 noprefixroute valid 20s\n2001:db8::1/64 dev eth0")
	})
}

// An agent that was stopped between the look and the renewal must not bring
// an address back that the kernel took away meanwhile.
func TestRenewTooLateBringsNothingBack(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		if err := m.Add(t.Context(), []Address{vip4}, AddOptions{Lease: 10 * time.Second}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		f.mu.Lock()
		f.slow = 11 * time.Second
		f.mu.Unlock()
		if err := m.Renew(t.Context(), []Address{vip4}, 10*time.Second); api.KindOf(err) != api.KindNotRunning {
			t.Errorf("got %v", err)
		}
		equal(t, "addresses", f.text(), ownAddrs)
	})
}

func TestHeld(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		ctx := t.Context()
		if err := m.Add(ctx, []Address{vip4}, AddOptions{Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
		f.give(2, "2001:db8::100/64") // somebody else's doing
		m.Close()
		next := New(Options{kernel: f}) // the agent after a restart
		defer next.Close()
		ours, err := next.HeldOurs(ctx)
		if err != nil || len(ours) != 1 || ours[0].Address != vip4 || !ours[0].Leased || ours[0].Left <= 0 {
			t.Errorf("ours: %+v %v", ours, err)
		}
		held, err := next.Held(ctx, []Address{vip4, vip6, at("192.0.2.1/24", "eth0")})
		if err != nil || len(held) != 3 {
			t.Errorf("held: %+v %v", held, err)
		}
		f.takeSent()
		if err := next.Add(ctx, []Address{vip4}, AddOptions{Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
		equal(t, "announced when taken up again", f.takeSent(), said4)
	})
}
