package server

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// fake is an agent that answers as it is told.
type fake struct {
	do func(ctx context.Context, service, action string, req api.ActionRequest) (api.ActionResult, error)
}

func (f fake) Do(ctx context.Context, service, action string, req api.ActionRequest) (api.ActionResult, error) {
	return f.do(ctx, service, action, req)
}
func (fake) Status() api.Status { return api.Status{Nodes: []api.NodeStatus{{Node: "n1"}}} }
func (fake) Ready(string) (api.Readiness, error) {
	return api.Readiness{}, api.Errorf(api.KindNotFound, "look", "no such service")
}

func (fake) Replicate(context.Context, string) (api.ReplicateResult, error) {
	return api.ReplicateResult{Generation: "3.4"}, nil
}

func (fake) Restore(_ context.Context, _, generation string) (api.RestoreResult, error) {
	return api.RestoreResult{Generation: generation, As: "3.5"}, nil
}

func (fake) Scrub(service string, req api.ScrubRequest) (api.ScrubStatus, error) {
	return api.ScrubStatus{Service: service, Running: req.Begin}, nil
}
func (fake) Log(api.LogQuery) ([]api.Decision, error) { return nil, nil }
func (fake) FollowLog(ctx context.Context, _ api.LogQuery) <-chan api.Decision {
	c := make(chan api.Decision, 2)
	c <- api.Decision{Reason: "one"}
	c <- api.Decision{Reason: "two"}
	context.AfterFunc(ctx, func() { close(c) })
	return c
}

func (fake) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
}
func (fake) Version() api.VersionInfo { return api.VersionInfo{API: api.Version} }

func serve(t *testing.T, f fake) (*api.Client, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	s := New(socket, f, slog.New(slog.DiscardHandler))
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	return api.NewClient(socket), socket
}

func TestMetrics(t *testing.T) {
	c, _ := serve(t, fake{})
	if text, err := c.Metrics(t.Context()); err != nil || string(text) != "up 1\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestSocketIsRootsAlone(t *testing.T) {
	_, socket := serve(t, fake{})
	st, err := os.Stat(socket)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// TestDeadlineIsPassedOn: the operation's deadline reaches the agent, and a client
// that goes away does not cancel what it asked for.
func TestDeadlineIsPassedOn(t *testing.T) {
	got := make(chan time.Time, 1)
	gone := make(chan error, 1)
	c, _ := serve(t, fake{do: func(ctx context.Context, _, _ string, _ api.ActionRequest) (api.ActionResult, error) {
		d, _ := ctx.Deadline()
		got <- d
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
		gone <- ctx.Err()
		return api.ActionResult{}, nil
	}})
	want := time.Now().Add(time.Hour)
	deadline, cancel := context.WithDeadline(t.Context(), want)
	defer cancel()
	ctx, hangUp := context.WithCancel(deadline)
	time.AfterFunc(100*time.Millisecond, hangUp)
	if _, err := c.Do(ctx, "svc", api.ActionPromote, api.ActionRequest{}); err == nil {
		t.Error("a client that hung up got an answer")
	}
	if d := <-got; d.Sub(want).Abs() > time.Second {
		t.Errorf("deadline %s, not %s", d, want)
	}
	if err := <-gone; err != nil {
		t.Errorf("the operation was cancelled with its client: %v", err)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want api.Kind
	}{
		"refused":  {api.Errorf(api.KindRefused, "wait", "too old"), api.KindRefused},
		"wrapped":  {errors.Join(errors.New("around"), api.Errorf(api.KindBusy, "", "busy")), api.KindBusy},
		"plain":    {errors.New("plain"), api.KindGeneric},
		"deadline": {context.DeadlineExceeded, api.KindDeadline},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := serve(t, fake{do: func(context.Context, string, string, api.ActionRequest) (api.ActionResult, error) {
				return api.ActionResult{}, tc.err
			}})
			_, err := c.Do(t.Context(), "svc", api.ActionStart, api.ActionRequest{})
			if api.KindOf(err) != tc.want {
				t.Errorf("%v has kind %s", err, api.KindOf(err))
			}
		})
	}
}

func TestBadNamesDoNotReachTheAgent(t *testing.T) {
	c, _ := serve(t, fake{do: func(context.Context, string, string, api.ActionRequest) (api.ActionResult, error) {
		t.Error("the agent was asked")
		return api.ActionResult{}, nil
	}})
	for _, name := range []string{"../etc", "a b", "-x"} {
		if _, err := c.Do(t.Context(), name, api.ActionStart, api.ActionRequest{}); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
}

func TestFollowedLog(t *testing.T) {
	c, _ := serve(t, fake{})
	ctx, cancel := context.WithCancel(t.Context())
	var heard []string
	err := c.FollowLog(ctx, api.LogQuery{}, func(d api.Decision) error {
		if heard = append(heard, d.Reason); len(heard) == 2 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || len(heard) != 2 {
		t.Errorf("%v, %v", heard, err)
	}
}

// TestTwoAgents: a socket that answers belongs to a living agent; one that a dead
// agent left is replaced.
func TestTwoAgents(t *testing.T) {
	_, socket := serve(t, fake{})
	if err := New(socket, fake{}, slog.New(slog.DiscardHandler)).Start(); err == nil {
		t.Error("a second agent took the socket of a living one")
	}
	dead := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := New(dead, fake{}, slog.New(slog.DiscardHandler))
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
