package probe

import (
	"errors"
	"testing"
	"time"
)

// at makes times out of milliseconds after an arbitrary start.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

// step is the end of a request: issued and ended in ms; fail says how.
type step struct {
	issued, ended int
	fail          bool
}

func TestTrackerFindsOutages(t *testing.T) {
	type span struct {
		from, to, failures int
		open, fromStart    bool
	}
	tests := []struct {
		name    string
		steps   []step
		end     int
		want    []span
		outside int
	}{
		{name: "steady", steps: []step{{0, 1, false}, {5, 6, false}, {10, 11, false}}, end: 12},
		{
			name:  "last success before to first success after",
			steps: []step{{0, 1, false}, {5, 6, true}, {10, 11, true}, {100, 103, false}, {105, 106, false}},
			end:   107, want: []span{{from: 1, to: 103, failures: 2}},
		},
		{
			name:  "a gap without a failure counts when it is long",
			steps: []step{{0, 1, false}, {5, 90, false}, {95, 96, false}},
			end:   97, want: []span{{from: 1, to: 90}},
		},
		{name: "a short one is latency", steps: []step{{0, 1, false}, {5, 40, false}}, end: 41},
		{
			name:  "a single failure between answers is no outage, but counted",
			steps: []step{{0, 1, false}, {5, 6, true}, {5, 7, false}}, end: 8, outside: 1,
		},
		{
			name: "a request that hung in the outage and timed out after it belongs to it",
			steps: []step{
				{0, 1, false}, {5, 60, true}, {70, 71, false}, {10, 72, true}, {75, 76, false}, {20, 80, true},
			},
			end: 81, want: []span{{from: 1, to: 71, failures: 3}},
		},
		{
			name:  "still down at the end",
			steps: []step{{0, 1, false}, {5, 6, true}}, end: 200,
			want: []span{{from: 1, to: 200, failures: 1, open: true}},
		},
		{
			name:  "down from the start",
			steps: []step{{0, 1, true}, {5, 6, true}, {80, 81, false}}, end: 82,
			want: []span{{from: 0, to: 81, failures: 2, fromStart: true}},
		},
		{name: "a slow first answer is no outage", steps: []step{{0, 90, false}}, end: 91},
		{
			name: "two outages",
			steps: []step{
				{0, 1, false}, {5, 6, true}, {60, 61, false}, {65, 66, true}, {130, 131, false},
			},
			end: 132, want: []span{{from: 1, to: 61, failures: 1}, {from: 61, to: 131, failures: 1}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := newTracker(at(0), 5*time.Millisecond, 50*time.Millisecond)
			for _, s := range tt.steps {
				if s.fail {
					tr.failure(at(s.issued), errors.New("refused"))
				} else {
					tr.success(at(s.issued), at(s.ended))
				}
			}
			got := tr.finish(at(tt.end))
			if len(got) != len(tt.want) {
				t.Fatalf("%d outages, want %d: %+v", len(got), len(tt.want), got)
			}
			for i, w := range tt.want {
				g := got[i]
				if !g.Start.Equal(at(w.from)) || !g.End.Equal(at(w.to)) || g.Failures != w.failures || g.Open != w.open || g.FromStart != w.fromStart {
					t.Errorf("outage %d = %+v, want %+v", i, g, w)
				}
				if g.MS != float64(w.to-w.from) {
					t.Errorf("outage %d is %v ms long, want %d", i, g.MS, w.to-w.from)
				}
			}
			if tr.outside != tt.outside {
				t.Errorf("%d failures outside, want %d", tr.outside, tt.outside)
			}
		})
	}
}

func TestTrackerKeepsClientLagApart(t *testing.T) {
	tr := newTracker(at(0), 5*time.Millisecond, 50*time.Millisecond)
	tr.success(at(0), at(1))
	tr.late(70 * time.Millisecond)
	o := tr.success(at(75), at(76))
	if o == nil || o.ClientLagMS != 70 {
		t.Fatalf("outage = %+v, want one with a client lag of 70 ms", o)
	}
	if o = tr.success(at(140), at(141)); o == nil || o.ClientLagMS != 0 {
		t.Fatalf("outage = %+v, want one without client lag", o)
	}
}

func TestTrackerAnnouncesAnOutageOnce(t *testing.T) {
	tr := newTracker(at(0), 5*time.Millisecond, 50*time.Millisecond)
	tr.success(at(0), at(1))
	if o := tr.overdue(at(50)); o != nil {
		t.Fatalf("announced after 49 ms: %+v", o)
	}
	if o := tr.overdue(at(51)); o == nil || !o.Open {
		t.Fatalf("not announced after 50 ms: %+v", o)
	}
	if o := tr.overdue(at(60)); o != nil {
		t.Fatalf("announced twice: %+v", o)
	}
}

func TestHistogramQuantiles(t *testing.T) {
	var h histogram
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * time.Millisecond)
	}
	for q, want := range map[float64]float64{0.5: 500, 0.9: 900, 0.99: 990, 1: 1000} {
		if got := h.quantile(q); got < want*0.98 || got > want*1.021 {
			t.Errorf("quantile %v = %v ms, want about %v", q, got, want)
		}
	}
	var empty histogram
	if got := empty.quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing = %v", got)
	}
}

func TestWorstIsNotTheClientsOwnStall(t *testing.T) {
	r := Result{Outages: []Outage{
		{End: at(5), MS: 900},
		{End: at(20), MS: 240, ClientLagMS: 5},
		{End: at(30), MS: 300, ClientLagMS: 290},
	}}
	if o, ok := r.Worst(at(10)); !ok || o.MS != 240 {
		t.Errorf("worst = %+v, %v", o, ok)
	}
	if o, ok := r.Worst(at(30)); ok {
		t.Errorf("an outage that had ended: %+v", o)
	}
}
