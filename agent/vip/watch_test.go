package vip

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// take reads the events that are there.
func take(ch <-chan Event) string {
	synctest.Wait()
	s := ""
	for {
		select {
		case e, ok := <-ch:
			if !ok {
				return s + "closed "
			}
			s += string(e.Kind) + " " + e.Address.IP().String() + " "
		default:
			return s
		}
	}
}

func TestWatchLossAndFlap(t *testing.T) {
	bubble(t, Options{AnnounceRepeats: -1}, func(t *testing.T, f *fake, m *Manager) {
		ctx, cancel := context.WithCancel(t.Context())
		events := m.Watch(ctx)
		if err := m.Add(ctx, []Address{vip4, vip6}, AddOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		equal(t, "no event so far", take(events), "")
		f.takeSent()

		f.take("2001:db8::100")
		equal(t, "lost", take(events), "lost 2001:db8::100 ")

		f.setLink("eth1", false)
		equal(t, "another interface", take(events), "")
		f.setLink("eth0", false)
		equal(t, "down", take(events), "link-down 192.0.2.100 ")
		equal(t, "nothing is said on a dead link", f.takeSent(), "")
		f.setLink("eth0", true)
		equal(t, "up", take(events), "link-up 192.0.2.100 ")
		equal(t, "announced anew, only what is held", f.takeSent(), said4)

		if err := m.Remove(ctx, []Address{vip4}); err != nil {
			t.Fatal(err)
		}
		equal(t, "a removal is no loss", take(events), "")
		cancel()
		equal(t, "ended", take(events), "closed ")
	})
}

// A flap that is over before anybody looks is noticed all the same.
func TestWatchQuickFlap(t *testing.T) {
	bubble(t, Options{AnnounceRepeats: -1}, func(t *testing.T, f *fake, m *Manager) {
		events := m.Watch(t.Context())
		if err := m.Add(t.Context(), []Address{vip4}, AddOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		f.takeSent()
		f.mu.Lock()
		f.tellLocked(change{Index: 2, Down: true})
		f.tellLocked(change{Index: 2})
		f.mu.Unlock()
		equal(t, "events", take(events), "link-down 192.0.2.100 link-up 192.0.2.100 ")
		equal(t, "announced anew", f.takeSent(), said4)
	})
}

// What happens while notifications are interrupted is found afterwards.
func TestWatchOverflow(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		events := m.Watch(t.Context())
		if err := m.Add(t.Context(), []Address{vip4}, AddOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		f.mu.Lock()
		f.fail["subscribe"] = errors.New("planted")
		f.mu.Unlock()
		f.dropSubscribers()
		f.take("192.0.2.100")
		time.Sleep(time.Second)
		equal(t, "not known yet", take(events), "")
		f.mu.Lock()
		delete(f.fail, "subscribe")
		f.mu.Unlock()
		time.Sleep(time.Second)
		equal(t, "found", take(events), "lost 192.0.2.100 ")
	})
}

func TestWatchLeaseRunsOut(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		events := m.Watch(t.Context())
		if err := m.Add(t.Context(), []Address{vip4}, AddOptions{Lease: 5 * time.Second}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
		f.mu.Lock()
		f.tellLocked(change{Index: 2, Addr: vip4.IP()})
		f.mu.Unlock()
		equal(t, "events", take(events), "lost 192.0.2.100 ")
	})
}

func TestCloseEndsWatchers(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, f *fake, m *Manager) {
		before := m.Watch(t.Context())
		if err := m.Add(t.Context(), []Address{vip4}, AddOptions{}); err != nil {
			t.Fatal(err)
		}
		m.Close()
		m.Close()
		f.takeSent()
		equal(t, "before", take(before), "closed ")
		equal(t, "after", take(m.Watch(t.Context())), "closed ")
		time.Sleep(time.Minute)
		equal(t, "sent after Close", f.takeSent(), "")
		held, err := m.Held(t.Context(), []Address{vip4})
		if err != nil || len(held) != 1 {
			t.Errorf("the address does not outlive the manager: %v %v", held, err)
		}
	})
}
