package drill

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/probe"
)

// TestMain makes this test binary the child that ProcessProber expects, when it is told so: a probe
// that prints events and ends with its input, as `understudy probe --events --until-eof` does.
func TestMain(m *testing.M) {
	switch os.Getenv("DRILL_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "garbage":
		os.Stdout.WriteString("this is no event\n")
		os.Stderr.WriteString("the reason\n")
		os.Exit(1)
	case "hang":
		os.Stdout.WriteString(`{"event":"started"}` + "\n")
		time.Sleep(time.Hour)
	}
	child()
}

func child() {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	base := os.Getenv("DRILL_TEST_URL")
	target, err := probe.ParseTarget(base, probe.TargetOptions{})
	if err != nil {
		panic(err)
	}
	w, _ := probe.HTTPWriter(http.MethodPost, base+"{n}", probe.TargetOptions{})
	from, _ := strconv.Atoi(os.Getenv("DRILL_TEST_FROM"))
	out := json.NewEncoder(os.Stdout)
	r, err := probe.Start(ctx, probe.Options{
		Target: target, Timeout: 200 * time.Millisecond, OnEvent: func(e probe.Event) { _ = out.Encode(e) },
		Writes: &probe.Writes{Writer: w, From: from, Verifier: probe.HTTPVerifier(base+"list", probe.TargetOptions{}), VerifyFor: time.Second},
	})
	if err != nil {
		panic(err)
	}
	res := r.Wait()
	_ = out.Encode(probe.Event{Event: probe.EventResult, Result: &res})
}

func childProber(t *testing.T, mode, base string) ProcessProber {
	t.Helper()
	return ProcessProber{Command: func(ctx context.Context, round int) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "DRILL_TEST_CHILD="+mode, "DRILL_TEST_URL="+base, "DRILL_TEST_FROM="+strconv.Itoa(FirstWrite(round)))
		return cmd
	}}
}

func TestADrillMeasuresWithAChildProcess(t *testing.T) {
	f := newFakePair(t)
	o := drillOptions(t, f)
	o.Prober = childProber(t, "probe", "http://"+f.addr+"/")
	rep, err := NodeLoss(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r := rep.Rounds[0]
	if r.OutageMS == nil || *r.OutageMS < 235 || r.TakeoverMS == nil || r.Lost == nil || *r.Lost != 0 {
		t.Errorf("round = %+v", r)
	}
	if r.Probe.Writes.Acked == 0 || r.Probe.Requests == 0 {
		t.Errorf("probe = %+v", r.Probe)
	}
}

func TestAChildThatFailsSaysWhy(t *testing.T) {
	_, err := childProber(t, "garbage", "").Start(t.Context(), 1)
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "not events") {
		t.Fatalf("err = %v", err)
	}
}

func TestAChildThatHangsIsKilled(t *testing.T) {
	s, err := childProber(t, "hang", "").Start(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Stop(ctx); err == nil {
		t.Fatal("a result came from nowhere")
	}
	select {
	case <-s.Done():
	default:
		t.Fatal("the child still runs")
	}
}
