package vip

import (
	"context"
	"time"
)

// Announce restarts the announcements of those addresses that this Manager
// holds: after the network was cut and healed, for one. It does not wait.
func (m *Manager) Announce(addrs []Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range addrs {
		if h := m.held[a.IP()]; h != nil {
			h.announceAgain()
		}
	}
}

func (h *holding) announceAgain() {
	select {
	case h.again <- struct{}{}:
	default: // asked for already
	}
}

// announceLoop is the only one who sends announcements of its address, so that
// they are never closer together than the spacing and none is under way
// once it has ended.
func (m *Manager) announceLoop(ctx context.Context, h *holding) {
	var (
		left  = 1 + max(m.opts.AnnounceRepeats, 0)
		last  time.Time
		timer = time.NewTimer(0)
	)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.again:
			left = 1 + max(m.opts.AnnounceRepeats, 0)
			timer.Reset(max(0, m.opts.AnnounceSpacing-time.Since(last)))
		case <-timer.C:
			if ctx.Err() != nil {
				return // select chooses at random: an ended context wins
			}
			m.announceOnce(h)
			if last.IsZero() {
				close(h.first)
			}
			last = time.Now()
			left--
			switch {
			case left > 0:
				timer.Reset(m.opts.AnnounceSpacing)
			case m.opts.AnnounceRefresh > 0:
				timer.Reset(m.opts.AnnounceRefresh)
			}
		}
	}
}

// announceOnce sends one announcement if the kernel says that the address is
// ours at this moment. A failure is only logged: the next one, or the
// link's return, makes up for it.
func (m *Manager) announceOnce(h *holding) {
	log := m.log.With("address", h.IP(), "index", h.index)
	links, err := m.kernel.links()
	if err != nil {
		log.Warn("announcement skipped: the interfaces are not known", "error", err)
		return
	}
	l, ok := byIndex(links, h.index)
	if !ok || l.Mute {
		return
	}
	have, err := m.kernel.addrs(h.index)
	if err != nil {
		log.Warn("announcement skipped: the addresses are not known", "error", err)
		return
	}
	a, ok := find(have, h.index, h.IP())
	if !ok || a.Tentative || a.Failed {
		log.Warn("announcement skipped: the address is not ours at this moment")
		return
	}
	frames := announceFrames(l.MAC, h.IP())
	if err := m.kernel.send(l, frames...); err != nil {
		log.Warn("announcement not sent", "error", err)
		return
	}
	log.Debug("announced", "nic", l.Name, "mac", l.MAC.String())
}
