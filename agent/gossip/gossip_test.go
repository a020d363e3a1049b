package gossip

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// node is one agent's gossip, with what it needs and what it said.
type node struct {
	*Gossip
	name, addr string
	services   func() []api.ServiceStatus

	mu      sync.Mutex
	log     bytes.Buffer     // guarded by mu
	changes []api.NodeStatus // guarded by mu
}

func (n *node) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.Write(p)
}

func (n *node) logged(text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Contains(n.log.String(), text)
}

func (n *node) peer(name string) api.NodeStatus {
	for _, p := range n.Peers() {
		if p.Node == name {
			return p
		}
	}
	return api.NodeStatus{}
}

// loopback gives an address nobody else on this machine uses just now.
func loopback(t *testing.T) string {
	t.Helper()
	var b [3]byte
	_, _ = rand.Read(b[:])
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", b[0], b[1], 1+b[2]%250))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var testKey = [32]byte{1, 2, 3}

const testInterval = 200 * time.Millisecond

// newNode makes a node that is not started; change may alter its options.
func newNode(t *testing.T, name, addr string, peers []Peer, change func(*Options)) *node {
	t.Helper()
	n := &node{name: name, addr: addr}
	opts := Options{
		Node: name, Software: "test", Bind: addr, Key: testKey, Peers: peers, Interval: testInterval,
		Local: func() api.NodeStatus {
			s := api.NodeStatus{Health: api.NodeHealth{PodmanVersion: "of " + name}}
			if n.services != nil {
				s.Services = n.services()
			}
			return s
		},
		OnChange: func(s api.NodeStatus) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.changes = append(n.changes, s)
		},
		Logger: slog.New(slog.NewTextHandler(n, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&opts)
	}
	g, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	n.Gossip = g
	t.Cleanup(func() {
		if err := g.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			n.mu.Lock()
			defer n.mu.Unlock()
			t.Logf("log of %s:\n%s", name, n.log.String())
		}
	})
	return n
}

func (n *node) start(t *testing.T) *node {
	t.Helper()
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return n
}

// cluster makes and starts nodes n1, n2, ... that are each other's peers.
func cluster(t *testing.T, count int, change func(*Options)) []*node {
	t.Helper()
	var all []Peer
	for i := range count {
		all = append(all, Peer{Name: fmt.Sprintf("n%d", i+1), Addr: loopback(t)})
	}
	var nodes []*node
	for i, p := range all {
		peers := slices.Delete(slices.Clone(all), i, i+1)
		nodes = append(nodes, newNode(t, p.Name, p.Addr, peers, change).start(t))
	}
	return nodes
}

// eventually waits for what needs a few exchanges.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not seen within 30 s: %s", what)
}

func TestConvergence(t *testing.T) {
	nodes := cluster(t, 3, nil)
	for _, n := range nodes {
		for _, p := range nodes {
			if n == p {
				continue
			}
			eventually(t, n.name+" knows "+p.name, func() bool {
				s := n.peer(p.name)
				_, _, clock := n.Clock(p.name)
				return s.Alive && !s.Self && s.Health.PodmanVersion == "of "+p.name && s.Version == api.Version &&
					s.Software == "test" && s.Incarnation != 0 && clock
			})
			if off := time.Duration(n.peer(p.name).ClockOffset); off < -time.Second || off > time.Second {
				t.Errorf("clock offset %v on one machine", off)
			}
		}
	}
	before := nodes[0].peer("n2").Seq
	eventually(t, "states keep coming", func() bool { return nodes[0].peer("n2").Seq > before+3 })
	if s := time.Duration(nodes[0].peer("n2").SeenAgo); s < 0 || s > 20*time.Second {
		t.Errorf("seen %v ago", s)
	}
	if s := nodes[0].Self(); !s.Self || !s.Alive || s.Node != "n1" || s.Seq == 0 {
		t.Errorf("self: %+v", s)
	}
}

func TestPublishIsImmediate(t *testing.T) {
	nodes := cluster(t, 2, func(o *Options) { o.Interval = 5 * time.Second })
	n1, n2 := nodes[0], nodes[1]
	eventually(t, "joined", func() bool { return n2.peer("n1").Incarnation != 0 && n1.peer("n2").Alive })
	seq := n1.Self().Seq
	n1.Publish()
	start := time.Now()
	eventually(t, "the state is there", func() bool { return n2.peer("n1").Seq > seq })
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("took %v: that was the interval", d)
	}
	eventually(t, "OnChange", func() bool {
		n2.mu.Lock()
		defer n2.mu.Unlock()
		return len(n2.changes) > 0 && n2.changes[len(n2.changes)-1].Seq > seq
	})
}

// A state too large for a datagram goes over TCP.
func TestBigState(t *testing.T) {
	big := make([]api.ServiceStatus, 300)
	for i := range big {
		var b [64]byte // cannot be deflated away
		_, _ = rand.Read(b[:])
		big[i] = api.ServiceStatus{Service: fmt.Sprintf("s%d", i), Images: []string{fmt.Sprintf("%x", b)}}
	}
	n3addr := loopback(t)
	n3 := newNode(t, "n3", n3addr, []Peer{{"n4", loopback(t)}}, nil)
	n4 := newNode(t, "n4", n3.opts.Peers[0].Addr, []Peer{{"n3", n3addr}}, nil)
	n3.services = func() []api.ServiceStatus { return big }
	n3.start(t)
	n4.start(t)
	eventually(t, "big state", func() bool {
		s := n4.peer("n3")
		return len(s.Services) == 300 && s.Services[299].Images[0] == big[299].Images[0]
	})
	n3.own.Lock()
	size := len(n3.own.encoded)
	n3.own.Unlock()
	if size <= maxDatagram {
		t.Errorf("the state has %d bytes: the test does not test", size)
	}
	before := n4.peer("n3").Seq
	eventually(t, "and the next", func() bool { return n4.peer("n3").Seq > before+3 })
}

func TestWrongKey(t *testing.T) {
	a, b := loopback(t), loopback(t)
	n1 := newNode(t, "n1", a, []Peer{{"n2", b}}, nil).start(t)
	n2 := newNode(t, "n2", b, []Peer{{"n1", a}}, func(o *Options) { o.Key[31] = 9 }).start(t)
	eventually(t, "complaint about the key", func() bool {
		return (n1.logged("compare the gossip key files") || n2.logged("compare the gossip key files"))
	})
	for _, p := range append(n1.Peers(), n2.Peers()...) {
		if p.Alive || p.Incarnation != 0 {
			t.Errorf("got in with a wrong key: %+v", p)
		}
	}
}

func TestStrangersAndDoublesAreRefused(t *testing.T) {
	a, b, c, d := loopback(t), loopback(t), loopback(t), loopback(t)
	n1 := newNode(t, "n1", a, []Peer{{"n2", b}}, nil).start(t)
	n2 := newNode(t, "n2", b, []Peer{{"n1", a}}, nil).start(t)
	eventually(t, "joined", func() bool { return n1.peer("n2").Incarnation != 0 && n2.peer("n1").Alive })
	inc := n1.peer("n2").Incarnation
	newNode(t, "n9", c, []Peer{{"n1", a}}, nil).start(t)
	eventually(t, "stranger refused", func() bool { return n1.logged("not a configured peer wants to join: refused") })
	newNode(t, "n2", d, []Peer{{"n1", a}}, nil).start(t)
	eventually(t, "double refused", func() bool { return n1.logged("is at another address than the configured one: refused") })
	newNode(t, "n1", loopback(t), []Peer{{"n2", b}}, nil).start(t)
	eventually(t, "second of our own name", func() bool {
		return n2.logged("is at another address than the configured one: refused")
	})
	// The right ones are not disturbed for good. (On a busy machine a peer can
	// seem dead for a moment at these short intervals.)
	eventually(t, "n2 as before", func() bool {
		s := n1.peer("n2")
		return len(n1.Peers()) == 1 && s.Alive && s.Incarnation == inc
	})
	if n1.logged("remembers a later start") || n2.logged("remembers a later start") {
		t.Error("the second node's state got in")
	}
}

// stopHard ends a node as a crash does: without a good-bye.
func (n *node) stopHard(t *testing.T) {
	t.Helper()
	n.life.Lock()
	defer n.life.Unlock()
	n.life.stopped = true
	n.cancel()
	n.wg.Wait()
	if err := n.members.Shutdown(); err != nil {
		t.Error(err)
	}
}

func TestDeathAndReturn(t *testing.T) {
	nodes := cluster(t, 2, nil)
	n1, n2 := nodes[0], nodes[1]
	eventually(t, "joined", func() bool { return n1.peer("n2").Incarnation != 0 && n2.peer("n1").Alive })
	old := n1.peer("n2")
	n2.stopHard(t)
	eventually(t, "death", func() bool { return !n1.peer("n2").Alive })
	if s := n1.peer("n2"); s.Incarnation != old.Incarnation || s.Health.PodmanVersion == "" {
		t.Errorf("what the dead one said last is forgotten: %+v", s)
	}
	again := newNode(t, "n2", n2.addr, []Peer{{"n1", n1.addr}}, nil).start(t)
	eventually(t, "return", func() bool {
		s := n1.peer("n2")
		return s.Alive && s.Incarnation > old.Incarnation && again.peer("n1").Alive
	})

	if err := again.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "good-bye", func() bool { return !n1.peer("n2").Alive })
	third := newNode(t, "n2", n2.addr, []Peer{{"n1", n1.addr}}, nil).start(t)
	eventually(t, "return after a good-bye", func() bool {
		return n1.peer("n2").Incarnation > again.Self().Incarnation && n1.peer("n2").Alive && third.peer("n1").Alive
	})
}

// A node whose clock was set back is heard all the same after its restart.
func TestRestartWithClockSetBack(t *testing.T) {
	nodes := cluster(t, 2, nil)
	n1, n2 := nodes[0], nodes[1]
	eventually(t, "joined", func() bool { return n1.peer("n2").Incarnation != 0 })
	old := n1.peer("n2").Incarnation
	n2.stopHard(t)
	again := newNode(t, "n2", n2.addr, []Peer{{"n1", n1.addr}}, nil)
	again.own.state.Incarnation = old - int64(time.Hour)
	again.start(t)
	eventually(t, "heard", func() bool { return n1.peer("n2").Incarnation > old })
}

func TestOtherVersion(t *testing.T) {
	nodes := cluster(t, 2, nil)
	n1, n2 := nodes[0], nodes[1]
	eventually(t, "joined", func() bool { return n1.peer("n2").Incarnation != 0 })
	say := func() {
		m := encodeForeign(t, header{Version: api.Version + 1, Node: "n2", Software: "9.9", Addr: n2.addr})
		n1.handle(message{data: m, at: time.Now()})
	}
	n2.stopHard(t)
	eventually(t, "death", func() bool { return !n1.peer("n2").Alive })
	say()
	say()
	if s := n1.peer("n2"); s.Version != api.Version+1 || s.Software != "9.9" || s.Services != nil || s.Incarnation != 0 {
		t.Errorf("got %+v", s)
	}
	n1.mu.Lock()
	times := strings.Count(n1.log.String(), "speaks another version")
	n1.mu.Unlock()
	if times != 1 {
		t.Errorf("logged %d times, want once", times)
	}
	newNode(t, "n2", n2.addr, []Peer{{"n1", n1.addr}}, nil).start(t)
	eventually(t, "heard again after the upgrade", func() bool {
		s := n1.peer("n2")
		return s.Version == api.Version && s.Alive && s.Incarnation != 0
	})
}

func TestLifecycle(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	n := newNode(t, "n1", taken.Addr().String(), nil, nil)
	if err := n.Start(t.Context()); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("a port that is taken: %v", err)
	}
	n = newNode(t, "n1", loopback(t), nil, nil)
	if err := n.Stop(); err != nil {
		t.Errorf("Stop without Start: %v", err)
	}
	if err := n.Start(t.Context()); err == nil {
		t.Error("started after Stop")
	}
}

func TestNoGoroutineIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	nodes := cluster(t, 3, nil)
	eventually(t, "joined", func() bool { return nodes[0].peer("n3").Alive && nodes[2].peer("n1").Alive })
	for _, n := range nodes {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "all goroutines ended", func() bool { return runtime.NumGoroutine() <= before })
}
