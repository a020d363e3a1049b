package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/probe"
)

// fakePair is a pair of nodes that serve over real HTTP on loopback: harm to the active one stops the
// server; after detect, fence and takeover times, the other serves. It plays method, cluster and journal.
type fakePair struct {
	t                       *testing.T
	addr                    string
	detect, fence, takeover time.Duration

	mu       sync.Mutex // guards what follows
	server   *http.Server
	active   string
	lost     string // node that is down
	fresh    time.Time
	journal  []string
	log      []api.Decision
	writes   map[string]bool
	acked    []int // writes that the client has an answer to, in that order
	forget   int   // of those, how many the loss takes along
	notReady []string
	harmErr  error
	never    bool // the other node never takes over
	back     bool // the harmed one is promoted again, before the other
	term     uint64
	restored []string
	queried  []string // nodes whose agents were asked
	archived map[string][]string
	wg       sync.WaitGroup
}

func newFakePair(t *testing.T) *fakePair {
	t.Helper()
	f := &fakePair{
		t: t, active: "n1", term: 3, fresh: time.Now(), writes: map[string]bool{}, archived: map[string][]string{"n1": {"1.7.1"}},
		detect: 100 * time.Millisecond, fence: 60 * time.Millisecond, takeover: 80 * time.Millisecond,
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	f.serve(l)
	t.Cleanup(func() {
		f.wg.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		_ = f.server.Close()
	})
	return f
}

func (f *fakePair) serve(l net.Listener) {
	f.server = &http.Server{Handler: http.HandlerFunc(f.handle)}
	go func(s *http.Server) { _ = s.Serve(l) }(f.server)
}

func (f *fakePair) handle(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Method == http.MethodPost {
		f.writes[r.URL.Path[1:]] = true
	}
	if r.URL.Path == "/list" {
		for n := range f.writes {
			fmt.Fprintln(w, n)
		}
	}
}

func (f *fakePair) other() string {
	if f.active == "n1" {
		return "n2"
	}
	return "n1"
}

func (f *fakePair) Name() string { return "fake" }

func (f *fakePair) Harm(_ context.Context, node string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.harmErr != nil {
		return f.harmErr
	}
	if node != f.active {
		return errors.New("harm to the wrong node")
	}
	_ = f.server.Close()
	f.lost = node
	if f.forget > 0 {
		f.archived[node] = append(f.archived[node], "3.15.1")
	}
	f.fresh = time.Now().Add(-700 * time.Millisecond)
	// The newest acknowledged writes had not got across.
	for ; f.forget > 0 && len(f.acked) > 0; f.forget-- {
		last := len(f.acked) - 1
		delete(f.writes, strconv.Itoa(f.acked[last]))
		f.acked = f.acked[:last]
	}
	f.wg.Go(func() { f.takeOver(node) })
	return nil
}

// ackedWriter tells the pair which writes the client has an answer to. The server
// cannot know: it may be closed, or the client may give up, between record and answer.
type ackedWriter struct {
	probe.Writer
	f *fakePair
}

func (w ackedWriter) Write(ctx context.Context, n int) error {
	err := w.Writer.Write(ctx, n)
	if err == nil {
		w.f.mu.Lock()
		defer w.f.mu.Unlock()
		w.f.acked = append(w.f.acked, n)
	}
	return err
}

func (f *fakePair) takeOver(node string) {
	time.Sleep(f.detect)
	f.logJournal("pacemaker-fenced", "notice: Requesting peer fencing (reboot) targeting "+node)
	time.Sleep(f.fence)
	f.logJournal("pacemaker-fenced", "notice: Operation 'reboot' targeting "+node+" by x for y@z: OK (Done)")
	time.Sleep(f.takeover)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.never {
		return
	}
	f.term++
	if f.back {
		f.lost = ""
		return
	}
	f.active = f.other()
	f.log = append(f.log, api.Decision{
		At: time.Now(), Node: f.active, Service: "web", Event: api.EventPromoteStep,
		Reason: "started", Took: api.Duration(9 * time.Millisecond), Fields: map[string]string{"step": "containers"},
	})
	l, err := net.Listen("tcp", f.addr)
	if err != nil {
		f.t.Errorf("takeover: %v", err)
		return
	}
	f.serve(l)
}

func (f *fakePair) logJournal(identifier, msg string) {
	line, _ := json.Marshal(map[string]string{
		"MESSAGE": msg, "SYSLOG_IDENTIFIER": identifier, "__REALTIME_TIMESTAMP": strconv.FormatInt(time.Now().UnixMicro(), 10),
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.journal = append(f.journal, string(line))
}

func (f *fakePair) Restore(ctx context.Context, node string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restored = append(f.restored, node)
	if f.lost == node {
		f.lost = ""
	}
	return ctx.Err()
}

func (f *fakePair) Status(_ context.Context, from string) (api.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queried = append(f.queried, from)
	if from == f.lost && from != "" {
		return api.Status{}, errors.New("a dead node was asked")
	}
	var st api.Status
	for _, n := range []string{"n1", "n2"} {
		s := api.ServiceStatus{Service: "web", Role: api.RoleStandby, Committed: "3.14", FreshAt: f.fresh.UnixNano(), Diverged: f.archived[n]}
		if n == f.active {
			s.Role, s.Term = api.RoleActive, f.term
		}
		st.Nodes = append(st.Nodes, api.NodeStatus{Node: n, Alive: n != f.lost, Services: []api.ServiceStatus{s}})
	}
	return st, nil
}

func (f *fakePair) Ready(_ context.Context, _, service string) (api.Readiness, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost != "" {
		return api.Readiness{Service: service, Active: f.active, Blockers: []string{f.lost + " is gone"}}, nil
	}
	return api.Readiness{
		Service: service, Ready: len(f.notReady) == 0, Active: f.active, Standby: f.other(), Blockers: f.notReady,
	}, nil
}

func (f *fakePair) Log(_ context.Context, _, _ string, since time.Time) ([]api.Decision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []api.Decision
	for _, d := range f.log {
		if !d.At.Before(since) {
			out = append(out, d)
		}
	}
	return out, nil
}

// Run is the way to the survivor's journal.
func (f *fakePair) Run(_ context.Context, _ string, argv ...string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if argv[0] != "journalctl" {
		return nil, errors.New("not here")
	}
	var out []byte
	for _, l := range f.journal {
		out = append(append(out, l...), '\n')
	}
	return out, nil
}
