package main

import (
	"testing"

	"github.com/understudy-ha/understudy/agent/drill"
)

func TestFigures(t *testing.T) {
	for name, c := range map[string]struct {
		f     figure
		ratio float64
		met   bool
	}{
		"median of the pairs, not of the runs": {versus("s", []float64{1, 2, 4}, "x", []float64{10, 2, 8}).times(2), 2, true},
		"too slow":                             {versus("s", []float64{1, 1, 1}, "x", []float64{1.9, 1.9, 9}).times(2), 1.9, false},
		"more is better":                       {versus("tps", []float64{90}, "x", []float64{100}).moreIsBetter(), 0.9, true},
		"a bound of our own":                   {versus("ms", []float64{1, 5, 9}, "x", []float64{5, 5, 5}).atMost(5, drill.Median, ""), 1, true},
		"always":                               {versus("ms", []float64{1, 5, 9}, "x", []float64{5, 5, 5}).atMost(5, most, ""), 1, false},
		"nothing measured":                     {versus("ms", nil, "x", nil).atMost(5, most, ""), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := 0.0
			if c.f.Ratio != nil {
				got = *c.f.Ratio
			}
			if got != c.ratio || c.f.Met != c.met {
				t.Errorf("ratio %v, met %v; want %v, %v", got, c.f.Met, c.ratio, c.met)
			}
		})
	}
}

func TestPercentile(t *testing.T) {
	var v []float64
	for i := range 200 {
		v = append(v, float64(200-i))
	}
	for p, want := range map[int]float64{50: 100, 99: 198, 100: 200} {
		if got := percentile(p)(v); got != want {
			t.Errorf("percentile %d of 1 to 200 is %v, not %v", p, got, want)
		}
	}
	if got := percentile(99)([]float64{7}); got != 7 {
		t.Errorf("percentile 99 of one value is %v", got)
	}
}

// TestLsyncdList: each directory that leads to a changed file is listed, or rsync
// would not go down to it.
func TestLsyncdList(t *testing.T) {
	if got, want := lsyncdList([]string{"a/b/f", "a/g"}), "/a/\x00/a/b/\x00/a/b/f\x00/a/g\x00"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
