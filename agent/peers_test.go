package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/config"
	"github.com/understudy-ha/understudy/agent/service"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
	"github.com/understudy-ha/understudy/replication/wire/wiretest"
)

// standby is another node's store behind SSH.
func standby(t *testing.T) (*store.Store, *wiretest.Server) {
	t.Helper()
	root := t.TempDir()
	st, err := store.Open(root, "wiki", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st, wiretest.Start(t, root)
}

// newTestPeers are peers that ship from a shelf, each reached with options of its own.
func newTestPeers(t *testing.T, s *shelf, to map[string]*wiretest.Server) *peers {
	t.Helper()
	c := &config.Config{Store: t.TempDir()}
	for name, srv := range to {
		host, port, err := net.SplitHostPort(srv.Options.Addr)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		c.Peers = append(c.Peers, config.Peer{Name: name, Address: host, SSHPort: n})
	}
	p := newPeers(c, func(string) (*engine.Engine, error) { return s.engine, nil }, slog.New(slog.DiscardHandler))
	for _, one := range p.list {
		one.options = to[one.name].Options
		one.options.Name = one.name
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// stalling is a line that swallows so many bytes and then takes no more.
type stalling struct {
	io.ReadWriteCloser
	left    int
	stalled func() // called when it does
	release chan struct{}
}

func (l *stalling) Read(p []byte) (int, error) {
	if l.left <= 0 {
		l.stalled()
		<-l.release
		return 0, io.EOF
	}
	n, err := l.ReadWriteCloser.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// TestAStalledPeerHoldsUpNoOther: one stops taking what it is sent in the middle of a
// pack; the other gets that generation and the next meanwhile.
func TestAStalledPeerHoldsUpNoOther(t *testing.T) {
	s := newShelf(t)
	noise := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	s.write("large", string(noise))
	good, reachable := standby(t)
	root := t.TempDir()
	other, err := store.Open(root, "wiki", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	stalled, release := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(stalled) })
	stuck := wiretest.StartWith(t, root, func(rw io.ReadWriteCloser) error {
		line := &stalling{ReadWriteCloser: rw, left: 1 << 20, stalled: once, release: release}
		return wire.Serve(context.Background(), line, wiretest.ServerOptions(root, store.Options{}))
	})
	p := newTestPeers(t, s, map[string]*wiretest.Server{"n2": reachable, "n3": stuck})
	first := s.seal()
	var wg sync.WaitGroup
	var slow error
	wg.Go(func() { slow = p.Ship(t.Context(), "wiki", "n3") })
	<-stalled
	for want := first; ; want = s.seal() {
		if err := p.Ship(t.Context(), "wiki", "n2"); err != nil {
			t.Fatal(err)
		}
		if head, err := good.Head(); err != nil || head.String() != want {
			t.Fatalf("n2 is at %s, %v, not at %s", head, err, want)
		}
		if want != first {
			break
		}
		s.write("small", "news")
	}
	close(release)
	wg.Wait()
	if slow == nil {
		t.Error("the stalled peer took it all")
	}
}

// TestAChangedHostKeyIsAnAlarm: nothing is sent, and it is not tried again at once.
func TestAChangedHostKeyIsAnAlarm(t *testing.T) {
	s := newShelf(t)
	s.write("a", "a")
	s.seal()
	st, srv := standby(t)
	p := newTestPeers(t, s, map[string]*wiretest.Server{"n2": srv})
	srv.NewHostKey(t)
	dials := 0
	one, err := p.find("n2")
	if err != nil {
		t.Fatal(err)
	}
	one.options.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials++
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	now := time.Now()
	one.link("wiki").now = func() time.Time { return now }
	for range 3 {
		err := p.Ship(t.Context(), "wiki", "n2")
		if !errors.Is(err, service.ErrAlarm) || !errors.Is(err, wire.ErrHostKey) {
			t.Errorf("shipping to whoever has the address now: %v", err)
		}
	}
	if dials != 1 {
		t.Errorf("it was dialled %d times at once", dials)
	}
	if head, _ := st.Head(); !head.IsZero() {
		t.Errorf("it was sent %s", head)
	}
	if err := p.Ship(t.Context(), "wiki", "n9"); err == nil {
		t.Error("shipped to a peer that is not configured")
	}
}

// TestAnUpgradedPeerIsFound: the receiver of a connection that lasts is as old as the
// connection. What it cannot read is sent to the one that is installed there by now.
func TestAnUpgradedPeerIsFound(t *testing.T) {
	s := newShelf(t)
	s.write("a", "a")
	s.seal()
	root := t.TempDir()
	st, err := store.Open(root, "wiki", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	var upgraded atomic.Bool
	srv := wiretest.StartWith(t, root, func(rw io.ReadWriteCloser) error {
		o := wiretest.ServerOptions(root, store.Options{})
		if !upgraded.Load() {
			o.Open = func(string) (wire.Store, error) { return nil, fmt.Errorf("%w: version 9", replication.ErrFormat) }
		}
		return wire.Serve(context.Background(), rw, o)
	})
	p := newTestPeers(t, s, map[string]*wiretest.Server{"n2": srv})
	if err := p.Ship(t.Context(), "wiki", "n2"); !errors.Is(err, replication.ErrFormat) {
		t.Fatalf("shipping to one that is too old: %v", err)
	}
	upgraded.Store(true)
	if err := p.Ship(t.Context(), "wiki", "n2"); err != nil {
		t.Errorf("after its upgrade: %v", err)
	}
}

// TestPausesDiffer: nodes that lost a peer together do not come back together.
func TestPausesDiffer(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		d := jittered(longestPause)
		if d < longestPause/2 || d > longestPause {
			t.Fatalf("a pause of %s, of at most %s", d, longestPause)
		}
		seen[d] = true
	}
	if len(seen) < 10 {
		t.Errorf("%d different pauses of 100", len(seen))
	}
}
