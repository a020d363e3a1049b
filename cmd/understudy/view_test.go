package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/drill"
	"github.com/understudy-ha/understudy/agent/probe"
)

var now = time.Date(2026, 11, 21, 21, 0, 0, 0, time.UTC)

// golden compares with testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s changed (-want +got); go test -update if it should:\n%s", path, diff)
	}
}

func healthy() api.NodeHealth {
	return api.NodeHealth{PodmanOK: true, PodmanVersion: "5.4.2", StoreFree: 12 << 30, StoreTotal: 20 << 30, Load1: 0.31, CPUs: 2}
}

func pairStatus() api.Status {
	return api.Status{Nodes: []api.NodeStatus{
		{
			Node: "n1", Software: "0.1.0", Alive: true, Self: true, Health: healthy(),
			Services: []api.ServiceStatus{
				{
					Service: "registry", Role: api.RoleActive, Health: api.HealthHealthy, Term: 7, Committed: "7.118", Applied: "7.118",
					VIPs: []string{"192.0.2.100/24"}, Sockets: 3, FreezeP50: api.Duration(3 * time.Millisecond), FreezeP99: api.Duration(11 * time.Millisecond), FreezeMax: api.Duration(40 * time.Millisecond),
				},
				{Service: "wiki", Role: api.RoleStandby, Health: api.HealthHealthy, Committed: "2.9", FreshAt: now.Add(-2 * time.Second).UnixNano(), Score: 90},
			},
		},
		{
			Node: "n2", Software: "0.1.0", Alive: true, SeenAgo: api.Duration(200 * time.Millisecond), ClockOffset: api.Duration(1500 * time.Microsecond), Health: healthy(),
			Services: []api.ServiceStatus{
				{
					Service: "registry", Role: api.RoleStandby, Health: api.HealthHealthy, Term: 7, Committed: "7.118", Applied: "7.118", Score: 100,
					FreshAt: now.Add(-800*time.Millisecond + 1500*time.Microsecond).UnixNano(), Images: []string{"a"},
				},
				{Service: "wiki", Role: api.RoleActive, Health: api.HealthHealthy, Term: 2, Committed: "2.9", VIPs: []string{"2001:db8::7/64"}},
			},
		},
	}}
}

func troubledStatus() api.Status {
	st := pairStatus()
	n1, n2 := &st.Nodes[0], &st.Nodes[1]
	n1.Health.PodmanOK, n1.Health.PodmanError = false, "connection refused"
	n1.Services[0].Warnings = []string{"capture failed: freeze-max"}
	n2.ClockOffset = api.Duration(-3 * time.Second)
	n2.Services[0].Blockers = []string{"the replica is 7m old (max-rpo 5m)"}
	n2.Services[0].Missing = []string{"sha256:1"}
	n2.Services[0].Diverged = []string{"6.40.1"}
	n2.Services[1].Role = api.RoleStopped
	st.Nodes = append(st.Nodes, api.NodeStatus{Node: "n3", SeenAgo: api.Duration(3 * time.Minute), Services: []api.ServiceStatus{{Service: "registry", Role: api.RoleStandby, Health: api.HealthUnknown}}})
	return st
}

// looseStatus is of a service with consistency=none.
func looseStatus() api.Status {
	st := onlyService(pairStatus(), "registry")
	active := &st.Nodes[0].Services[0]
	active.Loose, active.FreezeP50, active.FreezeP99, active.FreezeMax = true, 0, 0, 0
	return st
}

// foreignStatus is what gossip makes of a peer of another version.
func foreignStatus() api.Status {
	st := onlyService(pairStatus(), "registry")
	st.Nodes[1] = api.NodeStatus{Node: "n2", Version: api.Version + 1, Software: "9.9", Alive: true, SeenAgo: api.Duration(200 * time.Millisecond)}
	return st
}

func TestStatusReadsWell(t *testing.T) {
	tests := map[string]struct {
		status api.Status
		detail bool
	}{
		"status-pair":    {status: pairStatus()},
		"status-detail":  {status: onlyService(pairStatus(), "registry"), detail: true},
		"status-trouble": {status: troubledStatus()},
		"status-loose":   {status: looseStatus(), detail: true},
		"status-foreign": {status: foreignStatus()},
		"status-empty":   {status: api.Status{Nodes: []api.NodeStatus{{Node: "n1", Self: true, Alive: true, Health: healthy()}}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := (statusView{now: now, detail: tt.detail}).print(&b, tt.status); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.String())
		})
	}
}

func TestHistoryReadsWell(t *testing.T) {
	time.Local = time.UTC
	g := func(id string, g api.Generation) api.Generation {
		g.ID, g.At, g.Entries, g.Size, g.Changed, g.New = id, now.Add(-90*time.Minute), 12, 5<<20, 3, 4<<10
		return g
	}
	h := api.History{
		Generations: []api.Generation{
			g("7.1", api.Generation{Pinned: "before all"}),
			g("7.2", api.Generation{Loose: true, Suspect: "all files are noise"}),
			g("7.3", api.Generation{Final: true, Head: true, Applied: true}),
		},
		Diverged:   []api.Generation{g("6.40.1", api.Generation{}), g("6.41.1", api.Generation{Loose: true})},
		StoreBytes: 6 << 20,
	}
	var b bytes.Buffer
	if err := printHistory(&b, h, now); err != nil {
		t.Fatal(err)
	}
	golden(t, "history", b.String())
}

func TestLogReadsWell(t *testing.T) {
	time.Local = time.UTC
	var b bytes.Buffer
	for _, d := range []api.Decision{
		{At: now, Node: "n1", Event: api.EventAgentStart, Reason: "version 0.1.0"},
		{At: now, Node: "n1", Service: "registry", Event: api.EventPromoteStep, Term: 7, Reason: "tree at 7.118", Took: api.Duration(12 * time.Millisecond), Fields: map[string]string{"step": "tree", "generation": "7.118"}},
		{At: now, Node: "n1", Service: "registry", Event: api.EventRefuse, Term: 7, Reason: "the replica is 7m old"},
	} {
		printDecision(&b, d)
	}
	golden(t, "log", b.String())
}

func TestProbeResultReadsWell(t *testing.T) {
	var b bytes.Buffer
	printResult(&b, probe.Result{
		Target: "http://192.0.2.100/", Started: now, Ended: now.Add(10 * time.Second), Requests: 2000, OK: 1900, Failures: 100, FailuresOutside: 1, MinOutageMS: 50,
		LatencyMS: probe.Latency{P50: 1.1, P90: 2, P99: 9, Max: 40},
		Outages: []probe.Outage{
			{Start: now, MS: 500, Failures: 99, FirstError: "connection refused"},
			{Start: now.Add(time.Second), MS: 100, ClientLagMS: 90, Open: true},
		},
		Writes: &probe.WriteResult{Acked: 300, Failed: 5, LongestGapMS: 510, Verified: true, Lost: 2, UnackedPresent: 1},
	})
	printResult(&b, probe.Result{Target: "tcp://x:1", Started: now, Ended: now, MinOutageMS: 50, Writes: &probe.WriteResult{VerifyError: "status 500"}})
	golden(t, "probe", b.String())
}

func TestExitCodes(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{t.Context(), nil, exitOK},
		{t.Context(), errors.New("x"), exitError},
		{t.Context(), usageError{errors.New("x")}, exitUsage},
		{t.Context(), errors.Join(errors.New("x"), drill.ErrNotReady), exitNotReady},
		{t.Context(), api.Errorf(api.KindUnavailable, "", "x"), exitUnavailable},
		{t.Context(), api.Errorf(api.KindRefused, "", "x"), exitRefused},
		{cancelled, errors.Join(context.Canceled, errors.New("x")), exitInterrupted},
		{t.Context(), context.Canceled, exitError},
		{t.Context(), withCode(exitDown, errSaid), exitDown},
	} {
		if got := exitCode(tt.ctx, tt.err); got != tt.want {
			t.Errorf("exit code of %v = %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestShortAndBytes(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1234 * time.Microsecond: "1.2ms", 123456 * time.Microsecond: "123ms", 12345 * time.Millisecond: "12.3s", 90*time.Second + 1: "1m30s", -time.Second: "-1s",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%d) = %s, want %s", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1 << 10: "1.0 KiB", 3 << 29: "1.5 GiB", 1 << 63: "8.0 EiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("bytesOf(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestSince(t *testing.T) {
	for s, want := range map[string]time.Time{
		"": {}, "10m": now.Add(-10 * time.Minute), "2026-11-21T20:00:00Z": now.Add(-time.Hour),
	} {
		if got, err := parseSince(s, now); err != nil || !got.Equal(want) {
			t.Errorf("--since %q = %s, %v", s, got, err)
		}
	}
	if _, err := parseSince("yesterday", now); err == nil || !strings.Contains(err.Error(), "yesterday") {
		t.Errorf("err = %v", err)
	}
}

func TestEveryCommandIsThereOnceAndExplained(t *testing.T) {
	seen := map[string]bool{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if seen[c.CommandPath()] {
			t.Errorf("%s is there twice", c.CommandPath())
		}
		seen[c.CommandPath()] = true
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand(newApp(nil, t.Output(), t.Output())))
	for _, want := range []string{"status", "ready", "switchover", "log", "probe", "drill node-loss", "init", "trust", "agent", "receive", "version"} {
		if !seen["understudy "+want] {
			t.Errorf("no command %s", want)
		}
	}
}

// TestWritesAreNewInEachRun: a number that an earlier run has written would be found
// although this one had lost it.
func TestWritesAreNewInEachRun(t *testing.T) {
	f := probeFlags{writes: "http://192.0.2.100/w/{n}", verify: "http://192.0.2.100/list"}
	w, err := f.writesOptions(probe.TargetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	next := firstWrite(time.Now().Add(time.Second))
	if last := w.From + 999_999; w.From < firstWrite(now) || last >= next {
		t.Errorf("a run writes %d to %d, one a second later begins with %d", w.From, last, next)
	}
	if next+drill.FirstWrite(1000) > 1<<53 {
		t.Errorf("%d is more than a JSON list holds exactly", next)
	}
	f.writeFrom = 500
	if w, err := f.writesOptions(probe.TargetOptions{}); err != nil || w.From != 500 {
		t.Errorf("--write-from 500: %+v, %v", w, err)
	}
}
