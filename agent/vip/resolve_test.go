package vip

import (
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/agent/api"
)

func TestResolve(t *testing.T) {
	f := newFake("eth0", "eth1", "eth2")
	f.give(1, "127.0.0.1/8")
	f.give(2, "192.0.2.1/24")
	f.give(2, "fe80::1/64")
	f.give(3, "192.0.2.129/25")
	f.give(3, "2001:db8::1/64")
	f.give(4, "203.0.113.9/24")
	f.give(4, "198.51.100.1/24")
	f.give(2, "198.51.100.2/24")
	f.give(4, "192.0.2.50/24") // a virtual IP a predecessor left
	f.list[len(f.list)-1].Proto = Mark
	f.setLink("eth0", false)
	m := New(Options{kernel: f})
	defer m.Close()
	for _, c := range []struct {
		cidr, nic string
		want      string
		kind      api.Kind
	}{
		{"192.0.2.100/24", "", "eth0", ""},
		{"192.0.2.200/24", "", "eth1", ""}, // the longer prefix
		{"192.0.2.200/32", "", "eth1", ""},
		{"198.51.100.50/24", "", "eth2", ""}, // the one that is up
		{"192.0.2.50/24", "", "eth2", ""},    // where it is already
		{"2001:db8::100/64", "", "eth1", ""},
		{"10.0.0.1/8", "eth2", "eth2", ""},
		{"fe80::5/64", "", "", api.KindGeneric},
		{"10.0.0.1/8", "", "", api.KindGeneric},
		{"192.0.2.100/24", "eth9", "", api.KindArgs},
		{"192.0.2.100", "", "", api.KindConfigured},
		{"nonsense", "eth0", "", api.KindConfigured},
		{"127.0.0.2/8", "", "", api.KindConfigured},
		{"224.0.0.1/4", "", "", api.KindConfigured},
		{"192.0.2.255/24", "", "", api.KindConfigured},
		{"192.0.2.0/24", "", "", api.KindConfigured},
		{"192.0.2.4/31", "", "eth0", ""},
		{"::ffff:192.0.2.1/120", "", "", api.KindConfigured},
		{"0.0.0.0/0", "", "", api.KindConfigured},
		{"192.0.2.9/0", "", "", api.KindConfigured},
	} {
		got, err := m.Resolve(c.cidr, c.nic)
		switch {
		case c.kind == "" && err != nil, c.kind != "" && (err == nil || api.KindOf(err) != c.kind):
			t.Errorf("%s %s: got %v, want kind %q", c.cidr, c.nic, err, c.kind)
		case got.NIC != c.want:
			t.Errorf("%s %s: got %q, want %q", c.cidr, c.nic, got.NIC, c.want)
		case err != nil && c.kind != api.KindConfigured && !strings.Contains(err.Error(), "eth0, eth1, eth2"):
			t.Errorf("%s %s: the error does not name the interfaces there are: %v", c.cidr, c.nic, err)
		}
	}
}
