package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/drill"
	"github.com/understudy-ha/understudy/agent/probe"
)

// report is build/demo/report.json. Times are in milliseconds.
type report struct {
	Understudy measured `json:"understudy"`
	Seed       measured `json:"seed"`
	Totem      struct {
		TokenMS     int `json:"token_ms"`
		ConsensusMS int `json:"consensus_ms"`
	} `json:"totem"`
	Seconds float64 `json:"seconds"` // the whole demo
}

type measured struct {
	Failover   failover   `json:"failover"`
	Switchover switchover `json:"switchover"`
	MonitorMS  []float64  `json:"monitor_ms"`
}

type failover struct {
	OutageMS   []float64 `json:"outage_ms"`
	DetectMS   []float64 `json:"detect_ms"`
	FenceMS    []float64 `json:"fence_ms"`
	TakeoverMS []float64 `json:"takeover_ms"`
	RPOMS      []float64 `json:"rpo_ms"`
	Lost       []int     `json:"lost_acked_writes"`
}

// add takes a drill's figures. Where nobody was fenced, the survivor's takeover
// begins when Pacemaker has noticed the loss.
func (f *failover) add(r *drill.Report) {
	for _, round := range r.Rounds {
		detect, takeover := round.DetectMS, round.TakeoverMS
		if detect == nil {
			if lost, ok := noticed(round); ok && takeover != nil {
				left := max(0, *takeover-lost)
				detect, takeover = &lost, &left
			}
		}
		f.OutageMS = appendFigure(f.OutageMS, round.OutageMS)
		f.DetectMS = appendFigure(f.DetectMS, detect)
		f.FenceMS = appendFigure(f.FenceMS, round.FenceMS)
		f.TakeoverMS = appendFigure(f.TakeoverMS, takeover)
		f.RPOMS = appendFigure(f.RPOMS, round.RPOMS)
		if round.Lost != nil {
			f.Lost = append(f.Lost, *round.Lost)
		}
	}
}

// noticed is when the survivor's Pacemaker knew of the loss, after the harm.
func noticed(r drill.Round) (float64, bool) {
	for _, p := range r.Phases {
		if p.Name == drill.PhaseNodeLost || p.Name == drill.PhaseMembership {
			return p.SinceMS, true
		}
	}
	return 0, false
}

func appendFigure(list []float64, v *float64) []float64 {
	if v == nil {
		return list
	}
	return append(list, *v)
}

type switchover struct {
	OutageMS []float64 `json:"outage_ms"`
	Lost     []int     `json:"lost_acked_writes"`
}

func (s *switchover) add(r *probe.Result, since time.Time) {
	o, _ := r.Worst(since) // no outage: zero
	s.OutageMS = append(s.OutageMS, o.MS)
	if r.Writes != nil && r.Writes.Verified {
		s.Lost = append(s.Lost, r.Writes.Lost)
	}
}

func (s *switchover) last() string {
	text := fmt.Sprintf("outage %.0f ms", s.OutageMS[len(s.OutageMS)-1])
	if n := len(s.Lost); n > 0 {
		text += fmt.Sprintf(", acknowledged writes lost: %d", s.Lost[n-1])
	}
	return text
}

func (r *report) write(dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.md"), []byte(r.markdown()), 0o644)
}

// row is a line of the table: a figure of both stacks and what it should reach.
type row struct {
	name         string
	ours, theirs []float64
	unit         string
	reach        string
	met          func([]float64) bool
}

func (r *report) rows() []row {
	u, s := r.Understudy, r.Seed
	return []row{
		{"switchover, seen by the client", u.Switchover.OutageMS, s.Switchover.OutageMS, "ms", "median ≤ 400", medianAtMost(400)},
		{"switchover, acknowledged writes lost", floats(u.Switchover.Lost), floats(s.Switchover.Lost), "", "0", allAtMost(0)},
		{"failover, seen by the client", u.Failover.OutageMS, s.Failover.OutageMS, "ms", "", nil},
		{"– until the loss is noticed", u.Failover.DetectMS, s.Failover.DetectMS, "ms", "", nil},
		{"– fencing", u.Failover.FenceMS, s.Failover.FenceMS, "ms", "", nil},
		{"– takeover", u.Failover.TakeoverMS, s.Failover.TakeoverMS, "ms", "median ≤ 400", medianAtMost(400)},
		{"failover, RPO", u.Failover.RPOMS, s.Failover.RPOMS, "ms", "always ≤ 1500", allAtMost(1500)},
		{"failover, acknowledged writes lost", floats(u.Failover.Lost), floats(s.Failover.Lost), "", "", nil},
		{"monitor, whole process", u.MonitorMS, s.MonitorMS, "ms", "median ≤ 8", medianAtMost(8)},
	}
}

func floats(v []int) []float64 {
	out := make([]float64, 0, len(v))
	for _, i := range v {
		out = append(out, float64(i))
	}
	return out
}

func medianAtMost(limit float64) func([]float64) bool {
	return func(v []float64) bool { return drill.Median(v) <= limit }
}

func allAtMost(limit float64) func([]float64) bool {
	return func(v []float64) bool { return slices.Max(v) <= limit }
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Understudy next to IPaddr2 + systemd unit + rsync cron\n\n")
	fmt.Fprintf(&b, "Same nodes, same run; totem token %d ms, consensus %d ms for both. Median (least–most) of %d failovers and %d switchovers.\n\n",
		r.Totem.TokenMS, r.Totem.ConsensusMS, len(r.Understudy.Failover.OutageMS), len(r.Understudy.Switchover.OutageMS))
	fmt.Fprintf(&b, "| figure | Understudy | the stack it replaces | reach | |\n|---|---|---|---|---|\n")
	for _, row := range r.rows() {
		verdict := ""
		if row.met != nil {
			verdict = "**missed**"
			if len(row.ours) > 0 && row.met(row.ours) {
				verdict = "reached"
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", row.name, spread(row.ours, row.unit), spread(row.theirs, row.unit), row.reach, verdict)
	}
	fmt.Fprintf(&b, "\nThe other stack runs without fencing, as its authors set it up: when the nodes lose sight of each other, both serve and both write.\n"+
		"Its monitor is IPaddr2's and ocf:heartbeat:podman's, one after the other. The demo took %.0f s.\n", r.Seconds)
	return b.String()
}

// spread is median and range; a dash where nothing was measured.
func spread(v []float64, unit string) string {
	if len(v) == 0 {
		return "–"
	}
	format := "%.0f"
	if slices.Max(v) < 20 && unit == "ms" {
		format = "%.1f"
	}
	text := fmt.Sprintf(format+" ("+format+"–"+format+")", drill.Median(v), slices.Min(v), slices.Max(v))
	if unit != "" {
		text += " " + unit
	}
	return text
}
