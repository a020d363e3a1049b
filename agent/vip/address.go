package vip

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// Mark is the protocol number (IFA_PROTO) of addresses that are ours.
// The kernel uses 1 to 3; the number has no registry.
const Mark = 0x75

// labelSuffix ends the label of an IPv4 address that is ours.
const labelSuffix = ":us"

// Address is one virtual IP on one interface.
type Address struct {
	Prefix netip.Prefix // the address with its subnet's length, host bits kept
	NIC    string
}

// IP is the address without its prefix length.
func (a Address) IP() netip.Addr { return a.Prefix.Addr() }

// String is "192.0.2.100/24 on eth0".
func (a Address) String() string { return a.Prefix.String() + " on " + a.NIC }

// Held is an address that is on this node now.
type Held struct {
	Address
	Marked bool          // carries our mark
	Leased bool          // the kernel takes it away when Left runs out
	Left   time.Duration // what is left of the lease
}

// DuplicateError says that another machine on the network holds an address.
type DuplicateError struct {
	Address Address
	MAC     net.HardwareAddr // of the other one
	Probing bool             // the other does not hold it yet: it is probing for it, as we are
}

// Error names the address, the interface and the other MAC.
func (e *DuplicateError) Error() string { return e.operator().Error() }

// Unwrap gives the error its kind, [api.KindRefused].
func (e *DuplicateError) Unwrap() error { return e.operator() }

func (e *DuplicateError) operator() *api.Error {
	what := "is held by"
	if e.Probing {
		what = "is being claimed at this moment by"
	}
	return api.Errorf(api.KindRefused,
		fmt.Sprintf("find the machine with `ip neigh` or the switch's table and take %s away there, "+
			"or set vip-conflict=take if the holder is known to be dead", e.Address.IP()),
		"address %s on %s %s %s", e.Address.IP(), e.Address.NIC, what, e.MAC)
}

// ParseCIDR reads an address with its prefix length and refuses what cannot be
// a virtual IP. The error is of [api.KindConfigured]: it is wrong on every node.
func ParseCIDR(cidr string) (netip.Prefix, error) {
	const next = `write an address with its prefix length, such as 192.0.2.100/24 or 2001:db8::100/64`
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		if a, aerr := netip.ParseAddr(cidr); aerr == nil {
			return netip.Prefix{}, api.Errorf(api.KindConfigured, next, "virtual IP %s has no prefix length", a)
		}
		return netip.Prefix{}, api.Errorf(api.KindConfigured, next, "virtual IP %q is not an address with prefix length", cidr)
	}
	ip := p.Addr()
	switch {
	case ip.Is4In6():
		return netip.Prefix{}, api.Errorf(api.KindConfigured, "write it in its IPv4 form", "virtual IP %s is an IPv4 address in IPv6 clothes", cidr)
	case ip.IsUnspecified(), ip.IsLoopback(), ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Prefix{}, api.Errorf(api.KindConfigured, next, "virtual IP %s is not an address a machine can have on a network", cidr)
	case ip.Is4() && p.Bits() < 31 && p.Bits() > 0 && (ip == p.Masked().Addr() || ip == broadcast(p)):
		return netip.Prefix{}, api.Errorf(api.KindConfigured, "choose an address inside the subnet", "virtual IP %s is its subnet's own network or broadcast address", cidr)
	case p.Bits() == 0:
		return netip.Prefix{}, api.Errorf(api.KindConfigured, next, "virtual IP %s has the prefix length 0", cidr)
	}
	return p, nil
}

// broadcast is the last address of an IPv4 subnet.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// label is what marks an IPv4 address for people; empty where the interface's
// name leaves no room (a label has at most 15 bytes).
func label(nic string) string {
	if len(nic)+len(labelSuffix) > 15 {
		return ""
	}
	return nic + labelSuffix
}

// ours tells from mark or label whether an address was added by this package.
func (a ifAddr) ours() bool {
	return a.Proto == Mark || strings.HasSuffix(a.Label, labelSuffix)
}
