package wire

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// swallow has the kernel drop every packet that comes to c from now on: nothing is
// acknowledged, and no reset is sent.
func swallow(c net.Conn) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	none := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none[0]})
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// breaking forwards one connection to addr, and swallows what comes after so many bytes
// of it. The far end learns nothing of that until the test ends.
func breaking(t *testing.T, addr string, after int64) func(ctx context.Context, network, _ string) (net.Conn, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	near, far := make(chan net.Conn, 1), make(chan net.Conn, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a, err := l.Accept()
		if err != nil {
			return
		}
		near <- a
		b, err := net.Dial("tcp", addr)
		if err != nil {
			_ = a.Close()
			return
		}
		far <- b
		back := make(chan struct{})
		go func() { defer close(back); _, _ = io.Copy(a, b) }()
		_, _ = io.CopyN(b, a, after)
		if err := swallow(a); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(b, a) // what had come already
		<-back
	}()
	t.Cleanup(func() {
		_ = l.Close()
		for _, c := range []chan net.Conn{near, far} {
			select {
			case one := <-c:
				_ = one.Close()
			default:
			}
		}
		<-ended
	})
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		o := ClientOptions{KeepAlive: time.Second, DeadAfter: 2 * time.Second}
		return o.dialTCP(ctx, network, l.Addr().String())
	}
}

// TestALargePackGoesOnAfterALinkDied: in the middle of a pack every packet is swallowed.
// The sender finds out by itself, and goes on with a new connection where the file is,
// although the receiver of the old one has it open until it takes the sender for stalled.
func TestALargePackGoesOnAfterALinkDied(t *testing.T) {
	d := startSSHD(t, "SetEnv "+stallEnv+"=5s")
	data, _ := parts(12)
	p, _ := onePack(t, data...)
	o := d.options
	o.DialContext = breaking(t, d.addr, p.Size/2)
	o.KeepAlive, o.DeadAfter = time.Second, 2*time.Second
	c, err := Dial(t.Context(), o)
	ok(t, err)
	wantErr(t, c.PutPack(t.Context(), svc, p, nil), ErrDisconnected)
	_ = c.Close()

	o, again := counted(d.options, -1)
	var have int64
	for {
		have = d.arrived(t)
		again.Store(0)
		c, err = Dial(t.Context(), o)
		ok(t, err)
		err = c.PutPack(t.Context(), svc, p, nil)
		_ = c.Close()
		if !isBusy(err) {
			break
		}
	}
	ok(t, err)
	if have == 0 || have >= p.Size {
		t.Fatalf("%d of %d bytes had arrived: the link did not die in the middle", have, p.Size)
	}
	const around = 256 << 10 // handshake, headers
	if most := p.Size - have + around; again.Load() > most {
		t.Errorf("%d bytes were sent again, at most %d were missing", again.Load(), most)
	}
	if n := d.arrived(t); n != p.Size {
		t.Errorf("%d bytes are there, the pack has %d", n, p.Size)
	}
}

// A quicker way to a pack's content is not trusted: where what comes through it does not
// verify, the pack's own file is sent.
func TestQuickContentIsNotTrusted(t *testing.T) {
	d := startSSHD(t)
	c := d.dial(t)
	p, raw := onePack(t, noise(61, 300_000))
	opened := 0
	p.Open = func() (Content, error) {
		opened++
		wrong := file(t, append(bytes.Repeat([]byte{7}, 4096), raw[4096:]...))
		return os.Open(wrong.Path)
	}
	ok(t, c.PutPack(t.Context(), svc, p, nil))
	if opened != 1 {
		t.Errorf("it was opened %d times", opened)
	}
	if d.arrived(t) != p.Size {
		t.Error("the pack is not there")
	}
}
