package podman

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// listen gives a unix socket that is closed at the end of the test.
func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// hung accepts and never answers.
func hung(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "podman.sock")
	l := listen(t, path)
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	return path
}

// serve answers pings as a Podman of that version and the rest with h.
func serve(t *testing.T, path, version string, h http.HandlerFunc) *http.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if filepath.Base(r.URL.Path) == "_ping" {
			w.Header().Set("Libpod-API-Version", version)
			_, _ = io.WriteString(w, "OK")
			return
		}
		h(w, r)
	})
	s := &http.Server{Handler: mux}
	l := listen(t, path)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return s
}

func client(t *testing.T, path string) *Client {
	t.Helper()
	c := New(Options{Socket: "unix://" + path, Timeout: 2 * time.Second})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// everyCall is every method that asks Podman.
func everyCall(c *Client) map[string]func(context.Context) error {
	def := &Definition{Version: 1, Images: []ImageDef{{ID: "x"}}, Containers: []ContainerDef{{Name: "a", ImageID: "x"}}}
	return map[string]func(context.Context) error{
		"Ping":         func(ctx context.Context) error { _, err := c.Ping(ctx); return err },
		"Inspect":      func(ctx context.Context) error { _, err := c.Inspect(ctx, "a"); return err },
		"Init":         func(ctx context.Context) error { return c.Init(ctx, "a") },
		"Start":        func(ctx context.Context) error { return c.Start(ctx, "a") },
		"Stop":         func(ctx context.Context) error { return c.Stop(ctx, "a", 10*time.Second) },
		"Kill":         func(ctx context.Context) error { return c.Kill(ctx, "a") },
		"Uninit":       func(ctx context.Context) error { return c.Uninit(ctx, "a") },
		"VolumePath":   func(ctx context.Context) error { _, err := c.VolumePath(ctx, "a"); return err },
		"EnsureVolume": func(ctx context.Context) error { _, err := c.EnsureVolume(ctx, VolumeDef{Name: "a"}); return err },
		"Present":      func(ctx context.Context) error { _, _, err := c.Present(ctx, []string{"a"}); return err },
		"Layers":       func(ctx context.Context) error { _, err := c.Layers(ctx); return err },
		"Image":        func(ctx context.Context) error { _, err := c.Image(ctx, "a"); return err },
		"ExportOCI":    func(ctx context.Context) error { return c.ExportOCI(ctx, "a", &bytes.Buffer{}) },
		"Tag":          func(ctx context.Context) error { return c.Tag(ctx, "a", []string{"b"}) },
		"Check":        func(ctx context.Context) error { _, err := c.Check(ctx, of("a")); return err },
		"Neutralise":   func(ctx context.Context) error { _, err := c.Neutralise(ctx, []string{"a"}); return err },
		"Capture":      func(ctx context.Context) error { _, err := c.Capture(ctx, of("a")); return err },
		"Realise":      func(ctx context.Context) error { _, err := c.Realise(ctx, def); return err },
		"VerifyImage":  func(ctx context.Context) error { return c.VerifyImage(ctx, "a") },
		"DropDamaged":  func(ctx context.Context) error { return c.DropDamaged(ctx, []string{"a"}) },
		"Sharing":      func(ctx context.Context) error { _, err := c.Sharing(ctx, "a", nil); return err },
		"Sync":         func(ctx context.Context) error { return c.Sync(ctx) },
		"Members": func(ctx context.Context) error {
			_, _, err := c.Members(ctx, Workload{Pods: []string{"a"}})
			return err
		},
		"Bring": func(ctx context.Context) error { _, err := c.Bring(ctx, "doc.go", "x"); return err },
		"Load": func(ctx context.Context) error {
			_, err := c.Load(ctx, "doc.go", "") // any file will do
			return err
		},
	}
}

// patience is far beyond any deadline below, and below what a call would take
// that waits for the server.
const patience = time.Minute

func within(t *testing.T, name string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatalf("%s still hangs %v after its deadline", name, patience)
		return nil
	}
}

func TestEveryCallReturnsFromAHungSocket(t *testing.T) {
	c := client(t, hung(t))
	for name, f := range everyCall(c) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			err := within(t, name, func() error { return f(ctx) })
			if !errors.Is(err, ErrHung) || !errors.Is(err, context.DeadlineExceeded) || api.KindOf(err) != api.KindDeadline {
				t.Errorf("error %v (kind %s)", err, api.KindOf(err))
			}
		})
	}
}

func TestEveryCallReturnsFromAHungAPI(t *testing.T) {
	for name := range everyCall(nil) {
		if name == "Ping" {
			continue // is answered
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			stop := make(chan struct{})
			path := filepath.Join(t.TempDir(), "podman.sock")
			serve(t, path, "5.4.2", func(_ http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				select {
				case <-stop:
				case <-r.Context().Done():
				}
			})
			t.Cleanup(func() { close(stop) })
			// On a busy machine the deadline may come before there was time to ask.
			for limit := 500 * time.Millisecond; requests.Load() == 0 && limit < 20*time.Second; limit *= 4 {
				c := client(t, path)
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				err := within(t, name, func() error { return everyCall(c)[name](ctx) })
				cancel()
				if !errors.Is(err, ErrHung) {
					t.Errorf("error %v", err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests, not one: retried, or never sent", n)
			}
		})
	}
}

func TestNoDeadlineGetsOne(t *testing.T) {
	c := New(Options{Socket: "unix://" + hung(t), Timeout: 50 * time.Millisecond})
	t.Cleanup(func() { _ = c.Close() })
	for name, f := range everyCall(c) {
		if err := within(t, name, func() error { return f(context.Background()) }); !errors.Is(err, ErrHung) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBrokenAnswerIsNotRetried(t *testing.T) {
	path := filepath.Join(t.TempDir(), "podman.sock")
	var requests atomic.Int32
	serve(t, path, "5.4.2", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost { // to look afterwards is no second start
			requests.Add(1)
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	})
	c := client(t, path)
	if err := c.Start(t.Context(), "a"); err == nil {
		t.Error("no error")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests for one start", n)
	}
	if err := c.Start(t.Context(), "a"); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestTooOldAServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "podman.sock")
	serve(t, path, "3.4.4", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	_, err := client(t, path).Ping(t.Context())
	if !errors.Is(err, ErrTooOld) || api.KindOf(err) != api.KindIncompatible {
		t.Errorf("error %v", err)
	}
}

func TestReconnects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "podman.sock")
	c := client(t, path)
	if _, err := c.Ping(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody listens: %v", err)
	}
	notFound := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"cause":"no such container","message":"no container with name a","response":404}`)
	}
	s := serve(t, path, "5.4.2", notFound)
	if v, err := c.Ping(t.Context()); err != nil || v != "5.4.2" {
		t.Errorf("Ping: %s, %v", v, err)
	}
	if _, err := c.Inspect(t.Context(), "a"); !errors.Is(err, ErrNotFound) || api.KindOf(err) != api.KindNotFound {
		t.Errorf("Inspect: %v", err)
	}
	_ = s.Close()
	_ = os.Remove(path)
	if _, err := c.Inspect(t.Context(), "a"); err == nil {
		t.Error("no error from a closed server")
	}
	serve(t, path, "5.6.0", notFound)
	if _, err := c.Inspect(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after it came back: %v", err)
	}
	if can, err := c.versionAtLeast(t.Context(), 5, 6); err != nil || !can {
		t.Errorf("the new version is not known: %v", err)
	}
}

func TestEventsResyncAfterEveryConnection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "podman.sock")
	var streams atomic.Int32
	serve(t, path, "5.4.2", func(w http.ResponseWriter, r *http.Request) {
		n := streams.Add(1)
		fmt.Fprintf(w, `{"Type":"container","Action":"died","Actor":{"ID":"id","Attributes":{"name":"web","containerExitCode":"%d"}},"timeNano":5}`+"\n", n)
		w.(http.Flusher).Flush()
		if n >= 3 {
			<-r.Context().Done()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	c := client(t, path)
	events := c.Events(ctx)
	for i := 1; i <= 3; i++ {
		if e := <-events; e.Type != EventResync {
			t.Fatalf("connection %d begins with %v", i, e)
		}
		if e := <-events; e.Type != EventDie || e.Container != "web" || e.ExitCode != i || e.At.UnixNano() != 5 {
			t.Fatalf("connection %d: %v", i, e)
		}
	}
	cancel()
	for range events {
	}
	if err := within(t, "Close", c.Close); err != nil {
		t.Error(err)
	}
}

func TestEventsOfAHungPodmanEnd(t *testing.T) {
	c := client(t, hung(t))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	events := c.Events(ctx)
	if err := within(t, "Events", func() error {
		for range events {
		}
		return c.Close()
	}); err != nil {
		t.Error(err)
	}
}

func TestSlowReaderGetsAResync(t *testing.T) {
	out := make(chan Event, 1)
	s := sender{out: out}
	s.send(Event{Type: EventStart})
	s.send(Event{Type: EventStop}) // no room
	if e := <-out; e.Type != EventStart {
		t.Errorf("first %v", e)
	}
	s.send(Event{Type: EventInit})
	if e := <-out; e.Type != EventResync {
		t.Errorf("after a loss: %v", e)
	}
}
