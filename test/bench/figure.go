package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/agent/drill"
)

// figure is one thing measured of Understudy and, where there is one, of a rival.
type figure struct {
	Name       string    `json:"name,omitempty"` // of a further figure of a row
	Unit       string    `json:"unit"`
	Understudy []float64 `json:"understudy"`
	Rival      string    `json:"rival"`
	RivalRuns  []float64 `json:"rival_runs"`
	// Ratio is how many times better Understudy is: the median of the pairs. Nil
	// where there is nothing to compare.
	Ratio *float64 `json:"ratio"`
	Reach string   `json:"reach"`
	Met   bool     `json:"met"`
	more  bool     // more is better
}

// row is an entry of the report: a figure, and what else the same runs gave.
type row struct {
	Work  string `json:"work"`
	FS    string `json:"fs"`
	What  string `json:"what"`
	Scale string `json:"scale"`
	Seed  uint64 `json:"seed"`
	figure
	Also  []figure `json:"also,omitempty"`
	Notes []string `json:"notes,omitempty"`
	Error string   `json:"error,omitempty"`
}

// versus makes a figure of runs in turns: the i-th of ours and the i-th of theirs
// are a pair.
func versus(unit string, ours []float64, rival string, theirs []float64) figure {
	// Lists in JSON, also where nothing was measured.
	f := figure{Unit: unit, Understudy: append([]float64{}, ours...), Rival: rival, RivalRuns: append([]float64{}, theirs...), Met: true}
	f.compare()
	return f
}

// moreIsBetter turns the ratio round.
func (f figure) moreIsBetter() figure {
	f.more = true
	f.compare()
	return f
}

func (f *figure) compare() {
	var ratios []float64
	for i := range min(len(f.Understudy), len(f.RivalRuns)) {
		a, b := f.RivalRuns[i], f.Understudy[i]
		if f.more {
			a, b = b, a
		}
		if b > 0 {
			ratios = append(ratios, a/b)
		}
	}
	f.Ratio = nil
	if len(ratios) > 0 {
		r := drill.Median(ratios)
		f.Ratio = &r
	}
}

// missed is a figure that could not be measured.
func (f figure) missed() figure {
	f.Met = false
	return f
}

func (f figure) named(name string) figure {
	f.Name = name
	return f
}

// atMost is a reach of a figure of our own.
func (f figure) atMost(limit float64, of func([]float64) float64, text string) figure {
	f.Reach = text
	f.Met = len(f.Understudy) > 0 && of(f.Understudy) <= limit
	return f
}

// times is a reach against the rival.
func (f figure) times(least float64) figure {
	f.Reach = fmt.Sprintf("≥ %.4g × %s", least, f.Rival)
	f.Met = f.Ratio != nil && *f.Ratio >= least
	return f
}

// newRow makes a row; it is met when all its figures are.
func newRow(f figure, also ...figure) *row {
	for _, a := range also {
		f.Met = f.Met && a.Met
	}
	return &row{figure: f, Also: also}
}

func (r *row) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// line is the row in words, for the one who waits.
func (r *row) line() string {
	if r.Error != "" {
		return "failed: " + r.Error
	}
	all := append([]figure{r.figure}, r.Also...)
	var out []string
	for _, f := range all {
		text := spread(f.Understudy, f.Unit)
		if f.Name != "" {
			text = f.Name + " " + text
		}
		if len(f.RivalRuns) > 0 {
			text += fmt.Sprintf(", %s %s", f.Rival, spread(f.RivalRuns, f.Unit))
		}
		if f.Ratio != nil {
			text += fmt.Sprintf(": %.3g ×", *f.Ratio)
		}
		if f.Reach != "" {
			text += fmt.Sprintf(" [%s: %s]", f.Reach, verdict(f.Met))
		}
		out = append(out, text)
	}
	return strings.Join(append(out, r.Notes...), "; ")
}

func verdict(met bool) string {
	if met {
		return "reached"
	}
	return "missed"
}

// spread is median, least and most; a dash where nothing was measured.
func spread(v []float64, unit string) string {
	if len(v) == 0 {
		return "–"
	}
	text := number(drill.Median(v))
	if len(v) > 1 {
		text += fmt.Sprintf(" (%s–%s)", number(slices.Min(v)), number(slices.Max(v)))
	}
	return text + " " + unit
}

func number(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// percentile is the p-th percent of v, by the nearest rank above.
func percentile(p int) func([]float64) float64 {
	return func(v []float64) float64 {
		s := slices.Sorted(slices.Values(v))
		return s[min(len(s)-1, (len(s)*p+99)/100-1)]
	}
}

func most(v []float64) float64 { return slices.Max(v) }
