package drill

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/agent/probe"
)

var update = flag.Bool("update", false, "rewrite golden files")

func drillOptions(t *testing.T, f *fakePair) Options {
	t.Helper()
	target, err := probe.ParseTarget("http://"+f.addr+"/", probe.TargetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := probe.HTTPWriter(http.MethodPost, "http://"+f.addr+"/{n}", probe.TargetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Service: "web", Method: f, Cluster: f, Run: f.Run,
		Prober: LocalProber{Options: probe.Options{
			Target: target, Timeout: 200 * time.Millisecond,
			Writes: &probe.Writes{Writer: ackedWriter{w, f}, Verifier: probe.HTTPVerifier("http://"+f.addr+"/list", probe.TargetOptions{}), VerifyFor: time.Second},
		}},
		Warmup: 300 * time.Millisecond, Jitter: time.Millisecond, Settle: 300 * time.Millisecond,
		ReadyWait: 20 * time.Second, RecoverWait: 20 * time.Second, RestoreWait: 20 * time.Second,
	}
}

func TestNodeLossIsTakenApart(t *testing.T) {
	f := newFakePair(t)
	f.forget = 2
	o := drillOptions(t, f)
	o.Rounds = 2
	rep, err := NodeLoss(t.Context(), o)
	if err != nil {
		t.Fatalf("%v\n%+v", err, rep)
	}
	if len(rep.Rounds) != 2 || rep.Rounds[0].Victim != "n1" || rep.Rounds[1].Victim != "n2" {
		t.Fatalf("rounds = %+v", rep.Rounds)
	}
	r := rep.Rounds[0]
	// A busy machine makes each part longer, never shorter.
	const slack = 3000
	between := func(name string, v *float64, low float64) {
		t.Helper()
		if v == nil || *v < low-5 || *v > low+slack {
			t.Errorf("%s = %v, want %v to %v ms", name, deref(v), low, low+slack)
		}
	}
	between("detect", r.DetectMS, 100)
	between("fence", r.FenceMS, 60)
	between("takeover", r.TakeoverMS, 80)
	between("outage", r.OutageMS, 240)
	between("rpo", r.RPOMS, 700)
	if sum := *r.DetectMS + *r.FenceMS + *r.TakeoverMS; sum > *r.OutageMS+5 {
		t.Errorf("the parts (%.1f ms) are more than the outage (%.1f ms)", sum, *r.OutageMS)
	}
	if r.Lost == nil || *r.Lost != 2 || r.Generation != "3.14" {
		t.Errorf("lost = %+v, generation %q; want 2 and 3.14", r.Probe.Writes, r.Generation)
	}
	if *rep.Rounds[1].Lost != 0 {
		t.Errorf("round 2 counts the lost writes of round 1")
	}
	if got := strings.Join(r.Diverged, " "); got != "3.15.1" || len(rep.Rounds[1].Diverged) > 0 {
		t.Errorf("archived in round 1: %s, in round 2: %v; an archive of before the drill is none of it", got, rep.Rounds[1].Diverged)
	}
	if got := strings.Join(f.restored, " "); got != "n1 n2" {
		t.Errorf("restored %q", got)
	}
	var names []string
	for _, p := range r.Phases {
		names = append(names, p.Name)
	}
	all := strings.Join(names, ", ")
	for _, want := range []string{PhaseLastAnswer, PhaseHarm, PhaseFenceRequested, PhaseFenceDone, "agent: containers", PhaseActive, PhaseFirstAnswer, PhaseProtected} {
		if !strings.Contains(all, want) {
			t.Errorf("phases %s: no %q", all, want)
		}
	}
	if n := len(rep.Figures.OutageMS); n != 2 {
		t.Errorf("%d outages in the figures", n)
	}
}

func deref(v *float64) any {
	if v == nil {
		return nil
	}
	return *v
}

func TestNoHarmWithoutReadiness(t *testing.T) {
	f := newFakePair(t)
	f.notReady = []string{"the replica is 7m old"}
	f.harmErr = errors.New("harm was done")
	o := drillOptions(t, f)
	o.ReadyWait = 300 * time.Millisecond
	rep, err := NodeLoss(t.Context(), o)
	if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "7m old") {
		t.Fatalf("err = %v", err)
	}
	if len(f.restored) != 0 || !rep.Failed() {
		t.Errorf("restored %v, report %+v", f.restored, rep)
	}
}

func TestCheckStopsBeforeHarm(t *testing.T) {
	f := newFakePair(t)
	f.harmErr = errors.New("harm was done")
	o := drillOptions(t, f)
	o.Check = func(victim, survivor string) error { return errors.New("not " + victim + " and " + survivor) }
	if _, err := NodeLoss(t.Context(), o); err == nil || err.Error() != "not n1 and n2" {
		t.Fatalf("err = %v", err)
	}
}

func TestAHarmedNodeIsRestoredWhateverHappens(t *testing.T) {
	t.Run("harm fails", func(t *testing.T) {
		f := newFakePair(t)
		f.harmErr = errors.New("the PDU does not answer")
		_, err := NodeLoss(t.Context(), drillOptions(t, f))
		if err == nil || !strings.Contains(err.Error(), "PDU") || len(f.restored) != 1 {
			t.Fatalf("err = %v, restored %v", err, f.restored)
		}
	})
	t.Run("no takeover", func(t *testing.T) {
		f := newFakePair(t)
		f.never = true
		o := drillOptions(t, f)
		o.RecoverWait = time.Second
		rep, err := NodeLoss(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "n2 is not active") || len(f.restored) != 1 {
			t.Fatalf("err = %v, restored %v", err, f.restored)
		}
		// The last one: a busy machine may have put others before it.
		if r := rep.Rounds[0]; r.Probe == nil || len(r.Probe.Outages) == 0 || !r.Probe.Outages[len(r.Probe.Outages)-1].Open {
			t.Errorf("the open outage is not in the report: %+v", r.Probe)
		}
	})
	t.Run("back before the other takes over", func(t *testing.T) {
		f := newFakePair(t)
		f.back = true
		rep, err := NodeLoss(t.Context(), drillOptions(t, f))
		if err == nil || !strings.Contains(err.Error(), "n1 came back and went on with web before n2 took over") || len(f.restored) != 1 {
			t.Fatalf("err = %v, restored %v: %+v", err, f.restored, rep)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		f := newFakePair(t)
		f.never = true
		ctx, cancel := context.WithCancel(t.Context())
		o := drillOptions(t, f)
		o.Progress = func(line string) {
			if strings.Contains(line, "harm to") {
				time.AfterFunc(200*time.Millisecond, cancel)
			}
		}
		_, err := NodeLoss(ctx, o)
		if !errors.Is(err, context.Canceled) || len(f.restored) != 1 {
			t.Fatalf("err = %v, restored %v", err, f.restored)
		}
	})
}

func TestAProbeThatEndsEndsTheDrill(t *testing.T) {
	f := newFakePair(t)
	o := drillOptions(t, f)
	o.Prober = endingProber{o.Prober}
	if _, err := NodeLoss(t.Context(), o); err == nil || !strings.Contains(err.Error(), "probe ended") {
		t.Fatalf("err = %v", err)
	}
	if len(f.restored) != 0 {
		t.Error("harm was done without a probe")
	}
}

// endingProber's measurements end at once, as a killed child's do.
type endingProber struct{ inner Prober }

func (p endingProber) Start(ctx context.Context, round int) (Session, error) {
	s, err := p.inner.Start(ctx, round)
	if err == nil {
		_, err = s.Stop(ctx)
	}
	return s, err
}

func goldenReport() *Report {
	ms := func(v float64) *float64 { return &v }
	lost := 3
	t0 := time.Date(2026, 11, 21, 21, 0, 0, 0, time.UTC)
	r := Round{
		Round: 1, Victim: "n1", Survivor: "n2", HarmAt: t0, OutageMS: ms(4812), DetectMS: ms(4230),
		FenceMS: ms(260), TakeoverMS: ms(321), RPOMS: ms(903), Lost: &lost, RestoreMS: ms(41230), Generation: "7.118",
		Diverged: []string{"7.119.1"}, Notes: []string{"a note"},
		Probe: &probe.Result{Target: "http://192.0.2.100/", EveryMS: 5, Requests: 2000, Failures: 900, Writes: &probe.WriteResult{Target: "POST http://192.0.2.100/{n}", Acked: 400, Failed: 40, Verified: true, Lost: 3}},
		Phases: []Phase{
			{Name: PhaseLastAnswer, SinceMS: -1.2, Source: "probe"},
			{Name: PhaseHarm, Source: "drill", Detail: "fence of n1"},
			{Name: PhaseFenceDone, SinceMS: 4490, Source: "pacemaker-fenced", Detail: "a | in it"},
		},
	}
	rounds := []Round{r, {Round: 2, Error: "not ready: n1 is gone"}}
	return &Report{
		Kind: "node-loss", Service: "registry", Method: "fence", Started: t0, Ended: t0.Add(time.Minute),
		Rounds: rounds, Figures: figures(rounds),
	}
}

func TestReportReadsWell(t *testing.T) {
	dir := t.TempDir()
	if err := goldenReport().Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	golden := "testdata/report.md"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(testdata(t, "report.md")), string(got)); diff != "" {
		t.Errorf("report.md changed (-want +got); go test -update if it should:\n%s", diff)
	}
	js, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(js, &back); err != nil || back.Figures.OutageMS[0] != 4812 || back.Figures.LostAckedWrites[0] != 3 {
		t.Errorf("report.json does not come back: %v %+v", err, back.Figures)
	}
}

func TestMedian(t *testing.T) {
	for want, v := range map[float64][]float64{0: nil, 2: {3, 1, 2}, 2.5: {4, 1, 2, 3}} {
		if got := Median(v); got != want {
			t.Errorf("median of %v = %v, want %v", v, got, want)
		}
	}
}

func TestCommandMethod(t *testing.T) {
	dir := t.TempDir()
	m := Command(nil, "touch "+dir+"/{node}.off", "")
	if err := m.Harm(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/n1.off"); err != nil {
		t.Error(err)
	}
	if err := m.Harm(t.Context(), "n1; touch "+dir+"/bad"); err == nil {
		t.Error("a node name became shell")
	}
	if err := m.Restore(t.Context(), "n1"); err != nil {
		t.Errorf("an empty restore: %v", err)
	}
}
