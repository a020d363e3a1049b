package fault

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/wire"
)

// sshd is a standby's SSH server: each session is a `receive` of a node.
type sshd struct {
	node   *node
	client wire.ClientOptions // how to reach it

	mu     sync.Mutex // guards what follows, which tests change between connections
	job    *job       // of the next receiver, which is then a process of its own; nil: it lives in the test's
	tune   func(*wire.ServerOptions)
	link   func(net.Conn) net.Conn // what the line does to the server's end; nil: nothing
	killed atomic.Bool             // a receiver was

	taken    atomic.Int64 // bytes that came from senders, as on the line
	sessions atomic.Int64 // under way
	most     atomic.Int64 // at a time, so far
	wg       sync.WaitGroup
}

func startSSHD(t testing.TB, n *node) *sshd {
	t.Helper()
	d := &sshd{node: n}
	dir := t.TempDir()
	host, key := newKey(t, ""), newKey(t, filepath.Join(dir, "key"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	known := filepath.Join(dir, "known")
	must(t, os.WriteFile(known, []byte(knownhosts.Line([]string{addr}, host.PublicKey())+"\n"), 0o600))
	d.client = wire.ClientOptions{Addr: addr, Name: "n2", KeyFile: filepath.Join(dir, "key"), KnownHosts: known, Timeout: slow, DeadAfter: slow}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(key.PublicKey().Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	d.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.wg.Go(func() { d.serve(t, d.onLine(c), config) })
		}
	})
	t.Cleanup(func() { l.Close(); d.wg.Wait() })
	return d
}

func newKey(t testing.TB, file string) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	if file != "" {
		block, err := ssh.MarshalPrivateKey(private, "")
		must(t, err)
		must(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
	s, err := ssh.NewSignerFromKey(private)
	must(t, err)
	return s
}

// set changes how the server answers from now on.
func (d *sshd) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// onLine is the server's end of a connection.
func (d *sshd) onLine(c net.Conn) net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	c = &counted{Conn: c, n: &d.taken}
	if d.link != nil {
		c = d.link(c)
	}
	return c
}

// counted counts what is read.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

func (d *sshd) serve(t testing.TB, c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return // the line was cut
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	wg.Go(func() {
		for r := range requests {
			if r.WantReply {
				_ = r.Reply(false, nil)
			}
		}
	})
	for nc := range channels {
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { d.session(t, ch, requests) })
	}
}

// session runs `receive` for whatever is asked, as a forced command does.
func (d *sshd) session(t testing.TB, ch ssh.Channel, requests <-chan *ssh.Request) {
	for now := d.sessions.Add(1); ; {
		if most := d.most.Load(); now <= most || d.most.CompareAndSwap(most, now) {
			break
		}
	}
	defer d.sessions.Add(-1)
	defer ch.Close()
	for r := range requests {
		_ = r.Reply(r.Type == "exec", nil)
		if r.Type == "exec" {
			break
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { ssh.DiscardRequests(requests) })
	defer wg.Wait()
	defer ch.Close()
	d.mu.Lock()
	j, o := d.job, d.node.serving(nil)
	if d.tune != nil {
		d.tune(&o)
	}
	d.mu.Unlock()
	var status struct{ Status uint32 }
	if j != nil {
		if err := d.process(ch, *j); err != nil {
			status.Status = 1
		}
	} else if err := wire.Serve(context.Background(), ch, o); err != nil {
		status.Status = 1
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(&status))
}

// process runs `receive` as a process of its own.
func (d *sshd) process(ch ssh.Channel, j job) error {
	cmd, err := start(replication.Receiver, d.node, j)
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	if err := cmd.Start(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(in, ch)
		_ = in.Close()
	})
	err = cmd.Wait()
	if isKill(err) {
		d.killed.Store(true)
	}
	_ = ch.Close() // ends the copying
	wg.Wait()
	return err
}
