package wire

import (
	"context"
	"fmt"
	"sync"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// lane is one SFTP session of a connection. The peer has a `receive` of its own for
// each, so while one verifies a pack and makes it durable, others take the next; and
// each has an SSH window of its own, which is what bounds a session on a long line.
type lane struct {
	sftp *sftp.Client
	gone chan struct{} // closed when the session has ended
}

// lanes gives files to send a session each. More than the first are opened only while
// several files are on their way, and hung up when none is: a standby at rest has one
// `receive` per connection.
type lanes struct {
	open  func(context.Context) (*lane, error) // one more; nil: there can be none
	first *lane                                // it lasts as long as the connection
	free  chan *lane

	mu    sync.Mutex // guards what follows
	more  int        // that may still be opened
	users int        // that have one or wait for one
}

func newLanes(first *lane, most int, open func(context.Context) (*lane, error)) *lanes {
	if open == nil {
		most = 1
	}
	l := &lanes{open: open, first: first, free: make(chan *lane, most), more: most - 1}
	l.free <- first
	return l
}

// take waits for a session that nobody sends on. Each is given back.
func (l *lanes) take(ctx context.Context, done <-chan struct{}) (*lane, error) {
	l.mu.Lock()
	l.users++
	l.mu.Unlock()
	for {
		select {
		case one := <-l.free:
			if l.alive(one) {
				return one, nil
			}
			continue
		default:
		}
		if one := l.another(ctx); one != nil {
			return one, nil
		}
		select {
		case one := <-l.free:
			if l.alive(one) {
				return one, nil
			}
		case <-done:
			l.leave()
			return nil, ErrDisconnected
		case <-ctx.Done():
			l.leave()
			return nil, ctx.Err()
		}
	}
}

// alive says whether a session can still be used; in place of one that cannot,
// another may be opened. The first one's end is the connection's, and is seen there.
func (l *lanes) alive(one *lane) bool {
	if one == l.first {
		return true
	}
	select {
	case <-one.gone:
		l.mu.Lock()
		l.more++
		l.mu.Unlock()
		return false
	default:
		return true
	}
}

// another opens one more; nil where there may be none. A peer that refuses (its sshd's
// MaxSessions) is not asked again: what there is does as well, only slower.
func (l *lanes) another(ctx context.Context) *lane {
	l.mu.Lock()
	if l.more == 0 {
		l.mu.Unlock()
		return nil
	}
	l.more--
	l.mu.Unlock()
	one, err := l.open(ctx)
	if err != nil {
		l.mu.Lock()
		l.more = 0
		l.mu.Unlock()
		return nil
	}
	return one
}

func (l *lanes) give(one *lane) {
	l.free <- one
	l.leave()
}

// leave hangs up what nobody needs any more.
func (l *lanes) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users--
	for n := len(l.free); l.users == 0 && n > 0; n-- {
		one := <-l.free
		if one == l.first {
			l.free <- one
			continue
		}
		_ = one.sftp.Close() // the peer ends the session when it has read all of it
		l.more++
	}
}

// openLane starts another receiver over the connection, which it ends with ctx.
func (c *Client) openLane(ctx context.Context, conn *ssh.Client) (*lane, error) {
	stop := context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
	defer stop()
	sess, err := conn.NewSession()
	if err != nil {
		return nil, err
	}
	one, err := c.startLane(sess)
	if err != nil {
		_ = sess.Close()
	}
	return one, err
}

func (c *Client) startLane(sess *ssh.Session) (*lane, error) {
	in, err := sess.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := sess.StdoutPipe()
	if err != nil {
		return nil, err
	}
	words, err := sess.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := sess.Start(receiveCommand); err != nil {
		return nil, err
	}
	if !c.spawn(func() { c.relay(words) }) {
		return nil, ErrDisconnected
	}
	s, err := newSFTP(out, in)
	if err != nil {
		return nil, fmt.Errorf("%s does not answer as a receiver: %w; see that its authorized_keys has command=\"understudy receive\" for our key", c.o.Name, err)
	}
	one := &lane{sftp: s, gone: make(chan struct{})}
	watched := c.spawn(func() {
		_ = s.Wait()
		close(one.gone)
		_ = sess.Close()
	})
	if !watched {
		return nil, ErrDisconnected
	}
	return one, nil
}
