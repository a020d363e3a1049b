package vip

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// Resolve says on which interface a virtual IP belongs: nic if it is given;
// else the one that holds it already; else the one with an address whose
// subnet covers it (the longest prefix wins, then one that is up); else the
// one with a directly connected route to it.
//
// Errors are an [api.Error]: KindConfigured for a bad address, KindArgs for an
// interface that does not exist here, KindGeneric where no interface fits (it
// may still be waiting for its own address).
func (m *Manager) Resolve(cidr, nic string) (Address, error) {
	p, err := ParseCIDR(cidr)
	if err != nil {
		return Address{}, err
	}
	links, err := m.kernel.links()
	if err != nil {
		return Address{}, err
	}
	if nic != "" {
		if _, ok := byName(links, nic); !ok {
			return Address{}, api.Errorf(api.KindArgs, "set nic to one of "+names(links)+", or leave it out",
				"interface %s for virtual IP %s does not exist on this node", nic, cidr)
		}
		return Address{Prefix: p, NIC: nic}, nil
	}
	addrs, err := m.kernel.addrs(0)
	if err != nil {
		return Address{}, err
	}
	if l, ok := bySubnet(links, addrs, p.Addr()); ok {
		return Address{Prefix: p, NIC: l.Name}, nil
	}
	index, err := m.kernel.onLink(p.Addr())
	if err != nil {
		return Address{}, err
	}
	if l, ok := byIndex(links, index); ok {
		return Address{Prefix: p, NIC: l.Name}, nil
	}
	return Address{}, api.Errorf(api.KindGeneric, "set nic to one of "+names(links)+", or give one of them an address in that subnet",
		"no interface of this node has an address or a direct route in the subnet of virtual IP %s", cidr)
}

// bySubnet finds the interface whose own address covers ip best.
func bySubnet(links []link, addrs []ifAddr, ip netip.Addr) (link, bool) {
	var best link
	score := -1
	for _, a := range addrs {
		l, ok := byIndex(links, a.Index)
		if !ok || l.Mute && l.Name == "lo" {
			continue
		}
		if a.Prefix.Addr() == ip {
			return l, true
		}
		if a.ours() || ip.IsLinkLocalUnicast() && ip.Is6() || !a.Prefix.Contains(ip) {
			continue // every interface has fe80::/64: it tells nothing
		}
		s := a.Prefix.Bits() * 2
		if l.Up {
			s++
		}
		if s > score {
			best, score = l, s
		}
	}
	return best, score >= 0
}

func byName(links []link, name string) (link, bool) {
	for _, l := range links {
		if l.Name == name {
			return l, true
		}
	}
	return link{}, false
}

func byIndex(links []link, index int) (link, bool) {
	for _, l := range links {
		if l.Index == index && index != 0 {
			return l, true
		}
	}
	return link{}, false
}

func names(links []link) string {
	var out []string
	for _, l := range links {
		if l.Name != "lo" {
			out = append(out, l.Name)
		}
	}
	if len(out) == 0 {
		return "(this node has no interface but lo)"
	}
	return strings.Join(out, ", ")
}

// located is an address together with its interface as it is now.
type located struct {
	Address
	link link
}

// locate finds the interfaces of addresses; every one must exist.
func (m *Manager) locate(addrs []Address) ([]located, []link, error) {
	links, err := m.kernel.links()
	if err != nil {
		return nil, nil, err
	}
	out := make([]located, 0, len(addrs))
	for _, a := range addrs {
		l, ok := byName(links, a.NIC)
		if !ok {
			return nil, nil, api.Errorf(api.KindGeneric, "bring the interface back, or set nic to one of "+names(links),
				"interface %s of virtual IP %s is not there", a.NIC, a.Prefix)
		}
		if !a.Prefix.IsValid() {
			return nil, nil, fmt.Errorf("virtual IP on %s has no valid address", a.NIC)
		}
		out = append(out, located{Address: a, link: l})
	}
	return out, links, nil
}
