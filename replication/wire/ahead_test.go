package wire

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// parts is n runs of noise that go into a pack each (openStore begins a new one after 1 MiB).
func parts(n int) (data [][]byte, size int64) {
	for i := range n {
		data = append(data, noise(uint64(700+i), 1<<20))
		size += 1 << 20
	}
	return data, size
}

// TestManyPacksAtOnce: over the real sshd, also where it allows fewer sessions than are
// asked for; and when they have arrived only one is left.
func TestManyPacksAtOnce(t *testing.T) {
	for _, sessions := range []string{"10", "2"} {
		t.Run("MaxSessions "+sessions, func(t *testing.T) {
			d := startSSHD(t, "MaxSessions "+sessions)
			src := openStore(t, t.TempDir())
			data, _ := parts(6)
			c := d.dial(t)
			var opened atomic.Int64
			open := c.send.open
			c.send.open = func(ctx context.Context) (*lane, error) {
				one, err := open(ctx)
				if err == nil {
					opened.Add(1)
				}
				return one, err
			}
			for seq := range uint64(2) { // the second time with lanes that were hung up before
				seal(t, src, id(1, seq+1), parentOf(1, seq+1), data...)
				data = append(data, noise(900, 1<<20), noise(901, 1<<20), noise(902, 1<<20))
				got, err := NewShipper(ShipperOptions{Source: src}).Ship(t.Context(), c)
				ok(t, err)
				if head, err := d.s.Head(); err != nil || head != got.Peer.Head {
					t.Fatalf("the peer is at %s, %v", head, err)
				}
				if opened.Swap(0) == 0 && (seq == 0 || sessions != "2") { // of two, the one before may not be over to sshd
					t.Errorf("generation %s went through one session", got.Peer.Head)
				}
			}
			if n := len(c.send.free); n != 1 {
				t.Errorf("%d sessions are kept", n)
			}
		})
	}
}

// countedConn counts what is written and dies after so many bytes.
type countedConn struct {
	net.Conn
	sent *atomic.Int64
	left int64 // < 0: for ever
}

func (c *countedConn) Write(b []byte) (int, error) {
	if c.left >= 0 && c.sent.Load()+int64(len(b)) > c.left {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// counted makes o count and cut.
func counted(o ClientOptions, cutAfter int64) (ClientOptions, *atomic.Int64) {
	sent := &atomic.Int64{}
	o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &countedConn{Conn: c, sent: sent, left: cutAfter}, err
	}
	return o, sent
}

// TestFirstSyncGoesOnAfterACut: what had arrived is not sent again, counted at the wire;
// not the packs that are in the store, and not the beginnings of the others.
func TestFirstSyncGoesOnAfterACut(t *testing.T) {
	d := startSSHD(t)
	src := openStore(t, t.TempDir())
	data, size := parts(16)
	seal(t, src, id(1, 1), id(0, 0), data...)
	sh := NewShipper(ShipperOptions{Source: src})
	o, first := counted(d.options, size/2)
	c, err := Dial(t.Context(), o)
	ok(t, err)
	_, err = sh.Ship(t.Context(), c)
	wantErr(t, err, ErrDisconnected)
	_ = c.Close()
	if head, _ := d.s.Head(); !head.IsZero() {
		t.Fatalf("a generation was committed that did not arrive: %s", head)
	}

	var have int64 // once the first session's receivers have noticed
	o, second := counted(d.options, -1)
	for {
		have = d.arrived(t)
		second.Store(0)
		c, err = Dial(t.Context(), o)
		ok(t, err)
		_, err = sh.Ship(t.Context(), c)
		_ = c.Close()
		if !isBusy(err) {
			break
		}
	}
	ok(t, err)
	if have == 0 || have >= size {
		t.Fatalf("%d of %d bytes had arrived: the cut was not in the middle", have, size)
	}
	const around = 256 << 10 // handshake, manifest, headers
	t.Logf("%d bytes; cut after %d, of which %d were kept; then %d", size, first.Load(), have, second.Load())
	if most := size - have + around; second.Load() > most {
		t.Errorf("%d bytes were sent again, at most %d were missing", second.Load(), most)
	}
}

// arrived is the size of all packs that are there, or are arriving.
func (r *receiver) arrived(t testing.TB) (n int64) {
	t.Helper()
	for _, dir := range []string{"packs", "incoming"} {
		found, err := filepath.Glob(filepath.Join(r.s.Dir(), dir, "*"+suffixPack))
		ok(t, err)
		for _, f := range found {
			if fi, err := os.Stat(f); err == nil {
				n += fi.Size()
			}
		}
	}
	return n
}

// TestAhead: packs travel before their generation, once, and only where they are news.
func TestAhead(t *testing.T) {
	src := openStore(t, t.TempDir())
	r := pipeReceiver(t)
	data, _ := parts(3)
	w := src.NewPack()
	defer w.Abort()
	var mu sync.Mutex
	var sealed []store.PackFile
	w.Sealed = func(f store.PackFile) {
		mu.Lock()
		defer mu.Unlock()
		sealed = append(sealed, f)
	}
	for _, d := range data {
		ok(t, w.Put(hashOf(d), d, nil, 0))
	}
	packs, err := w.Seal()
	ok(t, err)
	if len(sealed) != len(packs) || len(packs) != 3 {
		t.Fatalf("%d packs, told of %d", len(packs), len(sealed))
	}
	sh := NewShipper(ShipperOptions{Source: src})
	c := r.dial(t)
	gone := store.PackFile{Hash: hashOf(nil), Path: filepath.Join(t.TempDir(), "gone"), Size: 100}
	for want := 3; want >= 0; want -= 3 {
		got, err := sh.Ahead(t.Context(), c, append([]store.PackFile{gone}, sealed...))
		ok(t, err)
		if got.Packs != want {
			t.Errorf("%d packs were sent ahead, not %d", got.Packs, want)
		}
	}
	if head, _ := r.s.Head(); !head.IsZero() {
		t.Errorf("the peer is at %s", head)
	}
	ok(t, src.Commit(manifest(id(1, 1), id(0, 0), data...)))
	got, err := sh.Ship(t.Context(), c)
	ok(t, err)
	if got.Packs != 0 || got.Generations != 1 {
		t.Errorf("then: %+v", got)
	}
	ok(t, r.s.Fence(2))
	_, err = sh.Ahead(t.Context(), c, sealed)
	wantErr(t, err, replication.ErrStaleTerm)
}

// TestAheadLeavesPartsToShip: a pack of which the peer has a part is not sent whole.
func TestAheadLeavesPartsToShip(t *testing.T) {
	src, r := openStore(t, t.TempDir()), pipeReceiver(t)
	a, b := noise(1, 1000), noise(2, 1000)
	seal(t, r.s, id(1, 1), id(0, 0), a)
	ok(t, src.Fence(1))
	w := src.NewPack()
	defer w.Abort()
	ok(t, w.Put(hashOf(a), a, nil, 0))
	ok(t, w.Put(hashOf(b), b, nil, 0))
	packs, err := w.Seal()
	ok(t, err)
	got, err := NewShipper(ShipperOptions{Source: src}).Ahead(t.Context(), r.dial(t), packs)
	ok(t, err)
	if got.Packs != 0 || r.s.Has(hashOf(b)) {
		t.Errorf("it was sent: %+v", got)
	}
}

// TestLimited: what is written goes out in pieces that the limit allows, complete; and
// a connection that is closed does not wait for its turn.
func TestLimited(t *testing.T) {
	if Limit(0) != nil {
		t.Error("0 is a limit")
	}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	limit := rate.NewLimiter(rate.Every(time.Hour), 1000) // what is over the first thousand never goes
	l := newLimited(ours, limit)
	var wg sync.WaitGroup
	defer wg.Wait()
	data := noise(1, 2500)
	ended := make(chan error, 1)
	wg.Go(func() {
		n, err := l.Write(data)
		if n != 1000 {
			t.Errorf("%d bytes went out", n)
		}
		ended <- err
	})
	got := make([]byte, 2000)
	n, err := theirs.Read(got)
	ok(t, err)
	if !slices.Equal(got[:n], data[:1000]) {
		t.Errorf("%d bytes came, not the first 1000", n)
	}
	select {
	case err := <-ended:
		t.Fatalf("the rest did not wait: %v", err)
	default:
	}
	ok(t, l.Close())
	wantErr(t, <-ended, net.ErrClosed)
}

// TestShipUnderALimit: all of it arrives, through the real sshd.
func TestShipUnderALimit(t *testing.T) {
	d := startSSHD(t)
	src := openStore(t, t.TempDir())
	data, size := parts(3)
	seal(t, src, id(1, 1), id(0, 0), data...)
	o := d.options
	o.Limit = Limit(16 << 20)
	c, err := Dial(t.Context(), o)
	ok(t, err)
	defer c.Close()
	began := time.Now()
	_, err = NewShipper(ShipperOptions{Source: src}).Ship(t.Context(), c)
	ok(t, err)
	if head, _ := d.s.Head(); head != id(1, 1) {
		t.Errorf("the peer is at %s", head)
	}
	// A slow machine takes longer, none is faster.
	if took, least := time.Since(began), time.Duration(float64(size-int64(o.Limit.Burst()))/float64(o.Limit.Limit())*float64(time.Second)); took < least {
		t.Errorf("%d bytes of noise took %s, less than %s", size, took, least)
	}
	if strings.Contains(d.log.String(), "refused") {
		t.Error(d.log)
	}
}
