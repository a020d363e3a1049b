package wire

import (
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// LeastRate is the lowest bandwidth limit that makes sense, bytes per second: below it
// a single packet on each of a few connections takes so long that a peer must look dead.
const LeastRate = 256 << 10

// Limit makes a limit for [ClientOptions].Limit of so many bytes per second; nil, none, for 0.
// Connections that have the same limit share it.
func Limit(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	const burst = 64 << 10 // two SSH packets: a keep-alive has no more before it
	return rate.NewLimiter(rate.Limit(bytesPerSecond), burst)
}

// limited makes what is written wait for its turn.
type limited struct {
	net.Conn
	limit *rate.Limiter
	once  sync.Once
	done  chan struct{} // closed with the connection
}

func newLimited(c net.Conn, l *rate.Limiter) *limited {
	return &limited{Conn: c, limit: l, done: make(chan struct{})}
}

func (l *limited) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		k := min(len(p), l.limit.Burst())
		if err := l.wait(l.limit.ReserveN(time.Now(), k).Delay()); err != nil {
			return n, err
		}
		m, err := l.Conn.Write(p[:k])
		n, p = n+m, p[m:]
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (l *limited) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-l.done:
		return net.ErrClosed
	}
}

// Close ends a Write that waits.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Conn.Close()
}
