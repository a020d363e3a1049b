package podman

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// faulty passes requests on to Podman until the count runs out. The last one fails,
// before Podman has seen it or after it has done it; from then on all fail, as for
// a caller that was killed there.
type faulty struct {
	proxy  *httputil.ReverseProxy
	left   atomic.Int32
	after  bool
	struck atomic.Bool
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if filepath.Base(r.URL.Path) == "_ping" || f.left.Add(-1) >= 0 {
		f.proxy.ServeHTTP(w, r)
		return
	}
	if f.after && !f.struck.Load() {
		f.proxy.ServeHTTP(discard{http.Header{}}, r)
	}
	f.struck.Store(true)
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.Close()
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func newFaulty(t *testing.T, requests int, after bool) (*faulty, string) {
	t.Helper()
	f := &faulty{after: after, proxy: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "d"})}
	f.proxy.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", "/run/podman/podman.sock")
	}}
	f.left.Store(int32(requests))
	path := filepath.Join(t.TempDir(), "faulty.sock")
	s := &http.Server{Handler: f}
	l := listen(t, path)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return f, path
}

// TestNodeInterrupted kills Realise at every one of its requests, before and
// after its effect, and wants the next Realise to finish the work: from nothing,
// and over containers and a network that differ.
func TestNodeInterrupted(t *testing.T) {
	c, ctx := nodeClient(t)
	clean := func() {
		t.Helper()
		for _, args := range [][]string{{"rm", "-f", "-i", "-t", "0", "k1"}, {"network", "rm", "-f", "knet"}, {"volume", "rm", "-f", "kvol"}} {
			if out, err := exec.Command("podman", args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	define := func(flags ...string) *Definition {
		t.Helper()
		clean()
		podman(t, append([]string{"network", "create"}, append(flags, "knet")...)...)
		podman(t, "create", "--name", "k1", "--network", "knet", "-v", "kvol:/data", "-e", "V="+fmt.Sprint(flags), image, "sleep", "1000")
		def, err := c.Capture(ctx, of("k1"))
		if err != nil {
			t.Fatal(err)
		}
		return def
	}
	t.Cleanup(clean)
	first := define("--subnet", "203.0.113.96/27")
	second := define("--subnet", "203.0.113.128/27")
	for _, tc := range []struct {
		name       string
		start, end *Definition
	}{{"from nothing", nil, second}, {"over another", first, second}} {
		for _, after := range []bool{false, true} {
			n := 0
			for interruptedAt(ctx, t, tc.start, tc.end, n, after, clean) {
				n++
			}
			t.Logf("%s, fault after the effect: %v: %d places to be killed at", tc.name, after, n)
			if n < 5 {
				t.Errorf("only %d requests", n)
			}
		}
	}
}

// interruptedAt is false once the fault comes after all requests.
func interruptedAt(ctx context.Context, t *testing.T, start, end *Definition, n int, after bool, clean func()) bool {
	t.Helper()
	clean()
	record := filepath.Join(t.TempDir(), "record.json")
	realise := func(socket string, def *Definition) error {
		c := New(Options{Socket: "unix://" + socket, Record: record, Timeout: 10 * time.Second})
		defer c.Close()
		_, err := c.Realise(ctx, def)
		return err
	}
	const real = "/run/podman/podman.sock"
	if start != nil {
		if err := realise(real, start); err != nil {
			t.Fatal(err)
		}
	}
	f, socket := newFaulty(t, n, after)
	err := realise(socket, end)
	if !f.struck.Load() {
		if err != nil {
			t.Fatal(err)
		}
		return false
	}
	if err == nil || errors.Is(err, ErrForeign) {
		t.Errorf("killed at request %d: %v", n, err)
	}
	if err := realise(real, end); err != nil {
		t.Fatalf("after being killed at request %d (after its effect: %v): %v", n, after, err)
	}
	c := New(Options{Record: record})
	defer c.Close()
	diffs, err := differences(ctx, c, end)
	if err != nil || len(diffs) > 0 {
		t.Errorf("after being killed at request %d: %q, %v", n, diffs, err)
	}
	if changes, err := c.Realise(ctx, end); err != nil || len(changes) > 0 {
		t.Errorf("after being killed at request %d, a third time: %q, %v", n, changes, err)
	}
	if _, err := os.Stat(record); err != nil {
		t.Error(err)
	}
	return true
}
