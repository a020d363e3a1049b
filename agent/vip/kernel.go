package vip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// errAbsent is what kernel.Delete answers when there is no such address.
var errAbsent = errors.New("no such address")

// link is a network interface as far as this package cares.
type link struct {
	Index int
	Name  string
	MAC   net.HardwareAddr
	Up    bool // administratively up and with carrier
	Mute  bool // has no neighbours to ask or tell: loopback, NOARP, or not Ethernet
}

// ifAddr is an address on an interface.
type ifAddr struct {
	Index     int
	Prefix    netip.Prefix // host bits kept
	Label     string       // IPv4 only
	Proto     uint8
	NoRoute   bool          // noprefixroute
	Deprec    bool          // preferred lifetime 0
	Tentative bool          // IPv6: not usable yet
	Failed    bool          // IPv6: the kernel's own detection found a duplicate
	Lease     time.Duration // valid lifetime left, whole seconds; 0: for ever
}

// change is a hint that something about links or addresses is different now;
// what it is now must be asked for.
type change struct {
	Index int
	Addr  netip.Addr // valid when an address came or went
	Down  bool       // the link was down when the kernel sent this
}

// kernel is what this package needs of the operating system. Its methods may
// be called from several goroutines at once and take no longer than the
// kernel takes to answer; only wire.recv waits.
type kernel interface {
	// links lists the interfaces.
	links() ([]link, error)
	// addrs lists the addresses of an interface, or of all with index 0.
	addrs(index int) ([]ifAddr, error)
	// onLink is the interface whose directly connected route covers ip; 0: none.
	onLink(ip netip.Addr) (int, error)
	// replace adds an address, or renews flags and lease of the one that is there.
	replace(a ifAddr) error
	// remove deletes an address; errAbsent when it is not there.
	remove(a ifAddr) error
	// listen opens an interface for frames of ARP or ICMPv6 neighbour discovery.
	listen(l link, v6 bool, ips []netip.Addr) (wire, error)
	// send puts frames on an interface's wire, in order.
	send(l link, frames ...[]byte) error
	// subscribe delivers changes until ctx ends or some were missed; then the
	// channel is closed.
	subscribe(ctx context.Context) (<-chan change, error)
}

// wire is an open interface. It is used from one goroutine.
type wire interface {
	send(frames ...[]byte) error
	// recv gives the next frame; [os.ErrDeadlineExceeded] at the deadline.
	// The frame is valid until the next call.
	recv(deadline time.Time) ([]byte, error)
	close() error
}
