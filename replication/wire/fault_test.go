package wire

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
)

// cutConn dies after so many writes, in the middle of the last.
type cutConn struct {
	net.Conn
	left atomic.Int64
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.left.Add(-1) < 0 {
		n, _ := c.Conn.Write(b[:len(b)/2])
		_ = c.Close()
		return n, errors.New("cut")
	}
	return c.Conn.Write(b)
}

// TestCutAtEveryMessage cuts a shipment of two generations after each message
// of the sender, then of the receiver. At every point the peer is at one of the
// three generations, whole, and the next shipment brings it to the last.
func TestCutAtEveryMessage(t *testing.T) {
	src := openStore(t, t.TempDir())
	a, b, c := noise(1, 600_000), noise(2, 600_000), noise(3, 100)
	seal(t, src, id(1, 1), id(0, 0), a)
	seal(t, src, id(1, 2), id(1, 1), a, b)
	seal(t, src, id(1, 3), id(1, 2), a, b, c)
	sh := NewShipper(ShipperOptions{Source: src})
	for _, side := range []string{"sender", "receiver"} {
		t.Run(side, func(t *testing.T) {
			for n := int64(1); ; n++ {
				if n > 500 {
					t.Fatal("it never gets through")
				}
				r := pipeReceiver(t)
				seal(t, r.s, id(1, 1), id(0, 0), a)
				err := r.shipCut(t, sh, side, n)
				if err == nil {
					break
				}
				head, herr := r.s.Head()
				ok(t, herr)
				if !slices.Contains([]replication.ID{id(1, 1), id(1, 2), id(1, 3)}, head) {
					t.Fatalf("cut after %d: the head is %s", n, head)
				}
				if _, err := r.s.Load(head); err != nil {
					t.Fatalf("cut after %d: %v", n, err)
				}
				r.shipUntilFree(t, sh)
				if head, _ = r.s.Head(); head != id(1, 3) {
					t.Fatalf("cut after %d, shipped again: the head is %s", n, head)
				}
			}
		})
	}
}

// shipCut ships over a connection that dies after n writes of one side.
func (r *receiver) shipCut(t *testing.T, sh *Shipper, side string, n int64) error {
	t.Helper()
	ours, theirs := net.Pipe()
	cut := &cutConn{Conn: ours}
	other := net.Conn(theirs)
	var line net.Conn = cut
	if side == "receiver" {
		cut = &cutConn{Conn: theirs}
		line, other = ours, cut
	}
	cut.left.Store(n)
	var wg sync.WaitGroup
	wg.Go(func() { _ = Serve(context.Background(), other, serverOptions(r.root)) })
	defer wg.Wait()
	defer ours.Close()
	c, err := NewClient(t.Context(), line, ClientOptions{Name: "n2"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = sh.Ship(t.Context(), c)
	return err
}

func (r *receiver) shipUntilFree(t *testing.T, sh *Shipper) {
	t.Helper()
	for {
		_, err := sh.Ship(t.Context(), r.dial(t))
		if !isBusy(err) {
			ok(t, err)
			return
		}
	}
}

// proxy forwards TCP until it is told to swallow everything: a link that is dead
// without a word.
type proxy struct {
	addr string
	dead atomic.Bool
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	p := &proxy{addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	pump := func(a, b net.Conn) {
		defer a.Close()
		defer b.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := a.Read(buf)
			if err != nil {
				return
			}
			if p.dead.Load() {
				continue
			}
			if _, err := b.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			wg.Go(func() { pump(a, b) })
			wg.Go(func() { pump(b, a) })
		}
	})
	return p
}

func TestDeadLinkIsFound(t *testing.T) {
	d := startSSHD(t)
	p := startProxy(t, d.addr)
	o := d.options
	o.HostAlias, o.Addr = o.Addr, p.addr
	o.KeepAlive, o.DeadAfter = 20*time.Millisecond, 500*time.Millisecond
	c, err := Dial(t.Context(), o)
	ok(t, err)
	defer c.Close()
	_, err = c.State(t.Context(), svc)
	ok(t, err)
	p.dead.Store(true)
	_, err = c.State(t.Context(), svc) // nobody answers, and no deadline was given
	wantErr(t, err, ErrDisconnected)
	wantErr(t, err, os.ErrDeadlineExceeded)
	<-c.Done()
}

func TestDialTimesOut(t *testing.T) {
	d := startSSHD(t)
	p := startProxy(t, d.addr)
	p.dead.Store(true)
	o := d.options
	o.Addr, o.Timeout = p.addr, 200*time.Millisecond
	_, err := Dial(t.Context(), o)
	wantErr(t, err, context.DeadlineExceeded)
}

func TestDialNotAReceiver(t *testing.T) {
	d := startSSHD(t)
	pub := d.read(t, "key.pub")
	d.write(t, "authorized", "restrict,command=\"echo hello; exit 3\" "+pub)
	_, err := Dial(t.Context(), d.options)
	if err == nil || !strings.Contains(err.Error(), "does not answer as a receiver") {
		t.Fatalf("dialled an echo: %v", err)
	}
	d.write(t, "authorized", "")
	if _, err = Dial(t.Context(), d.options); err == nil || !strings.Contains(err.Error(), "authorized_keys") {
		t.Fatalf("dialled with a key that is not authorized: %v", err)
	}
}

// TestKilledReceiverLeavesAPrefix kills `receive` in the middle of an upload.
func TestKilledReceiverLeavesAPrefix(t *testing.T) {
	r := pipeReceiver(t)
	p, b := onePack(t, noise(1, 1_000_000))
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { _ = Serve(context.Background(), theirs, serverOptions(r.root)) })
	c, err := NewClient(t.Context(), ours, ClientOptions{Name: "n2"})
	ok(t, err)
	err = c.PutPack(t.Context(), svc, p, func(n int64) {
		if n > p.Size/2 {
			_ = ours.Close()
		}
	})
	wantErr(t, err, ErrDisconnected)
	_ = c.Close()
	wg.Wait()
	got, err := os.ReadFile(filepath.Join(r.s.IncomingDir(), p.Hash.String()+suffixPack))
	ok(t, err)
	if len(got) > len(b) || !slices.Equal(got, b[:len(got)]) {
		t.Errorf("%d bytes are there, and they are no prefix", len(got))
	}
	ok(t, r.put(t, p))
}
