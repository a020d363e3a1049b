package podman

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containers/podman/v5/pkg/bindings"

	"github.com/understudy-ha/understudy/agent/api"
)

// Defaults of Options.
const (
	DefaultSocket  = "unix:///run/podman/podman.sock"
	DefaultTimeout = 30 * time.Second
)

// Options of a Client; the zero value is usable.
type Options struct {
	Socket  string        // unix:///path; default DefaultSocket
	Record  string        // file that remembers what is Understudy's on this node; empty: forgotten at exit
	Timeout time.Duration // for calls whose context has no deadline; default DefaultTimeout
	Root    string        // where systemd's units are looked for; default "/"
	Logger  *slog.Logger  // default: none
}

// Client talks to one Podman service. It connects when it is first used and
// again whenever it has to. Safe for concurrent use.
type Client struct {
	opts Options
	path string // of the socket
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	conn   context.Context
	closed bool
	wg     sync.WaitGroup

	record *record
	// systemd connects to it; tests have one of their own.
	systemd func(ctx context.Context) (systemd, error)
}

// New makes a client; it does not connect.
func New(opts Options) *Client {
	if opts.Socket == "" {
		opts.Socket = DefaultSocket
	}
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{
		opts:   opts,
		path:   strings.TrimPrefix(opts.Socket, "unix://"),
		log:    opts.Logger.With("component", "podman"),
		record: &record{path: opts.Record},

		systemd: connectSystemd,
	}
}

// Close waits for what calls have left behind: at most the 0.6 s that the
// bindings retry for, and for event streams until their contexts are done.
// Calls after Close fail with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

// spawn runs fn in a goroutine that Close waits for; false after Close.
func (c *Client) spawn(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		fn()
	}()
	return true
}

// bound gives ctx a deadline if it has none.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok || ctx.Value(unboundedKey{}) != nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.opts.Timeout)
}

// unboundedKey marks a call that may take as long as it takes: images, events.
type unboundedKey struct{}

func unbounded(ctx context.Context) context.Context {
	return context.WithValue(ctx, unboundedKey{}, true)
}

// connection is the connection in use, or a new one.
func (c *Client) connection(ctx context.Context) (context.Context, error) {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	return c.connect(ctx)
}

// connect makes a new connection, which pings Podman, and keeps it.
func (c *Client) connect(ctx context.Context) (context.Context, error) {
	if !strings.HasPrefix(c.opts.Socket, "unix://") {
		return nil, api.Errorf(api.KindArgs, "write unix:///run/podman/podman.sock",
			"Podman's socket %q is not a unix:// address", c.opts.Socket)
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout) // also for calls that may take long afterwards
	defer cancel()
	// NewConnection takes 0.6 s to find out that nobody listens.
	probe, err := (&net.Dialer{}).DialContext(ctx, "unix", c.path)
	if err != nil {
		if ctx.Err() != nil {
			return nil, c.explain(ctx, "connect to Podman", err)
		}
		return nil, unreachable(c.path, err)
	}
	_ = probe.Close()

	a := &attempt{failed: make(chan error, 1)}
	conn, err := detach(ctx, c, a, func() (context.Context, error) {
		values, err := bindings.NewConnection(ctx, c.opts.Socket)
		if err != nil {
			return nil, err
		}
		// Only the values outlive the call, not its deadline.
		return context.WithoutCancel(values), c.harden(values)
	})
	if ctx.Err() != nil {
		return nil, c.explain(ctx, "connect to Podman", ctx.Err())
	}
	if err != nil {
		if strings.Contains(err.Error(), "too old") {
			return nil, fail(errors.Join(ErrTooOld, err), api.KindIncompatible,
				"upgrade Podman on this node to 4.0 or later", "this node's Podman is too old: %s", message(err))
		}
		return nil, err
	}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	return conn, nil
}

// harden makes each request go out once, on a connection of its own: a kept one
// may have been closed by a Podman that exits when idle, and a POST that fails on
// it cannot be told from one that had its effect. A unix connection costs 20 µs.
func (c *Client) harden(conn context.Context) error {
	client, err := bindings.GetClient(conn)
	if err != nil {
		return err
	}
	transport, ok := client.Client.Transport.(*http.Transport)
	if !ok {
		return fmt.Errorf("unexpected transport %T in Podman's bindings", client.Client.Transport)
	}
	transport.DisableKeepAlives = true
	client.Client.Transport = singleShot{next: transport}
	return nil
}

// forget drops a connection that failed, so that the next call makes a new one
// (and learns the version of a Podman that was upgraded).
func (c *Client) forget(conn context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
}

// Ping asks Podman whether it is there, and its API's version ("5.4.2").
func (c *Client) Ping(ctx context.Context) (string, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	conn, err := c.connect(ctx)
	if err != nil {
		return "", c.explain(ctx, "ping Podman", err)
	}
	return bindings.ServiceVersion(conn).String(), nil
}

// versionAtLeast says whether the server's API version is at least major.minor.
func (c *Client) versionAtLeast(ctx context.Context, major, minor uint64) (bool, error) {
	conn, err := c.connection(ctx)
	if err != nil {
		return false, c.explain(ctx, "ask Podman's version", err)
	}
	v := bindings.ServiceVersion(conn)
	return v.Major > major || (v.Major == major && v.Minor >= minor), nil
}
