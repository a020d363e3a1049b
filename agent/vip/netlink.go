package vip

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ifaProto is IFA_PROTO of linux/if_addr.h, which the netlink package lacks.
const ifaProto = 11

// forever is an address lifetime without end.
const forever = 0xffffffff

// maxLease keeps a lease's seconds well inside the kernel's 32 bits.
const maxLease = 365 * 24 * time.Hour

// linux is the kernel of the network namespace this process is in.
type linux struct{}

func (linux) links() ([]link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	out := make([]link, 0, len(all))
	for _, l := range all {
		a := l.Attrs()
		const running = unix.IFF_UP | unix.IFF_RUNNING
		out = append(out, link{
			Index: a.Index,
			Name:  a.Name,
			MAC:   a.HardwareAddr,
			Up:    a.RawFlags&running == running,
			Mute:  a.RawFlags&(unix.IFF_LOOPBACK|unix.IFF_NOARP) != 0 || len(a.HardwareAddr) != 6,
		})
	}
	return out, nil
}

func (linux) addrs(index int) ([]ifAddr, error) {
	// A dump that an address change interrupts may be incomplete: ask again.
	for try := 0; ; try++ {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
		if errors.Is(err, nl.ErrDumpInterrupted) && try < 5 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		var out []ifAddr
		for _, m := range msgs {
			a, err := parseAddr(m)
			if err != nil {
				return nil, err
			}
			if a.Prefix.IsValid() && (index == 0 || a.Index == index) {
				out = append(out, a)
			}
		}
		return out, nil
	}
}

// parseAddr reads an ifaddrmsg with its attributes. An address of a family
// other than IPv4 and IPv6 comes back without prefix.
func parseAddr(b []byte) (ifAddr, error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return ifAddr{}, fmt.Errorf("an address message of %d bytes is too short", len(b))
	}
	native := nl.NativeEndian()
	bits, index := int(b[1]), int(native.Uint32(b[4:]))
	a, flags := ifAddr{Index: index}, uint32(b[2])
	var ip, local netip.Addr
	for kind, v := range attributes(b[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_ADDRESS:
			ip, _ = netip.AddrFromSlice(v)
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_LABEL:
			a.Label = unix.ByteSliceToString(v)
		case unix.IFA_FLAGS:
			if len(v) >= 4 {
				flags = native.Uint32(v)
			}
		case unix.IFA_CACHEINFO:
			if len(v) >= 8 {
				a.setLifetimes(native.Uint32(v), native.Uint32(v[4:]))
			}
		case ifaProto:
			if len(v) >= 1 {
				a.Proto = v[0]
			}
		}
	}
	if local.IsValid() {
		ip = local
	}
	if ip.IsValid() && bits <= ip.BitLen() {
		a.Prefix = netip.PrefixFrom(ip, bits)
	}
	a.NoRoute = flags&unix.IFA_F_NOPREFIXROUTE != 0
	a.Tentative = flags&unix.IFA_F_TENTATIVE != 0
	a.Failed = flags&unix.IFA_F_DADFAILED != 0
	return a, nil
}

// attributes walks over netlink attributes and ends at the first that does not
// fit. (The netlink package's own parser panics on a cut one.)
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	native := nl.NativeEndian()
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(native.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:]), b[unix.SizeofRtAttr:size]) {
				return
			}
			aligned := (size + unix.RTA_ALIGNTO - 1) &^ (unix.RTA_ALIGNTO - 1)
			b = b[min(aligned, len(b)):]
		}
	}
}

func (a *ifAddr) setLifetimes(preferred, valid uint32) {
	a.Deprec = preferred == 0
	if valid != forever {
		// An address in its last second shows 0, which must not read as "for ever".
		a.Lease = max(time.Duration(valid)*time.Second, time.Nanosecond)
	}
}

// lifetimes are what IFA_CACHEINFO wants, in seconds.
func (a ifAddr) lifetimes() (preferred, valid uint32) {
	valid = forever
	if a.Lease > 0 {
		valid = uint32((min(a.Lease, maxLease) + time.Second - 1) / time.Second)
	}
	if a.Deprec {
		return 0, valid
	}
	return valid, valid
}

func (linux) onLink(ip netip.Addr) (int, error) {
	routes, err := netlink.RouteGet(ip.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up the route to %s: %w", ip, err)
	}
	for _, r := range routes {
		if r.Gw == nil && r.Via == nil && r.Type == unix.RTN_UNICAST {
			return r.LinkIndex, nil
		}
	}
	return 0, nil
}

func (linux) replace(a ifAddr) error {
	req := addrRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK, a)
	flags := uint32(0)
	if a.Prefix.Addr().Is6() {
		flags |= unix.IFA_F_NODAD
	}
	if a.NoRoute {
		flags |= unix.IFA_F_NOPREFIXROUTE
	}
	native := nl.NativeEndian()
	u32 := func(v uint32) []byte { b := make([]byte, 4); native.PutUint32(b, v); return b }
	req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, u32(flags)))
	req.AddData(nl.NewRtAttr(ifaProto, []byte{a.Proto}))
	if p := a.Prefix; p.Addr().Is4() {
		if a.Label != "" {
			req.AddData(nl.NewRtAttr(unix.IFA_LABEL, nl.ZeroTerminated(a.Label)))
		}
		if p.Bits() < 31 {
			req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p).AsSlice()))
		}
	}
	var ci nl.IfaCacheInfo
	ci.Prefered, ci.Valid = a.lifetimes()
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, ci.Serialize()))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("add address %s: %w", a.Prefix, err)
	}
	return nil
}

func (linux) remove(a ifAddr) error {
	_, err := addrRequest(unix.RTM_DELADDR, unix.NLM_F_ACK, a).Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return errAbsent
	}
	if err != nil {
		return fmt.Errorf("remove address %s: %w", a.Prefix, err)
	}
	return nil
}

func addrRequest(kind, flags int, a ifAddr) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	family := unix.AF_INET
	if a.Prefix.Addr().Is6() {
		family = unix.AF_INET6
	}
	msg := nl.NewIfAddrmsg(family)
	msg.Index = uint32(a.Index)
	msg.Prefixlen = uint8(a.Prefix.Bits())
	ip := a.Prefix.Addr().AsSlice()
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, ip))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, ip))
	return req
}

// subscribe reads notifications of links and addresses. The buffer is made
// larger than the default so that a storm of container interfaces coming and
// going does not overflow it at once; when it does, the channel closes and the
// reader looks at everything anew.
func (linux) subscribe(ctx context.Context) (<-chan change, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to network changes: %w", err)
	}
	_ = s.SetReceiveBufferSize(1<<20, true) // a smaller buffer only means more resubscribing
	out := make(chan change)
	var once sync.Once
	closeSocket := func() { once.Do(s.Close) }
	stop := context.AfterFunc(ctx, closeSocket)
	go func() {
		defer close(out)
		defer closeSocket()
		defer stop()
		for {
			msgs, from, err := s.Receive()
			if err != nil {
				return
			}
			if from.Pid != nl.PidKernel {
				continue
			}
			for _, m := range msgs {
				c, ok := parseChange(m)
				if !ok {
					continue
				}
				select {
				case out <- c:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, nil
}

// parseChange reads a notification; false for what is none of ours.
func parseChange(m syscall.NetlinkMessage) (change, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return change{}, false
		}
		native := nl.NativeEndian()
		const running = unix.IFF_UP | unix.IFF_RUNNING
		return change{
			Index: int(int32(native.Uint32(m.Data[4:]))),
			Down:  native.Uint32(m.Data[8:])&running != running,
		}, true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, err := parseAddr(m.Data)
		if err != nil || !a.Prefix.IsValid() {
			return change{}, false
		}
		return change{Index: a.Index, Addr: a.Prefix.Addr()}, true
	}
	return change{}, false
}

// hardware is the interface as the socket packages want it.
func (l link) hardware() *net.Interface {
	return &net.Interface{Index: l.Index, Name: l.Name, HardwareAddr: l.MAC}
}
