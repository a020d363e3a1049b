// Package wiretest has a receiver for tests outside of package wire: an SSH server on
// loopback, in the test's own process, whose every session is a wire.Serve.
package wiretest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

// Server is one standby's sshd, with `understudy receive` behind it.
type Server struct {
	Root    string             // of the stores
	Options wire.ClientOptions // how to get there, its host key pinned

	serve func(io.ReadWriteCloser) error
	allow []byte // the client's public key

	mu   sync.Mutex // guards host
	host ssh.Signer
}

// Start serves the stores below root until the test ends. A service's store must be
// there before it is sent to.
func Start(t testing.TB, root string) *Server {
	t.Helper()
	return StartWith(t, root, func(rw io.ReadWriteCloser) error {
		return wire.Serve(context.Background(), rw, ServerOptions(root, store.Options{}))
	})
}

// ServerOptions are of a receiver with these stores. What a full disk keeps free is not
// the test's file system's.
func ServerOptions(root string, o store.Options) wire.ServerOptions {
	return wire.ServerOptions{
		MinFree: -1,
		Open: func(service string) (wire.Store, error) {
			if _, err := os.Stat(filepath.Join(root, "services", service)); err != nil {
				return nil, fmt.Errorf("%w: %s", wire.ErrNoService, service)
			}
			return store.Open(root, service, o)
		},
	}
}

// StartWith is Start with another receiver behind each session.
func StartWith(t testing.TB, root string, serve func(io.ReadWriteCloser) error) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	dir := t.TempDir()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	must(t, err)
	key, err := ssh.NewPublicKey(public)
	must(t, err)
	s := &Server{Root: root, serve: serve, allow: key.Marshal()}
	s.Options = wire.ClientOptions{
		Addr: l.Addr().String(), Name: "n2", User: "understudy",
		KeyFile: filepath.Join(dir, "key"), KnownHosts: filepath.Join(dir, "known_hosts"),
	}
	must(t, os.WriteFile(s.Options.KeyFile, pem.EncodeToMemory(block), 0o600))
	s.NewHostKey(t)
	must(t, os.WriteFile(s.Options.KnownHosts, []byte(knownhosts.Line([]string{s.Options.Addr}, s.host.PublicKey())+"\n"), 0o600))

	var all sync.WaitGroup
	var mu sync.Mutex // guards conns
	conns := map[net.Conn]bool{}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			all.Go(func() { s.connection(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return s
}

// NewHostKey makes the server show a key from now on that nobody has pinned.
func (s *Server) NewHostKey(t testing.TB) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	host, err := ssh.NewSignerFromKey(private)
	must(t, err)
	s.mu.Lock()
	s.host = host
	s.mu.Unlock()
}

// connection serves one client until it hangs up.
func (s *Server) connection(raw net.Conn) {
	defer raw.Close()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), s.allow) {
			return nil, errors.New("not this key")
		}
		return &ssh.Permissions{}, nil
	}}
	s.mu.Lock()
	cfg.AddHostKey(s.host)
	s.mu.Unlock()
	conn, chans, reqs, err := ssh.NewServerConn(raw, cfg)
	if err != nil {
		return
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer conn.Close()
	all.Go(func() { // keep-alives
		for r := range reqs {
			_ = r.Reply(false, nil)
		}
	})
	for nc := range chans {
		if nc.ChannelType() != "session" {
			_ = nc.Reject(ssh.Prohibited, "sessions only")
			continue
		}
		ch, asked, err := nc.Accept()
		if err != nil {
			continue
		}
		all.Go(func() { s.session(ch, asked) })
	}
}

// session runs the receiver, whatever is asked for: a forced command.
func (s *Server) session(ch ssh.Channel, asked <-chan *ssh.Request) {
	defer ch.Close()
	var served sync.WaitGroup
	for r := range asked {
		_ = r.Reply(r.Type == "exec", nil)
		if r.Type == "exec" {
			served.Go(func() {
				if err := s.serve(ch); err != nil {
					fmt.Fprintln(ch.Stderr(), err)
				}
				_ = ch.Close()
			})
		}
	}
	served.Wait()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
