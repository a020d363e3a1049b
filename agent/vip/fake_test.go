package vip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// fake is a kernel and its network in memory. Its state and what it was asked
// to send are rendered as text.
type fake struct {
	mu      sync.Mutex
	nics    []link
	list    []fakeAddr
	sent    []string
	others  map[netip.Addr]net.HardwareAddr // other machines on the network
	probers map[netip.Addr]net.HardwareAddr // other machines probing
	subs    []chan change
	fail    map[string]error // by method
	slow    time.Duration    // how long replace takes
}

type fakeAddr struct {
	ifAddr
	until time.Time
}

func newFake(nics ...string) *fake {
	f := &fake{
		others: map[netip.Addr]net.HardwareAddr{}, probers: map[netip.Addr]net.HardwareAddr{},
		fail: map[string]error{}, nics: []link{{Index: 1, Name: "lo", Up: true, Mute: true}},
	}
	for i, n := range nics {
		f.nics = append(f.nics, link{Index: i + 2, Name: n, MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}, Up: true})
	}
	return f
}

func (f *fake) links() ([]link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.nics), f.fail["links"]
}

func (f *fake) expireLocked() {
	f.list = slices.DeleteFunc(f.list, func(a fakeAddr) bool {
		return !a.until.IsZero() && !time.Now().Before(a.until)
	})
}

func (f *fake) addrs(index int) ([]ifAddr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expireLocked()
	var out []ifAddr
	for _, a := range f.list {
		if index == 0 || a.Index == index {
			if !a.until.IsZero() {
				a.Lease = time.Until(a.until)
			}
			out = append(out, a.ifAddr)
		}
	}
	return out, f.fail["addrs"]
}

func (f *fake) onLink(netip.Addr) (int, error) { return 0, nil }

func (f *fake) replace(a ifAddr) error {
	f.mu.Lock()
	slow := f.slow
	f.mu.Unlock()
	time.Sleep(slow) // not under the lock: a bubble's time stands still while somebody waits for a mutex
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail["replace "+a.Prefix.String()]; err != nil {
		return err
	}
	if _, ok := byIndex(f.nics, a.Index); !ok {
		return errors.New("no such device")
	}
	f.expireLocked()
	n := fakeAddr{ifAddr: a}
	if a.Lease > 0 {
		n.until = time.Now().Add(a.Lease)
	}
	f.list = slices.DeleteFunc(f.list, func(h fakeAddr) bool { return h.Index == a.Index && h.Prefix == a.Prefix })
	f.list = append(f.list, n)
	f.tellLocked(change{Index: a.Index, Addr: a.Prefix.Addr()})
	return nil
}

func (f *fake) remove(a ifAddr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail["remove"]; err != nil {
		return err
	}
	f.expireLocked()
	before := len(f.list)
	f.list = slices.DeleteFunc(f.list, func(h fakeAddr) bool { return h.Index == a.Index && h.Prefix == a.Prefix })
	if len(f.list) == before {
		return errAbsent
	}
	f.tellLocked(change{Index: a.Index, Addr: a.Prefix.Addr()})
	return nil
}

func (f *fake) send(l link, frames ...[]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fr := range frames {
		f.sent = append(f.sent, l.Name+": "+describe(fr))
	}
	return f.fail["send"]
}

func (f *fake) subscribe(ctx context.Context) (<-chan change, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail["subscribe"]; err != nil {
		return nil, err
	}
	ch, out := make(chan change, 100), make(chan change)
	f.subs = append(f.subs, ch)
	go func() {
		defer close(out)
		for {
			select {
			case c, ok := <-ch:
				if !ok {
					return
				}
				select {
				case out <- c:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (f *fake) tellLocked(c change) {
	for _, s := range f.subs {
		s <- c
	}
}

// dropSubscribers is a notification overflow: what happens while nobody listens is missed.
func (f *fake) dropSubscribers() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.subs {
		close(s)
	}
	f.subs = nil
}

// setLink takes a link down or up.
func (f *fake) setLink(name string, up bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.nics {
		if f.nics[i].Name == name {
			f.nics[i].Up = up
			f.tellLocked(change{Index: f.nics[i].Index, Down: !up})
		}
	}
}

// give puts somebody else's address on an interface of ours.
func (f *fake) give(index int, cidr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, fakeAddr{ifAddr: ifAddr{Index: index, Prefix: netip.MustParsePrefix(cidr)}})
}

// take removes an address behind the manager's back.
func (f *fake) take(ip string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.list {
		if a.Prefix.Addr() == netip.MustParseAddr(ip) {
			defer f.tellLocked(change{Index: a.Index, Addr: a.Prefix.Addr()})
		}
	}
	f.list = slices.DeleteFunc(f.list, func(a fakeAddr) bool { return a.Prefix.Addr() == netip.MustParseAddr(ip) })
}

// text renders the addresses.
func (f *fake) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expireLocked()
	var lines []string
	for _, a := range f.list {
		l, _ := byIndex(f.nics, a.Index)
		s := a.Prefix.String() + " dev " + l.Name
		if a.Label != "" {
			s += " label " + a.Label
		}
		if a.Proto != 0 {
			s += fmt.Sprintf(" proto %#x", a.Proto)
		}
		if a.NoRoute {
			s += " noprefixroute"
		}
		if a.Deprec {
			s += " deprecated"
		}
		if !a.until.IsZero() {
			s += " valid " + time.Until(a.until).Round(time.Second).String()
		}
		lines = append(lines, s)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// takeSent gives what was sent since the last call, one frame a line.
func (f *fake) takeSent() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.sent, "\n")
	f.sent = nil
	return s
}

// fakeWire answers probes for the addresses of other machines.
type fakeWire struct {
	f     *fake
	l     link
	queue [][]byte
}

func (f *fake) listen(l link, _ bool, ips []netip.Addr) (wire, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &fakeWire{f: f, l: l}
	for _, ip := range ips {
		if mac := f.probers[ip]; mac != nil {
			w.queue = append(w.queue, probeFrame(mac, ip))
		}
	}
	return w, f.fail["listen"]
}

func (w *fakeWire) send(frames ...[]byte) error {
	if err := w.f.send(w.l, frames...); err != nil {
		return err
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	for _, fr := range frames {
		w.queue = append(w.queue, fr) // one's own frames are heard, too
		if c, ok := parseClaim(fr); ok && w.f.others[c.IP] != nil {
			w.queue = append(w.queue, announceFrames(w.f.others[c.IP], c.IP)...)
		}
	}
	return nil
}

func (w *fakeWire) recv(deadline time.Time) ([]byte, error) {
	if len(w.queue) > 0 {
		f := w.queue[0]
		w.queue = w.queue[1:]
		return f, nil
	}
	time.Sleep(time.Until(deadline))
	return nil, os.ErrDeadlineExceeded
}

func (w *fakeWire) close() error { return nil }

// describe is a frame in one line of text, for the fake kernel.
func describe(f []byte) string {
	if len(f) >= etherLen+arpLen && binary.BigEndian.Uint16(f[12:]) == etherARP {
		p := f[etherLen:]
		op := map[uint16]string{arpRequest: "request", arpReply: "reply"}[binary.BigEndian.Uint16(p[6:])]
		return fmt.Sprintf("arp %s %s is-at %s asks %s", op,
			netip.AddrFrom4([4]byte(p[14:18])), net.HardwareAddr(p[8:14]), netip.AddrFrom4([4]byte(p[24:28])))
	}
	if c, ok := parseClaim(f); ok && c.Probing {
		return fmt.Sprintf("nd solicit %s from ::", c.IP)
	} else if ok {
		return fmt.Sprintf("nd advertise %s is-at %s", c.IP, c.MAC)
	}
	return fmt.Sprintf("frame of %d bytes", len(f))
}
