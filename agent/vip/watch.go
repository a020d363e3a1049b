package vip

import (
	"context"
	"time"
)

// EventKind is what happened to an address that was held.
type EventKind string

// The kinds.
const (
	EventLost     EventKind = "lost"      // it is not on this node any more; its announcements have ended
	EventLinkDown EventKind = "link-down" // it is there, but its interface is down or has no carrier
	EventLinkUp   EventKind = "link-up"   // the interface is back; the address is being announced anew
)

// Event tells of a held address.
type Event struct {
	Kind    EventKind
	Address Address
	At      time.Time
}

// subscription is one reader of events.
type subscription struct {
	ch   chan Event
	stop func() bool
}

// eventBuffer is how far a reader may fall behind before it misses events.
const eventBuffer = 64

// Watch delivers what happens to the addresses that are held, until ctx
// ends or the Manager is closed; then the channel is closed. A reader that
// falls behind by 64 events misses the ones after, which is logged: whoever
// must be sure asks Held now and then, as a monitor does anyway.
// A removal by Remove is no event.
func (m *Manager) Watch(ctx context.Context) <-chan Event {
	s := &subscription{ch: make(chan Event, eventBuffer)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		close(s.ch)
		return s.ch
	}
	m.subs[s] = struct{}{}
	s.stop = context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.unsubscribeLocked(s)
	})
	return s.ch
}

func (m *Manager) unsubscribeLocked(s *subscription) {
	if _, ok := m.subs[s]; !ok {
		return
	}
	s.stop()
	delete(m.subs, s)
	close(s.ch)
}

func (m *Manager) emitLocked(kind EventKind, a Address) {
	m.log.Info("virtual IP event", "event", string(kind), "address", a.Prefix, "nic", a.NIC)
	for s := range m.subs {
		select {
		case s.ch <- Event{Kind: kind, Address: a, At: time.Now()}:
		default:
			m.log.Warn("a reader of address events is too slow and misses one", "event", string(kind), "address", a.Prefix)
		}
	}
}

// watch follows the kernel's notifications. They are hints: what is true is
// read from the kernel each time, so that a lost or late notification
// does no harm. When some were missed, it subscribes and looks anew.
func (m *Manager) watch() {
	const again = 200 * time.Millisecond
	for {
		changes, err := m.kernel.subscribe(m.ctx)
		if err != nil {
			m.log.Warn("cannot follow network changes; trying again", "error", err)
		} else {
			m.reconcile(change{})
			for c := range changes {
				m.reconcile(c)
			}
		}
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(again):
		}
	}
}

// reconcile compares what is held with what the kernel has, after a change;
// the zero change concerns everything.
func (m *Manager) reconcile(c change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.concernsLocked(c) {
		return
	}
	links, err := m.kernel.links()
	if err != nil {
		m.log.Warn("a network change was not looked into", "error", err)
		return
	}
	have, err := m.kernel.addrs(0)
	if err != nil {
		m.log.Warn("a network change was not looked into", "error", err)
		return
	}
	for ip, h := range m.held {
		if a, ok := find(have, h.index, ip); !ok || a.Failed {
			delete(m.held, ip)
			h.cancel()
			m.emitLocked(EventLost, h.Address)
			continue
		}
		l, _ := byIndex(links, h.index)
		// A flap can be over before we look: the notification remembers it.
		if wasDown := c.Down && c.Index == h.index; h.linkUp && (wasDown || !l.Up) {
			h.linkUp = false
			m.emitLocked(EventLinkDown, h.Address)
		}
		if !h.linkUp && l.Up {
			h.linkUp = true
			h.announceAgain()
			m.emitLocked(EventLinkUp, h.Address)
		}
	}
}

func (m *Manager) concernsLocked(c change) bool {
	if c == (change{}) {
		return len(m.held) > 0
	}
	for ip, h := range m.held {
		if c.Index == h.index || c.Addr == ip {
			return true
		}
	}
	return false
}
