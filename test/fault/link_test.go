package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/wire"
)

// line is one end of a connection that fails: it is cut after so many messages or bytes
// that this end sends, or has a bit of them flipped. SSH sends each of its messages in
// one write.
type line struct {
	net.Conn
	messages atomic.Int64 // still to go; the next is cut in its middle
	bytes    atomic.Int64 // still to go
	flip     byte         // bits of the byte at which it would be cut; 0: it is cut
	begun    *atomic.Bool // nil: from its first message on
	sent     *atomic.Int64
	met      atomic.Bool // it came to that
}

const never = 1 << 60

var errCut = errors.New("the line was cut")

func newLine(c net.Conn, f fault, sent *atomic.Int64) *line {
	l := &line{Conn: c, flip: f.flip, begun: f.begun, sent: sent}
	l.messages.Store(f.messages)
	l.bytes.Store(f.bytes)
	return l
}

func (l *line) Write(b []byte) (int, error) {
	l.sent.Add(int64(len(b)))
	if l.begun != nil && !l.begun.Load() {
		return l.Conn.Write(b)
	}
	if l.messages.Add(-1) == -1 {
		return l.cut(b, len(b)/2)
	}
	left := l.bytes.Load()
	l.bytes.Store(left - int64(len(b)))
	if left < 0 || left >= int64(len(b)) {
		return l.Conn.Write(b)
	}
	if l.flip == 0 {
		return l.cut(b, int(left))
	}
	l.met.Store(true)
	c := append([]byte(nil), b...)
	c[left] ^= l.flip
	return l.Conn.Write(c)
}

// cut sends the first n bytes, and no more ever.
func (l *line) cut(b []byte, n int) (int, error) {
	l.met.Store(true)
	n, _ = l.Conn.Write(b[:n])
	_ = l.Close()
	return n, errCut
}

// dialThrough makes TCP connections and wraps them.
func dialThrough(wrap func(net.Conn) net.Conn) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wrap(c), nil
	}
}

// fault is what happens to one end's messages.
type fault struct {
	receiver bool         // of the receiver's end, else the sender's
	messages int64        // go through before it is cut
	bytes    int64        // go through before it is cut, or bits are flipped
	flip     byte         // of the next byte; 0: none, it is cut
	begun    *atomic.Bool // nil: counted from the first on; else from when it is true on
}

// over does something over a line with a fault; how many bytes the end had sent.
func (p *pair) over(f fault, do func(wire.ClientOptions) error) (sent int64, met bool, err error) {
	p.t.Helper()
	var n atomic.Int64
	var last atomic.Pointer[line]
	wrap := func(c net.Conn) net.Conn {
		l := newLine(c, f, &n)
		last.Store(l)
		return l
	}
	o := p.sshd.client
	if f.flip != 0 {
		o.Timeout, o.DeadAfter = 10*time.Second, 5*time.Second // of a message that became longer, the end never comes
	}
	if f.receiver {
		p.sshd.set(func() { p.sshd.link = wrap })
		defer p.sshd.set(func() { p.sshd.link = nil })
	} else {
		o.DialContext = dialThrough(wrap)
	}
	err = do(o)
	l := last.Load()
	return n.Load(), l != nil && l.met.Load(), err
}

// broken runs a cycle over a line with a fault, then looks and heals.
func (p *pair) broken(f fault) (met bool) {
	p.t.Helper()
	p.step()
	return p.brokenIn(f, p.cycleOver)
}

// brokenIn does something over a line with a fault, then looks and heals.
func (p *pair) brokenIn(f fault, do func(wire.ClientOptions) error) (met bool) {
	p.t.Helper()
	_, met, err := p.over(f, do)
	if met && err == nil && p.n2.head(p.t) != p.n1.head(p.t) {
		p.t.Errorf("%+v: the sender was told that all is well", f)
	}
	p.settled()
	p.check()
	p.heal()
	return met
}

// wentAhead: of the cycles' packs some were sent ahead of their generations.
func (p *pair) wentAhead() {
	p.t.Helper()
	if p.n1.ahead < p.cycle {
		p.t.Errorf("of %d cycles %d packs were sent ahead", p.cycle, p.n1.ahead)
	}
}

// settled waits for the receivers of connections that are gone: what they were asked for
// is finished, as with sshd.
func (p *pair) settled() {
	p.t.Helper()
	until(p.t, "the receivers have seen that the line is cut", func() bool { return p.sshd.sessions.Load() == 0 })
}

// TestLinkCutInEveryMessage cuts the line in the middle of each message that either end
// sends: of the handshake, of what goes ahead of a generation, of a generation's chunks, of its commit.
func TestLinkCutInEveryMessage(t *testing.T) {
	for _, receiver := range []bool{false, true} {
		t.Run(end(receiver), func(t *testing.T) {
			p := plainPair(t)
			defer p.wentAhead()
			for n := int64(0); ; n++ {
				if !p.broken(fault{receiver: receiver, messages: n, bytes: never}) {
					if n < 20 {
						t.Errorf("a cycle was only %d messages", n)
					}
					t.Logf("cut in each of %d messages", n)
					return
				}
				if t.Failed() {
					t.Fatalf("cut in message %d", n)
				}
			}
		})
	}
}

// TestLinkCutInSeveralLanes cuts it while several files are on their way, in as many sessions: of
// a chain that is too long to be sent one by one, the newest generation has the packs of all.
func TestLinkCutInSeveralLanes(t *testing.T) {
	const packs, every = 20, 17
	for _, receiver := range []bool{false, true} {
		t.Run(end(receiver), func(t *testing.T) {
			p := plainPair(t)
			broken := func(n int64) bool {
				p.cycle++
				for i := range packs {
					write(t, filepath.Join(p.n1.tree(), fmt.Sprint("lane", i)), noise(p.cycle*packs+i, 10<<10))
					p.sealHome()
				}
				return p.brokenIn(fault{receiver: receiver, messages: n, bytes: never}, p.shipOver)
			}
			n := int64(0)
			for ; broken(n); n += every {
				if t.Failed() {
					t.Fatalf("cut in message %d", n)
				}
			}
			if most := p.sshd.most.Load(); most < 2 {
				t.Errorf("there were %d sessions at a time at most", most)
			}
			t.Logf("cut in every %dth of %d messages", every, n)
		})
	}
}

// TestLinkCutAnywhere cuts it after any number of bytes.
func TestLinkCutAnywhere(t *testing.T) {
	anywhere(t, func(*rand.Rand) byte { return 0 })
}

// TestBitFlippedInTransit: what SSH's authentication of each message is for. Whatever bit
// it is, the connection is over and nothing of it is believed.
func TestBitFlippedInTransit(t *testing.T) {
	anywhere(t, func(r *rand.Rand) byte { return 1 << r.IntN(8) })
}

// anywhere has a fault in each tenth of what either end sends in a cycle, at a byte of the seed's.
// The last tenth is let be: how long a cycle is varies by the padding of SSH's messages.
func anywhere(t *testing.T, flip func(*rand.Rand) byte) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const parts = 10
	for _, receiver := range []bool{false, true} {
		t.Run(end(receiver), func(t *testing.T) {
			p := plainPair(t)
			p.step()
			sent, _, err := p.over(fault{receiver: receiver, messages: never, bytes: never}, p.cycleOver)
			must(t, err)
			t.Logf("a cycle is %d bytes", sent)
			part := sent / parts
			for i := range int64(parts - 1) {
				f := fault{receiver: receiver, messages: never, bytes: i*part + r.Int64N(part), flip: flip(r)}
				for try := 1; !p.broken(f); try++ { // how much a cycle is varies a little
					if try == 3 {
						t.Errorf("three cycles did not come to byte %d", f.bytes)
						break
					}
				}
				if t.Failed() {
					t.Fatalf("%+v", f)
				}
			}
		})
	}
}

func end(receiver bool) string {
	if receiver {
		return string(replication.Receiver)
	}
	return string(replication.Sender)
}
