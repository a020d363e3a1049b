package vip

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// Held says which of addrs are on this node and usable, on whatever interface
// they are. An IPv6 address that is tentative or failed its duplicate
// detection is not held.
func (m *Manager) Held(ctx context.Context, addrs []Address) ([]Held, error) {
	return m.list(ctx, func(h ifAddr) bool {
		for _, a := range addrs {
			if h.Prefix.Addr() == a.IP() {
				return !h.Tentative && !h.Failed
			}
		}
		return false
	})
}

// HeldOurs lists every address on this node that carries our mark, whether or
// not this Manager knows it: what a predecessor left behind.
func (m *Manager) HeldOurs(ctx context.Context) ([]Held, error) {
	return m.list(ctx, ifAddr.ours)
}

func (m *Manager) list(ctx context.Context, want func(ifAddr) bool) ([]Held, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := m.kernel.links()
	if err != nil {
		return nil, err
	}
	have, err := m.kernel.addrs(0)
	if err != nil {
		return nil, err
	}
	var out []Held
	for _, a := range have {
		if !want(a) {
			continue
		}
		l, _ := byIndex(links, a.Index)
		out = append(out, Held{
			Address: Address{Prefix: a.Prefix, NIC: l.Name},
			Marked:  a.ours(), Leased: a.Lease > 0, Left: a.Lease,
		})
	}
	return out, nil
}

// Renew gives addresses a new lease; 0 makes them permanent. An address that
// is not there any more is not brought back: it is an error of
// [api.KindNotRunning], and the other addresses are renewed all the same.
//
// The kernel would add the address anew if its lease ran out between the look
// and the renewal (an agent that was stopped just there and woke up later). So
// the time is taken, and when it was too long the address is taken away again.
func (m *Manager) Renew(ctx context.Context, addrs []Address, lease time.Duration) error {
	if lease != 0 && lease < MinLease {
		return fmt.Errorf("a lease of %v is shorter than the kernel can keep: at least %v", lease, MinLease)
	}
	places, _, err := m.locate(addrs)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	looked := time.Now()
	have, err := m.kernel.addrs(0)
	if err != nil {
		return err
	}
	var lost []Address
	for _, p := range places {
		now, ok := find(have, p.link.Index, p.IP())
		if !ok {
			lost = append(lost, p.Address)
			continue
		}
		next := desired(p, have, lease)
		next.Prefix = now.Prefix
		if err := m.kernel.replace(next); err != nil {
			return fmt.Errorf("renew the lease of %s: %w", p.Address, err)
		}
		// The kernel rounds what is left up to whole seconds.
		if now.Lease > 0 && time.Since(looked) >= now.Lease-time.Second {
			if err := m.rollback([]ifAddr{next}); err != nil {
				return err
			}
			lost = append(lost, p.Address)
		}
	}
	if len(lost) > 0 {
		return api.Errorf(api.KindNotRunning, "the service must be taken up again by a promotion or by its own recovery",
			"virtual IP not on this node any more: %v", lost)
	}
	return nil
}
