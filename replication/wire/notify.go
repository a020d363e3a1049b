package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/understudy-ha/understudy/replication/store"
)

// Poke tells the agent that a service's store has something new: a datagram
// with the service's name to its socket at path. It never blocks and its
// failures are ignored: the agent looks by itself every so often too.
func Poke(path, service string) {
	c, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	_, _ = c.Write([]byte(service))
}

// Pokes is the agent's end of [Poke].
type Pokes struct{ conn *net.UnixConn }

// ListenPokes makes the socket at path, replacing what a killed agent left.
// Only root and the group gid can write to it; gid -1 leaves the group as it is.
func ListenPokes(path string, gid int) (*Pokes, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make room for the commit socket: %w", err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for commits: %w", err)
	}
	err = os.Chown(path, -1, gid)
	if err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen for commits: %w", err)
	}
	return &Pokes{conn: c}, nil
}

// Run calls poked with each service that was named until ctx ends, on the
// caller's goroutine, then removes the socket. Names are not trusted further
// than that they are names.
func (p *Pokes) Run(ctx context.Context, poked func(service string)) error {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetReadDeadline(time.Now()) })
	defer stop()
	defer p.conn.Close()
	buf := make([]byte, 256)
	for {
		n, err := p.conn.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("commit socket: %w", err)
		}
		if name := string(buf[:n]); store.ValidName("service", name) == nil {
			poked(name)
		}
	}
}

// Close removes the socket without Run.
func (p *Pokes) Close() error { return p.conn.Close() }
