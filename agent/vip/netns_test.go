package vip

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace runs the calling test again in a process with a network
// namespace of its own, and answers true there, false (with the outcome taken
// over) in the test that was called first.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const variable = "UNDERSTUDY_TEST_NAMESPACE"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can make network namespaces")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in its namespace: %v\n%s", err, out)
	}
	return false
}

// client is a machine on the other end of the node's eth0, in a namespace of its own.
type client struct {
	ns    netns.NsHandle
	nl    *netlink.Handle
	index int

	mu     sync.Mutex
	frames []captured // guarded by mu
}

type captured struct {
	at   time.Time
	data string
}

var clientMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0x0c}

// lan connects this namespace's eth0 (mac1, 192.0.2.1, 2001:db8::1) with a
// client's (clientMAC, 192.0.2.2, 2001:db8::2), which captures what it gets.
func lan(t *testing.T) *client {
	t.Helper()
	c := &client{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() { // its thread stays in the new namespace and ends with it
		runtime.LockOSThread()
		var err error
		c.ns, err = netns.New()
		done <- err
	}()
	must(<-done)
	var err error
	c.nl, err = netlink.NewHandleAt(c.ns)
	must(err)
	must(netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: mac1},
		PeerName:  "eth0", PeerHardwareAddr: clientMAC, PeerNamespace: netlink.NsFd(int(c.ns)),
	}))
	up := func(h *netlink.Handle, name string, addrs ...string) int {
		l, err := h.LinkByName(name)
		must(err)
		must(h.LinkSetUp(l))
		for _, a := range addrs {
			p := netip.MustParsePrefix(a)
			must(h.AddrAdd(l, &netlink.Addr{
				IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
				Flags: unix.IFA_F_NODAD,
			}))
		}
		return l.Attrs().Index
	}
	here, err := netlink.NewHandle()
	must(err)
	up(here, "lo")
	c.index = up(c.nl, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	up(here, "eth0", "192.0.2.1/24", "2001:db8::1/64")
	eventually(t, "carrier", func() bool {
		links, err := linux{}.links()
		l, ok := byName(links, "eth0")
		return err == nil && ok && l.Up
	})
	c.capture(t)
	return c
}

// inside runs f on a thread in the client's namespace.
func (c *client) inside(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(c.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (c *client) capture(t *testing.T) {
	t.Helper()
	var conn *packet.Conn
	c.inside(t, func() (err error) {
		conn, err = packet.Listen(&net.Interface{Index: c.index, HardwareAddr: clientMAC}, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 2048)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				if strings.Contains(err.Error(), "network is down") {
					continue // the link flaps in some tests
				}
				return
			}
			c.mu.Lock()
			c.frames = append(c.frames, captured{time.Now(), string(buf[:n])})
			c.mu.Unlock()
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-ended })
}

// got are the times at which exactly this frame came.
func (c *client) got(frame []byte) []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []time.Time
	for _, f := range c.frames {
		if f.data == string(frame) {
			out = append(out, f.at)
		}
	}
	return out
}

// forget drops what was captured.
func (c *client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = nil
}

// claims are the addresses that frames from mac claim.
func (c *client) claims(mac net.HardwareAddr) map[netip.Addr]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[netip.Addr]int{}
	for _, f := range c.frames {
		if cl, ok := parseClaim([]byte(f.data)); ok && !cl.Probing && cl.MAC.String() == mac.String() {
			out[cl.IP]++
		}
	}
	return out
}

// holds gives the client an address.
func (c *client) holds(t *testing.T, a Address) {
	t.Helper()
	err := c.nl.AddrAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: c.index}}, &netlink.Addr{
		IPNet: &net.IPNet{IP: a.IP().AsSlice(), Mask: net.CIDRMask(a.Prefix.Bits(), a.IP().BitLen())},
		Flags: unix.IFA_F_NODAD,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// neighbour is what the client believes an address's MAC to be.
func (c *client) neighbour(t *testing.T, ip netip.Addr) string {
	t.Helper()
	family := netlink.FAMILY_V4
	if ip.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := c.nl.NeighList(c.index, family)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if n.IP.Equal(ip.AsSlice()) {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

func (c *client) setLink(t *testing.T, up bool) {
	t.Helper()
	l, err := c.nl.LinkByIndex(c.index)
	if err != nil {
		t.Fatal(err)
	}
	set := c.nl.LinkSetDown
	if up {
		set = c.nl.LinkSetUp
	}
	if err := set(l); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not seen within 30 s: %s", what)
}
