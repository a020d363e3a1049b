package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// service is a real HTTP service on loopback whose listener can go away and come
// back, that can hang, and that stores numbered writes.
type service struct {
	t    *testing.T
	addr string

	mu     sync.Mutex
	server *http.Server
	hang   chan struct{} // not nil: requests wait for it
	writes map[string]bool
	forget map[string]bool // acknowledged and dropped
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, writes: map[string]bool{}, forget: map[string]bool{}}
	s.up("127.0.0.1:0")
	t.Cleanup(s.down)
	return s
}

func (s *service) up(addr string) {
	s.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addr = l.Addr().String()
	s.server = &http.Server{Handler: http.HandlerFunc(s.serve)}
	go func(srv *http.Server) { _ = srv.Serve(l) }(s.server)
}

func (s *service) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.server.Close()
}

func (s *service) setHang(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hang != nil {
		close(s.hang)
		s.hang = nil
	}
	if on {
		s.hang = make(chan struct{})
	}
}

func (s *service) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	hang := s.hang
	s.mu.Unlock()
	if hang != nil {
		<-r.Context().Done() // a request of the dead time is never answered
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name, isWrite := strings.CutPrefix(r.URL.Path, "/write/")
	switch {
	case isWrite && r.Method == http.MethodPost:
		body, _ := io.ReadAll(r.Body)
		if string(body) != name+"\n" {
			http.Error(w, "body", http.StatusBadRequest)
			return
		}
		s.writes[name] = !s.forget[name]
	case r.URL.Path == "/list":
		for n, there := range s.writes {
			if there {
				fmt.Fprintln(w, n)
			}
		}
	case r.URL.Path == "/404":
		http.NotFound(w, r)
	case r.URL.Path == "/redirect":
		http.Redirect(w, r, "/404", http.StatusFound)
	default:
		fmt.Fprintln(w, "ok")
	}
}

func (s *service) target(t *testing.T, path string) Target {
	t.Helper()
	tg, err := ParseTarget("http://"+s.addr+path, TargetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return tg
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never came: %s", what)
}

// near fails unless the outage found is the one planted, give or take what a busy
// machine adds: it can only make an outage longer, never shorter than it was minus one answer.
func near(t *testing.T, got Outage, from, to time.Time) {
	t.Helper()
	const early, late = 30 * time.Millisecond, 500 * time.Millisecond
	if got.Start.After(from.Add(early)) || got.Start.Before(from.Add(-late)) {
		t.Errorf("outage starts %s after what was planted", got.Start.Sub(from))
	}
	if got.End.Before(to) || got.End.After(to.Add(late)) {
		t.Errorf("outage ends %s after what was planted", got.End.Sub(to))
	}
}

func TestMeasuresAPlantedOutage(t *testing.T) {
	tests := []struct {
		name      string
		breakIt   func(*service)
		heal      func(*service)
		wantFirst string // a regular expression
	}{
		{
			name: "stopped and started", breakIt: (*service).down,
			heal: func(s *service) { s.up(s.addr) }, wantFirst: "refused|EOF|reset", // those under way break off
		},
		{
			name: "hangs without an answer", breakIt: func(s *service) { s.setHang(true) },
			heal: func(s *service) { s.setHang(false) }, wantFirst: "no answer in time",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t)
			r, err := Start(t.Context(), Options{
				Target: s.target(t, "/"), Timeout: 150 * time.Millisecond, UntilRecovered: true, SettleFor: 300 * time.Millisecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			waitFor(t, "steady answers", func() bool { return r.Snapshot().OK > 20 })
			from := time.Now()
			tt.breakIt(s)
			time.Sleep(400 * time.Millisecond)
			to := time.Now()
			tt.heal(s)
			res := r.Wait()
			o, ok := res.Worst(from)
			if !ok {
				t.Fatalf("no outage: %+v", res)
			}
			near(t, o, from, to)
			if o.Failures == 0 || !regexp.MustCompile(tt.wantFirst).MatchString(o.FirstError) || o.Open {
				t.Errorf("outage = %+v, want failures that say %q", o, tt.wantFirst)
			}
			if res.OK+res.Failures != res.Requests {
				t.Errorf("%d ok + %d failed ≠ %d", res.OK, res.Failures, res.Requests)
			}
		})
	}
}

func TestEventsTellTheStory(t *testing.T) {
	s := newService(t)
	var mu sync.Mutex
	var events []string
	r, err := Start(t.Context(), Options{
		Target: s.target(t, "/"), Timeout: 100 * time.Millisecond, UntilRecovered: true, SettleFor: time.Millisecond,
		OnEvent: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Event != EventTick {
				events = append(events, e.Event)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "steady answers", func() bool { return r.Snapshot().OK > 5 })
	s.down()
	waitFor(t, "the outage is announced", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(events) > 1
	})
	s.up(s.addr)
	r.Wait()
	mu.Lock()
	defer mu.Unlock()
	if got, want := strings.Join(events[:3], " "), "started outage-begin outage-end"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestWritesAreCounted(t *testing.T) {
	s := newService(t)
	s.forget["1003"], s.forget["1005"] = true, true // acknowledged, and gone
	s.writes["7"] = true                            // of an earlier run
	w, err := HTTPWriter(http.MethodPost, "http://"+s.addr+"/write/{n}", TargetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Start(t.Context(), Options{
		Target: s.target(t, "/"),
		Writes: &Writes{Writer: w, Verifier: HTTPVerifier("http://"+s.addr+"/list", TargetOptions{}), From: 1000, Every: 5 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "20 writes", func() bool { return r.Snapshot().Acked >= 20 })
	res, err := r.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wr := res.Writes
	if wr == nil || !wr.Verified || wr.Lost != 2 || fmt.Sprint(wr.LostNumbers) != "[1003 1005]" {
		t.Fatalf("writes = %+v, want 1003 and 1005 lost", wr)
	}
	if wr.Acked != wr.Present+2 || wr.Acked+wr.Failed != wr.Attempted {
		t.Errorf("writes do not add up: %+v", wr)
	}
}

func TestWritesThatCannotBeReadBackAreNotVerified(t *testing.T) {
	s := newService(t)
	w, _ := HTTPWriter(http.MethodPost, "http://"+s.addr+"/write/{n}", TargetOptions{})
	r, err := Start(t.Context(), Options{
		Target: s.target(t, "/"), For: 50 * time.Millisecond,
		Writes: &Writes{Writer: w, Verifier: HTTPVerifier("http://"+s.addr+"/404", TargetOptions{}), VerifyFor: 50 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	if wr := r.Wait().Writes; wr.Verified || !strings.Contains(wr.VerifyError, "404") {
		t.Fatalf("writes = %+v, want an error that names 404", wr)
	}
}

func TestTargets(t *testing.T) {
	s := newService(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedAddr := closed.Addr().String()
	closed.Close()
	tests := []struct {
		url    string
		expect int
		ok     bool
	}{
		{"http://" + s.addr + "/", 0, true},
		{"http://" + s.addr + "/404", 0, false},
		{"http://" + s.addr + "/404", 404, true},
		{"http://" + s.addr + "/redirect", 0, true},
		{"tcp://" + s.addr, 0, true},
		{"tcp://" + closedAddr, 0, false},
		{"http://" + closedAddr, 0, false},
		{"addr://127.0.0.1", 0, true},
	}
	for _, tt := range tests {
		tg, err := ParseTarget(tt.url, TargetOptions{Expect: tt.expect})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := tg.Once(ctx); (err == nil) != tt.ok {
			t.Errorf("%s (expect %d): %v, want ok=%v", tt.url, tt.expect, err, tt.ok)
		}
		cancel()
	}
	for _, bad := range []string{"", "registry", "ftp://x/", "tcp://x", "http://", "http://[::1"} {
		if _, err := ParseTarget(bad, TargetOptions{}); err == nil {
			t.Errorf("%q was taken for a target", bad)
		}
	}
}

func TestACommandIsKilledWithItsChildren(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := CommandTarget("sleep 60 & sleep 60; true").Once(ctx); err == nil {
		t.Fatal("a command that hangs is no answer")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Fatalf("the command held the probe for %s", took)
	}
	if err := CommandTarget("exit 0").Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := CommandTarget("echo broken >&2; exit 3").Once(t.Context()); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Fatalf("err = %v, want what the command said", err)
	}
}

func TestTheOldestRequestGivesWay(t *testing.T) {
	s := newService(t)
	s.setHang(true)
	r, err := Start(t.Context(), Options{Target: s.target(t, "/"), Timeout: time.Minute, MaxInFlight: 4})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "requests given up", func() bool { return r.Snapshot().Failures > 10 })
	s.setHang(false)
	waitFor(t, "an answer", func() bool { return r.Snapshot().OK > 0 })
	if _, err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	tg := CommandTarget("true")
	for name, o := range map[string]Options{
		"no target":       {},
		"too often":       {Target: tg, Every: time.Microsecond},
		"timeout < every": {Target: tg, Every: time.Second, Timeout: time.Millisecond},
		"negative":        {Target: tg, For: -1},
		"no in flight":    {Target: tg, MaxInFlight: -1},
		"no writer":       {Target: tg, Writes: &Writes{}},
	} {
		if _, err := Start(t.Context(), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseNumbers(f *testing.F) {
	for _, s := range []string{"", "1\n2\n", "[1,2]", "17.txt\n", "[", "x", "99999999999999999999"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ns, err := ParseNumbers(b)
		if err != nil && ns != nil {
			t.Errorf("both numbers and an error: %v %v", ns, err)
		}
		if strings.TrimSpace(string(b)) == "" && (err != nil || len(ns) != 0) {
			t.Errorf("an empty list gave %v, %v", ns, err)
		}
	})
}
