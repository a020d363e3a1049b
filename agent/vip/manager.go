package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// Manager holds virtual IPs on this node. Its methods are safe for use by
// several goroutines. Close it to end its goroutines.
type Manager struct {
	opts   Options
	log    *slog.Logger
	kernel kernel

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the watcher and one announcer per holding

	mu     sync.Mutex
	held   map[netip.Addr]*holding    // guarded by mu
	subs   map[*subscription]struct{} // guarded by mu
	closed bool                       // guarded by mu
}

// holding is an address this manager added (or took up again) and announces.
type holding struct {
	Address
	index  int
	linkUp bool // as last seen by the watcher; guarded by Manager.mu

	again   chan struct{} // capacity 1: announce anew, from the start of the schedule
	first   chan struct{} // closed when the first announcement is out
	stopped chan struct{} // closed when the announcer has ended
	cancel  context.CancelFunc
}

// New makes a Manager and starts watching the kernel's notifications.
func New(opts Options) *Manager {
	opts = opts.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{
		opts: opts, log: opts.Logger, kernel: opts.kernel,
		ctx: ctx, cancel: cancel,
		held: map[netip.Addr]*holding{},
		subs: map[*subscription]struct{}{},
	}
	m.wg.Go(m.watch)
	return m
}

// Close ends announcements and watching and waits for them. The addresses
// stay on the node. It may be called twice.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	m.cancel()
	for s := range m.subs {
		m.unsubscribeLocked(s)
	}
	m.mu.Unlock()
	m.wg.Wait()
}

// Add puts addresses on this node and announces them; it returns when the
// first announcement of each is out. It does not probe. All or none: on an
// error, what this call had added is taken away again. An address that is there
// already is marked and leased as asked, and announced anew; that is how
// an agent takes up its predecessor's addresses.
func (m *Manager) Add(ctx context.Context, addrs []Address, opts AddOptions) error {
	if opts.Lease != 0 && opts.Lease < MinLease {
		return fmt.Errorf("a lease of %v is shorter than the kernel can keep: at least %v", opts.Lease, MinLease)
	}
	places, _, err := m.locate(addrs)
	if err != nil {
		return err
	}
	if err := m.refuseElsewhere(places); err != nil {
		return err
	}
	holdings, err := m.addAll(ctx, places, opts)
	if err != nil {
		return err
	}
	for _, h := range holdings {
		select {
		case <-h.first:
		case <-h.stopped: // removed or closed meanwhile
		case <-ctx.Done():
			// The address is there and its announcer is at work: that is what
			// was asked for, only late.
			return nil
		}
	}
	return nil
}

func (m *Manager) addAll(ctx context.Context, places []located, opts AddOptions) ([]*holding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errors.New("the manager of addresses is closed")
	}
	have, err := m.kernel.addrs(0)
	if err != nil {
		return nil, err
	}
	var added []ifAddr
	for _, p := range places {
		a := desired(p, have, opts.Lease)
		err := ctx.Err()
		if err == nil {
			err = m.kernel.replace(a)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("virtual IP %s was not added: %w", p.Address, err), m.rollback(added))
		}
		if _, was := find(have, p.link.Index, p.IP()); !was {
			added = append(added, a)
		}
	}
	var out []*holding
	for _, p := range places {
		m.log.Info("virtual IP added", "address", p.Prefix, "nic", p.NIC, "lease", opts.Lease)
		out = append(out, m.holdLocked(p))
	}
	return out, nil
}

// rollback takes away what a failed Add had added.
func (m *Manager) rollback(added []ifAddr) error {
	var errs []error
	for _, a := range added {
		if err := m.kernel.remove(a); err != nil && !errors.Is(err, errAbsent) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// desired is how an address is to be on its interface; see the package's doc
// for noprefixroute and the preferred lifetime.
func desired(p located, have []ifAddr, lease time.Duration) ifAddr {
	covered := false
	for _, h := range have {
		if h.Index == p.link.Index && h.Prefix.Addr() != p.IP() && !h.ours() && h.Prefix.Contains(p.IP()) {
			covered = true
		}
	}
	a := ifAddr{Index: p.link.Index, Prefix: p.Prefix, Proto: Mark, Lease: lease, NoRoute: covered}
	if p.IP().Is4() {
		a.Label = label(p.NIC)
	} else {
		a.Deprec = covered
	}
	return a
}

// find looks for ip on an interface, or on any with index 0.
func find(have []ifAddr, index int, ip netip.Addr) (ifAddr, bool) {
	for _, h := range have {
		if h.Prefix.Addr() == ip && (index == 0 || h.Index == index) {
			return h, true
		}
	}
	return ifAddr{}, false
}

// holdLocked starts the announcer of an address, or restarts its schedule.
func (m *Manager) holdLocked(p located) *holding {
	if h := m.held[p.IP()]; h != nil && h.index == p.link.Index {
		h.announceAgain()
		return h
	}
	ctx, cancel := context.WithCancel(m.ctx)
	h := &holding{
		Address: p.Address, index: p.link.Index, linkUp: p.link.Up,
		again: make(chan struct{}, 1), first: make(chan struct{}), stopped: make(chan struct{}),
		cancel: cancel,
	}
	if old := m.held[p.IP()]; old != nil {
		old.cancel()
	}
	m.held[p.IP()] = h
	m.wg.Go(func() {
		defer close(h.stopped)
		m.announceLoop(ctx, h)
	})
	return h
}

// Remove takes addresses off this node, from whatever interface they are on
// and whoever put them there, after ending their announcements. It is
// idempotent, carries on past errors, does not give up when ctx ends (which
// only shortens its wait for an announcement under way), and returns nil only
// if the kernel has none of the addresses any more.
func (m *Manager) Remove(ctx context.Context, addrs []Address) error {
	for _, a := range addrs {
		m.letGo(ctx, a.IP())
	}
	have, err := m.kernel.addrs(0)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range have {
		for _, a := range addrs {
			if h.Prefix.Addr() != a.IP() {
				continue
			}
			if err := m.kernel.remove(h); err != nil && !errors.Is(err, errAbsent) {
				errs = append(errs, err)
				continue
			}
			m.log.Info("virtual IP removed", "address", h.Prefix, "nic", a.NIC, "ours", h.ours())
		}
	}
	// Removing a primary address can promote a secondary one: look again.
	if have, err = m.kernel.addrs(0); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, a := range addrs {
		if h, still := find(have, 0, a.IP()); still {
			errs = append(errs, api.Errorf(api.KindGeneric, "see who adds it: `ip monitor address`", "virtual IP %s is still on this node", h.Prefix))
		}
	}
	return errors.Join(errs...)
}

// letGo forgets an address and waits for its announcer.
func (m *Manager) letGo(ctx context.Context, ip netip.Addr) {
	m.mu.Lock()
	h := m.held[ip]
	if h != nil {
		delete(m.held, ip)
		h.cancel()
	}
	m.mu.Unlock()
	if h == nil {
		return
	}
	select {
	case <-h.stopped:
	case <-ctx.Done(): // the announcer asks the kernel before it sends anyway
	}
}
