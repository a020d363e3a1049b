package vip

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	mac1 = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	mac9 = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	ip4  = netip.MustParseAddr("192.0.2.100")
	ip6  = netip.MustParseAddr("2001:db8::100")
)

// The checksums were worked out apart from this package.
const (
	wantARPProbe   = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 00000000 000000000000 c0000264"
	wantARPRequest = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c0000264 000000000000 c0000264"
	wantARPReply   = "ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 c0000264 020000000001 c0000264"
	wantSolicit    = "3333ff000100 020000000001 86dd 60000000 0018 3a ff " +
		"00000000000000000000000000000000 ff0200000000000000000001ff000100 " +
		"87 00 4aef 00000000 20010db8000000000000000000000100"
	wantAdvertise = "333300000001 020000000001 86dd 60000000 0020 3a ff " +
		"20010db8000000000000000000000100 ff020000000000000000000000000001 " +
		"88 00 f72c 20000000 20010db8000000000000000000000100 02 01 020000000001"
)

func TestFramesByteByByte(t *testing.T) {
	a4, a6 := announceFrames(mac1, ip4), announceFrames(mac1, ip6)
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"arp probe", probeFrame(mac1, ip4), wantARPProbe},
		{"gratuitous request", a4[0], wantARPRequest},
		{"gratuitous reply", a4[1], wantARPReply},
		{"nd probe", probeFrame(mac1, ip6), wantSolicit},
		{"nd advertisement", a6[0], wantAdvertise},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, c.got, want)
		}
	}
	if len(a4) != 2 || len(a6) != 1 {
		t.Errorf("announcements: %d frames for IPv4, %d for IPv6; want 2 and 1", len(a4), len(a6))
	}
}

func TestParseClaim(t *testing.T) {
	broken := func(f []byte, i int, b byte) []byte { f = bytes.Clone(f); f[i] = b; return f }
	adv := announceFrames(mac9, ip6)[0]
	noOption := icmp6Frame(mac9, ip6, allNodes, append([]byte{ndAdvertise, 0, 0, 0, naOverride, 0, 0, 0}, ip6.AsSlice()...))
	plainSolicit := icmp6Frame(mac9, ip6, solicitedNode(ip6), append([]byte{ndSolicit, 0, 0, 0, 0, 0, 0, 0}, ip6.AsSlice()...))
	other := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name  string
		frame []byte
		ok    bool
		want  claim
	}{
		{"reply", announceFrames(mac9, ip4)[1], true, claim{ip4, mac9, false}},
		{"request", announceFrames(mac9, ip4)[0], true, claim{ip4, mac9, false}},
		{"request for another", arpFrame(arpRequest, mac9, ip4, zeroMAC, other), true, claim{ip4, mac9, false}},
		{"probe", probeFrame(mac9, ip4), true, claim{ip4, mac9, true}},
		{"reply from nobody", arpFrame(arpReply, mac9, netip.IPv4Unspecified(), zeroMAC, ip4), false, claim{}},
		{"unknown operation", arpFrame(9, mac9, ip4, zeroMAC, ip4), false, claim{}},
		{"short", announceFrames(mac9, ip4)[1][:30], false, claim{}},
		{"not Ethernet", broken(announceFrames(mac9, ip4)[1], 15, 6), false, claim{}},
		{"padded", append(announceFrames(mac9, ip4)[1], make([]byte, 18)...), true, claim{ip4, mac9, false}},
		{"advertisement", adv, true, claim{ip6, mac9, false}},
		{"advertisement without option", noOption, true, claim{ip6, mac9, false}},
		{"nd probe", probeFrame(mac9, ip6), true, claim{ip6, mac9, true}},
		{"ordinary solicitation", plainSolicit, false, claim{}},
		{"wrong hop limit", broken(adv, etherLen+7, 64), false, claim{}},
		{"wrong checksum", broken(adv, etherLen+ip6Len+2, adv[etherLen+ip6Len+2]^1), false, claim{}},
		{"length beyond the frame", broken(adv, etherLen+5, 200), false, claim{}},
		{"nothing", nil, false, claim{}},
	} {
		got, ok := parseClaim(c.frame)
		if ok != c.ok || ok && (got.IP != c.want.IP || got.Probing != c.want.Probing || !bytes.Equal(got.MAC, c.want.MAC)) {
			t.Errorf("%s: got %+v %v, want %+v %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

func FuzzParseClaim(f *testing.F) {
	for _, ip := range []netip.Addr{ip4, ip6} {
		f.Add(probeFrame(mac1, ip))
		for _, fr := range announceFrames(mac1, ip) {
			f.Add(fr)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := parseClaim(b)
		if ok && (!c.IP.IsValid() || len(c.MAC) != 6) {
			t.Errorf("accepted a claim without address or MAC: %+v", c)
		}
		_ = describe(b)
	})
}

func FuzzParseAddr(f *testing.F) {
	f.Add([]byte{2, 24, 0, 0, 2, 0, 0, 0, 8, 0, 1, 0, 192, 0, 2, 1, 8, 0, 2, 0, 192, 0, 2, 1})
	f.Add([]byte{10, 64, 0, 0, 2, 0, 0, 0, 5, 0, 11, 0, 0x75, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAddr(b)
		if err == nil && a.Prefix.IsValid() && a.Prefix.Bits() > a.Prefix.Addr().BitLen() {
			t.Errorf("impossible prefix %v", a.Prefix)
		}
	})
}
