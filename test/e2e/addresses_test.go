//go:build lab

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// allAddresses are those that testAddresses gives to the service.
var allAddresses = []string{stack.VIP, "192.0.2.101", "2001:db8::64"}

// testAddresses: a service can have several addresses, of both families, and get
// and lose them while it runs, unnoticed by the clients of those that stay. A
// planned move takes all of them along; when the active node's interface flaps,
// and the kernel drops what is IPv6, all come back without an operator. Whoever
// has them announces them.
func testAddresses(t *testing.T, c *cluster) {
	c.speakIPv6(t)
	c.forgetCleanup(t)
	n := c.Node("n1")
	alone := func() string { return c.sh(t, n, "pcs resource update registry vip="+stack.VIP+"/24") }
	t.Cleanup(func() { alone() })
	unbroken(t, c.measured(t, func() {
		c.sh(t, n, "pcs resource update registry vip=192.0.2.100/24,192.0.2.101/24,2001:db8::64/64")
		c.answersAt(t, allAddresses)
	}))
	c.settle(t)

	was, now := c.roles(t)
	ears := listen(t, c.Client())
	c.sh(t, was, "understudy switchover registry --yes")
	c.waitRole(t, now, api.RoleActive)
	c.answersAt(t, allAddresses)
	ears.heard(t, now, allAddresses)
	c.settle(t)

	active, _ := c.roles(t)
	began := time.Now()
	flap(t, c, active)
	ears.forget()
	c.answersAt(t, allAddresses)
	contains(t, "the journal", c.journal(t, active, began), allAddresses[2]+"/64 on eth0 is gone from this node without an order")
	t.Logf("after the flap every address answers again within %v", time.Since(began).Round(10*time.Millisecond))
	c.settle(t)
	holder, _ := c.roles(t)
	ears.heard(t, holder, allAddresses)

	unbroken(t, c.measured(t, func() {
		alone()
		eventually(t, 30*time.Second, "the other addresses to be gone", func() error { return c.onlyHolders(allAddresses[1:], 0) })
	}))
	must(t, c.onlyHolders(allAddresses[:1], 1))
	c.sh(t, n, "pcs resource cleanup registry >/dev/null")
}

// speakIPv6 puts the registry on a network with IPv6, if the step definition has not.
func (c *cluster) speakIPv6(t *testing.T) {
	t.Helper()
	active, standby := c.roles(t)
	if onBoth(t, c, active) != nil {
		c.sh(t, active, "pcs property set maintenance-mode=true\n"+registryOnBoth+"\npcs property set maintenance-mode=false")
	}
	eventually(t, 60*time.Second, "the container to be made anew on the standby", func() error { return onBoth(t, c, standby) })
	c.settle(t)
}

// forgetCleanup moves the service if it was cleaned up since it was started here.
// Pacemaker knows it from a probe then, not from an order, and restarts it for any
// parameter that changes.
func (c *cluster) forgetCleanup(t *testing.T) {
	t.Helper()
	active, standby := c.roles(t)
	probed := c.sh(t, active, "cibadmin --query --xpath \"//node_state[@uname='"+active.Name()+"']//lrm_rsc_op[@id='registry_last_0' and @operation='monitor']\" 2>/dev/null || true")
	if probed == "" {
		return
	}
	c.sh(t, active, "understudy switchover registry --yes")
	c.waitRole(t, standby, api.RoleActive)
	c.settle(t)
}

// answersAt waits until the client reaches the registry at each address, and each
// is on the active node alone.
func (c *cluster) answersAt(t *testing.T, addresses []string) {
	t.Helper()
	eventually(t, 60*time.Second, "an answer at every address", func() error {
		var errs []error
		for _, a := range addresses {
			_, err := c.ask(http.MethodGet, "http://"+net.JoinHostPort(a, "5000")+"/v2/", time.Second)
			errs = append(errs, err)
		}
		return errors.Join(append(errs, c.onlyHolders(addresses, 1))...)
	})
}

// onlyHolders is an error unless each address is on so many nodes, as the kernel says:
// on one means on the active one.
func (c *cluster) onlyHolders(addresses []string, want int) error {
	var errs []error
	for _, a := range addresses {
		var on []string
		for _, n := range c.Nodes() {
			tr := look(n)
			if tr.holds(a) {
				on = append(on, n.Name())
				if !tr.active() {
					errs = append(errs, fmt.Errorf("%s is on %s, which is not active", a, n.Name()))
				}
			}
		}
		if len(on) != want {
			errs = append(errs, fmt.Errorf("%s is on %v", a, on))
		}
	}
	return errors.Join(errs...)
}

// flap takes the node's interface down and up. The kernel drops its IPv6
// addresses; the node's own is brought back, as a network manager would do.
func flap(t *testing.T, c *cluster, n *lab.Node) {
	t.Helper()
	c.sh(t, n, "ip link set eth0 down; sleep 0.1; ip link set eth0 up; ip address add "+n.IP6()+"/64 dev eth0 nodad")
}

// ears listen to announcements on the client's cable.
type ears struct {
	frames chan announcement
	past   map[announcement]bool
}

// announcement is who has what, as an unsolicited frame claims.
type announcement struct{ address, mac string }

func listen(t *testing.T, c *lab.Client) *ears {
	t.Helper()
	e := &ears{frames: make(chan announcement, 4096), past: map[announcement]bool{}}
	socket := packetSocket(t, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, _, err := socket.ReadFrom(buf)
			if err != nil {
				return
			}
			if a, ok := parseAnnouncement(buf[:n]); ok {
				select {
				case e.frames <- a:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		socket.Close()
		<-done
	})
	return e
}

// forget what was heard up to now.
func (e *ears) forget() {
	for len(e.frames) > 0 {
		<-e.frames
	}
	clear(e.past)
}

// heard waits until the node has announced each address since what was forgotten.
func (e *ears) heard(t *testing.T, n *lab.Node, addresses []string) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("announcements of %v by %s", addresses, n.Name()), func() error {
		for len(e.frames) > 0 {
			e.past[<-e.frames] = true
		}
		for _, a := range addresses {
			if !e.past[announcement{a, macOf(n)}] {
				return fmt.Errorf("none of %s; heard: %v", a, e.past)
			}
		}
		return nil
	})
}

// macOf is the hardware address that the lab gives to a node.
func macOf(n *lab.Node) string {
	return "02:00:5e:00:53:0" + strings.TrimPrefix(n.Name(), "n")
}

// parseAnnouncement reads a gratuitous ARP or an unsolicited neighbour advertisement
// to all nodes that overrides what is known.
func parseAnnouncement(f []byte) (announcement, bool) {
	switch {
	case len(f) >= 42 && f[12] == 0x08 && f[13] == 0x06 && string(f[28:32]) == string(f[38:42]):
		a, _ := netip.AddrFromSlice(f[28:32])
		return announcement{a.String(), net.HardwareAddr(f[22:28]).String()}, true
	case len(f) >= 78 && f[12] == 0x86 && f[13] == 0xdd && f[20] == 58 && f[54] == 136 && f[58]&0x20 != 0 && f[38] == 0xff:
		a, _ := netip.AddrFromSlice(f[62:78])
		return announcement{a.String(), net.HardwareAddr(f[6:12]).String()}, true
	}
	return announcement{}, false
}
