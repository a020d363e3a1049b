package vip

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
)

// Numbers from IEEE 802, RFC 826 and RFC 4861.
const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	etherLen  = 14

	arpLen     = 28
	arpRequest = 1
	arpReply   = 2

	ip6Len      = 40
	protoICMPv6 = 58
	hopLimit    = 255 // neighbour discovery is refused with any other
	ndSolicit   = 135
	ndAdvertise = 136
	naOverride  = 0x20
	optSource   = 1 // source link-layer address
	optTarget   = 2 // target link-layer address
)

var (
	zeroMAC      = net.HardwareAddr{0, 0, 0, 0, 0, 0}
	broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes     = netip.MustParseAddr("ff02::1")
)

// probeFrame asks whether anybody has ip, in a way that teaches nobody that
// we might: an ARP request from 0.0.0.0 (RFC 5227) or a neighbour
// solicitation from :: (RFC 4862).
func probeFrame(mac net.HardwareAddr, ip netip.Addr) []byte {
	if ip.Is4() {
		return arpFrame(arpRequest, mac, netip.IPv4Unspecified(), zeroMAC, ip)
	}
	target := ip.As16()
	body := append([]byte{ndSolicit, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
	return icmp6Frame(mac, netip.IPv6Unspecified(), solicitedNode(ip), body)
}

// announceFrames tell everybody that mac has ip now: gratuitous ARP as request
// and as reply (the reply's target is the sender, RFC 5944 4.6), or an
// unsolicited neighbour advertisement that overrides what is cached. Its Router
// flag is not set: a virtual IP is no one's gateway.
func announceFrames(mac net.HardwareAddr, ip netip.Addr) [][]byte {
	if ip.Is4() {
		return [][]byte{
			arpFrame(arpRequest, mac, ip, zeroMAC, ip),
			arpFrame(arpReply, mac, ip, mac, ip),
		}
	}
	target := ip.As16()
	body := append([]byte{ndAdvertise, 0, 0, 0, naOverride, 0, 0, 0}, target[:]...)
	body = append(body, optTarget, 1)
	body = append(body, mac...)
	return [][]byte{icmp6Frame(mac, ip, allNodes, body)}
}

func arpFrame(op uint16, src net.HardwareAddr, senderIP netip.Addr, targetMAC net.HardwareAddr, targetIP netip.Addr) []byte {
	f := make([]byte, 0, etherLen+arpLen)
	f = append(f, broadcastMAC...)
	f = append(f, src...)
	f = binary.BigEndian.AppendUint16(f, etherARP)
	f = append(f, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4, their lengths
	f = binary.BigEndian.AppendUint16(f, op)
	f = append(f, src...)
	f = append(f, senderIP.AsSlice()...)
	f = append(f, targetMAC...)
	return append(f, targetIP.AsSlice()...)
}

// icmp6Frame wraps an ICMPv6 body, whose checksum it fills in, for a multicast destination.
func icmp6Frame(src net.HardwareAddr, from, to netip.Addr, body []byte) []byte {
	from16, to16 := from.As16(), to.As16()
	f := make([]byte, 0, etherLen+ip6Len+len(body))
	f = append(f, multicastMAC(to)...)
	f = append(f, src...)
	f = binary.BigEndian.AppendUint16(f, etherIPv6)
	f = append(f, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(body)))
	f = append(f, protoICMPv6, hopLimit)
	f = append(f, from16[:]...)
	f = append(f, to16[:]...)
	binary.BigEndian.PutUint16(body[2:], icmp6Checksum(from16, to16, body))
	return append(f, body...)
}

// icmp6Checksum is the one's complement sum over pseudo header and body
// (RFC 4443 2.3); 0 for a body that carries a right checksum.
func icmp6Checksum(from, to [16]byte, body []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	add(from[:])
	add(to[:])
	add(body)
	sum += uint32(len(body)) + protoICMPv6
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// solicitedNode is the multicast group a node with ip listens to (RFC 4291 2.7.1).
func solicitedNode(ip netip.Addr) netip.Addr {
	a := ip.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
}

// multicastMAC is where an IPv6 multicast group is sent (RFC 2464 7).
func multicastMAC(group netip.Addr) net.HardwareAddr {
	a := group.As16()
	return net.HardwareAddr{0x33, 0x33, a[12], a[13], a[14], a[15]}
}

// claim is what a frame says about who has an address.
type claim struct {
	IP      netip.Addr
	MAC     net.HardwareAddr // aliases the frame
	Probing bool             // asks for it rather than has it
}

// parseClaim reads a frame from the wire. It answers false for whatever is
// not a well-formed claim: frames are foreign bytes.
func parseClaim(f []byte) (claim, bool) {
	if len(f) < etherLen {
		return claim{}, false
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case etherARP:
		return parseARP(f[etherLen:])
	case etherIPv6:
		return parseND(f[6:12], f[etherLen:])
	}
	return claim{}, false
}

func parseARP(p []byte) (claim, bool) {
	if len(p) < arpLen || !bytes.Equal(p[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return claim{}, false
	}
	op := binary.BigEndian.Uint16(p[6:])
	if op != arpRequest && op != arpReply {
		return claim{}, false
	}
	c := claim{MAC: p[8:14], IP: netip.AddrFrom4([4]byte(p[14:18]))}
	if c.IP.IsUnspecified() {
		if op != arpRequest {
			return claim{}, false
		}
		c.IP, c.Probing = netip.AddrFrom4([4]byte(p[24:28])), true
	}
	return c, true
}

// parseND reads neighbour advertisements, and solicitations from :: (which are
// another's duplicate detection). Ordinary solicitations say nothing of their target.
func parseND(source net.HardwareAddr, p []byte) (claim, bool) {
	if len(p) < ip6Len+24 || p[0]>>4 != 6 || p[6] != protoICMPv6 || p[7] != hopLimit {
		return claim{}, false
	}
	size := int(binary.BigEndian.Uint16(p[4:]))
	if size < 24 || size > len(p)-ip6Len {
		return claim{}, false
	}
	from, to, body := [16]byte(p[8:24]), [16]byte(p[24:40]), p[ip6Len:ip6Len+size]
	if icmp6Checksum(from, to, body) != 0 || body[1] != 0 {
		return claim{}, false
	}
	c := claim{IP: netip.AddrFrom16([16]byte(body[8:24])), MAC: source}
	switch body[0] {
	case ndAdvertise:
		if mac := linkLayerOption(body[24:], optTarget); mac != nil {
			c.MAC = mac
		}
		return c, true
	case ndSolicit:
		c.Probing = true
		return c, netip.AddrFrom16(from).IsUnspecified()
	}
	return claim{}, false
}

// linkLayerOption finds an option with an Ethernet address.
func linkLayerOption(opts []byte, kind byte) net.HardwareAddr {
	for len(opts) >= 8 {
		n := int(opts[1]) * 8
		if n == 0 || n > len(opts) {
			return nil
		}
		if opts[0] == kind && n == 8 {
			return net.HardwareAddr(opts[2:8])
		}
		opts = opts[n:]
	}
	return nil
}
