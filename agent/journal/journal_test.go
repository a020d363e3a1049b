package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/agent/api"
)

func open(t *testing.T, o Options) *Journal {
	t.Helper()
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func query(t *testing.T, j *Journal, service string, since time.Time, limit int) []uint64 {
	t.Helper()
	got, err := j.Query(service, since, limit)
	if err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	for _, d := range got {
		seqs = append(seqs, d.Seq)
	}
	return seqs
}

func TestRecordAndQuery(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := at
	j := open(t, Options{Dir: t.TempDir(), Node: "n1", Now: func() time.Time { return clock }})
	j.Record(api.Decision{Service: "a", Event: api.EventPromote, Term: 7, Reason: "ordered", Took: api.Duration(time.Second), Fields: map[string]string{"step": "vip"}})
	clock = at.Add(-time.Hour) // the clock jumps back
	j.Record(api.Decision{Service: "b", Event: api.EventRefuse})
	clock = at.Add(time.Minute)
	j.Record(api.Decision{Service: "a", Event: api.EventDemote})
	j.Record(api.Decision{Node: "n9", Service: "a", Event: api.EventStop})

	all, err := j.Query("", time.Time{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Decision{
		{Seq: 1, At: at, Node: "n1", Service: "a", Event: "promote", Term: 7, Reason: "ordered", Took: api.Duration(time.Second), Fields: map[string]string{"step": "vip"}},
		{Seq: 2, At: at.Add(-time.Hour), Node: "n1", Service: "b", Event: "refuse"},
		{Seq: 3, At: clock, Node: "n1", Service: "a", Event: "demote"},
		{Seq: 4, At: clock, Node: "n9", Service: "a", Event: "stop"},
	}
	if d := cmp.Diff(want, all); d != "" {
		t.Error(d)
	}
	for _, tc := range []struct {
		name    string
		service string
		since   time.Time
		limit   int
		want    []uint64
	}{
		{"one service", "a", time.Time{}, 0, []uint64{1, 3, 4}},
		{"newest two, oldest first", "", time.Time{}, 2, []uint64{3, 4}},
		{"since", "", at, 0, []uint64{1, 3, 4}},
		{"since and limit", "a", at, 1, []uint64{4}},
		{"nothing", "c", time.Time{}, 0, nil},
	} {
		if d := cmp.Diff(tc.want, query(t, j, tc.service, tc.since, tc.limit)); d != "" {
			t.Errorf("%s: %s", tc.name, d)
		}
	}
}

func TestMirroredToTheLog(t *testing.T) {
	var b bytes.Buffer
	j := open(t, Options{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&b, nil))})
	j.Record(api.Decision{Service: "web", Event: api.EventRefuse, Term: 3, Reason: "the replica is stale", Fields: map[string]string{"age": "6m"}})
	for _, want := range []string{"level=WARN", `msg="the replica is stale"`, "service=web", "term=3", "age=6m", "seq=1"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in %s", want, &b)
		}
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	if _, err := Open(Options{Dir: dir}); api.KindOf(err) != api.KindBusy {
		t.Errorf("got %v", err)
	}
	j.Close()
	open(t, Options{Dir: dir})
}

func TestRotationForgetsTheOldest(t *testing.T) {
	dir := t.TempDir()
	const bound = 16 << 10
	j := open(t, Options{Dir: dir, MaxSize: bound})
	const n = 500
	for i := range n {
		j.Record(api.Decision{Service: "s", Event: "e", Reason: fmt.Sprintf("%d %s", i, strings.Repeat("x", i%100))})
		segs, err := list(dir)
		if err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for _, s := range segs {
			total += s.size
		}
		if total > bound {
			t.Fatalf("%d bytes after %d entries", total, i+1)
		}
	}
	got := query(t, j, "", time.Time{}, 0)
	if len(got) < 50 || got[len(got)-1] != n {
		t.Fatalf("%d entries left, the last %d", len(got), got[len(got)-1])
	}
	for i, s := range got {
		if s != got[0]+uint64(i) {
			t.Fatalf("entry %d after %d", s, got[i-1])
		}
	}
	j.Close()
	j = open(t, Options{Dir: dir, MaxSize: bound})
	j.Record(api.Decision{Event: "e"})
	if got := query(t, j, "", time.Time{}, 1); got[0] != n+1 {
		t.Errorf("numbering goes on at %d", got[0])
	}
}

// Whatever part of the last entry a crash leaves, the others stay, and the next
// entry is readable.
func TestTornEnd(t *testing.T) {
	src := t.TempDir()
	j := open(t, Options{Dir: src})
	for i := range 3 {
		j.Record(api.Decision{Service: "s", Event: "e", Reason: fmt.Sprint(i)})
	}
	j.Close()
	text, err := os.ReadFile(segmentPath(src, 1))
	if err != nil {
		t.Fatal(err)
	}
	start := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	for cut := start; cut < len(text); cut++ {
		for _, tail := range []string{"", "\x00\x00\x00"} { // blocks allocated and never written
			dir := t.TempDir()
			if err := os.WriteFile(segmentPath(dir, 1), append(text[:cut:cut], tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			j := open(t, Options{Dir: dir})
			j.Record(api.Decision{Event: "after"})
			if d := cmp.Diff([]uint64{1, 2, 3}, query(t, j, "", time.Time{}, 0)); d != "" {
				t.Fatalf("cut at %d: %s", cut, d)
			}
			if got, _ := j.Query("", time.Time{}, 1); got[0].Event != "after" {
				t.Fatalf("cut at %d: %v", cut, got)
			}
			j.Close()
		}
	}
}

func TestDamageInTheMiddleCostsOneEntry(t *testing.T) {
	dir := t.TempDir()
	text := `{"seq":1,"event":"a"}` + "\n" + `{"seq":2,"ev` + "\x00\n" + `{"seq":3,"event":"c"}` + "\n"
	if err := os.WriteFile(segmentPath(dir, 1), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	j := open(t, Options{Dir: dir})
	j.Record(api.Decision{Event: "d"})
	if d := cmp.Diff([]uint64{1, 3, 4}, query(t, j, "", time.Time{}, 0)); d != "" {
		t.Error(d)
	}
}

func TestLongEntryIsShortened(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	if err := j.Append(api.Decision{Event: "e", Reason: strings.Repeat("y", 1<<20)}); err != nil {
		t.Fatal(err)
	}
	got, _ := j.Query("", time.Time{}, 0)
	if len(got) != 1 || len(got[0].Reason) > maxLine || !strings.HasSuffix(got[0].Reason, "(1048576 bytes)") {
		t.Errorf("got %d entries", len(got))
	}
}

// The disk fails under an entry; the next one finds the journal in order.
func TestFailedWriteIsRepaired(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	j.Record(api.Decision{Event: "a"})
	j.f.Close()
	if err := j.Append(api.Decision{Event: "lost"}); err == nil {
		t.Fatal("a write to a closed file succeeded")
	}
	if err := j.Append(api.Decision{Event: "b"}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]uint64{1, 2}, query(t, j, "", time.Time{}, 0)); d != "" {
		t.Error(d)
	}
}

func TestFollow(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir(), MaxSize: 128 << 10})
	j.Record(api.Decision{Event: "before"})
	ctx, cancel := context.WithCancel(t.Context())
	follow, idle := j.Follow(ctx), j.Follow(t.Context())
	const n = 3 * recentMax // more than memory holds: a slow reader goes to the files
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for range n / 4 {
				j.Record(api.Decision{Event: "e", Service: fmt.Sprint(w)})
			}
		})
	}
	wg.Wait()
	for i := range n {
		if d := <-follow; d.Seq != uint64(i+2) {
			t.Fatalf("entry %d where %d was due", d.Seq, i+2)
		}
	}
	cancel()
	if d, ok := <-follow; ok {
		t.Errorf("%v after the end", d)
	}
	if err := j.Close(); err != nil { // waits for the reader that never read
		t.Fatal(err)
	}
	for range idle {
		t.Log("one entry may have been under way")
	}
	if err := j.Append(api.Decision{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if _, ok := <-j.Follow(t.Context()); ok {
		t.Error("a closed journal can be followed")
	}
}

func TestForeignFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"notes.txt", "x.jsonl", "0000000000000000000x.jsonl"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j := open(t, Options{Dir: dir, MaxSize: 4096})
	for range 100 {
		j.Record(api.Decision{Event: "e"})
	}
	for _, name := range []string{"notes.txt", "x.jsonl", "0000000000000000000x.jsonl"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); string(b) != "mine" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte(`{"seq":1,"event":"a"}`+"\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, good, tail []byte) {
		entries, whole, err := scan(bytes.NewReader(append(good, tail...)))
		if err != nil {
			t.Fatal(err)
		}
		if whole > int64(len(good)+len(tail)) || whole == 0 != (len(entries) == 0) {
			t.Fatalf("%d whole bytes, %d entries", whole, len(entries))
		}
		again, same, _ := scan(bytes.NewReader(append(good, tail...)[:whole]))
		if same != whole || len(again) != len(entries) {
			t.Fatalf("cut at %d: %d entries become %d", whole, len(entries), len(again))
		}
	})
}
