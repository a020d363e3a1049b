package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// report is what a run gives: report.json with the rows, report.md with a table and
// the plots, growth.json with what the plots are of.
type report struct {
	about   string
	rows    []*row
	points  []point
	seconds float64
}

// about is what a reader must know of where the figures come from.
func about(b *bench) string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	load1, _, _ := strings.Cut(string(load), " ")
	commit, _ := exec.Command("git", "describe", "--tags", "--always", "--dirty").Output()
	return fmt.Sprintf("Scale %s, seed %d, commit %s; %d processors for both nodes, Linux %s; load at the begin %s.",
		b.scale, b.seed, text(commit), runtime.NumCPU(), text(kernel), load1)
}

func text(b []byte) string { return strings.TrimSpace(string(b)) }

func (r *report) write(dir string) error {
	rows := r.rows
	if rows == nil {
		rows = []*row{}
	}
	plots, err := r.plot(dir)
	if err != nil {
		return err
	}
	return errors.Join(
		writeJSON(filepath.Join(dir, "report.json"), rows),
		writeJSON(filepath.Join(dir, "growth.json"), r.points),
		os.WriteFile(filepath.Join(dir, "report.md"), []byte(r.markdown(plots)), 0o644))
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func (r *report) markdown(plots []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Understudy, measured side by side\n\n%s\n", r.about)
	if r.seconds > 0 {
		fmt.Fprintf(&b, "The run took %.0f s.\n", r.seconds)
	}
	fmt.Fprintf(&b, "\nMedian (least–most); the ratio is the median of the pairs, which were measured in turns. Made by `make bench`.\n\n%s", r.table())
	for _, row := range r.rows {
		if len(row.Notes) > 0 || row.Error != "" {
			fmt.Fprintf(&b, "\n**%s, %s**: %s.\n", row.Work, row.FS, strings.Join(append(row.Notes, row.failure()...), "; "))
		}
	}
	if len(plots) > 0 {
		fmt.Fprintf(&b, "\n## How the cost grows\n")
	}
	for _, p := range plots {
		fmt.Fprintf(&b, "\n![%s](%s)\n", strings.TrimSuffix(p, ".svg"), p)
	}
	return b.String()
}

func (r *row) failure() []string {
	if r.Error == "" {
		return nil
	}
	return []string{"it failed: " + r.Error}
}

// table is the rows in Markdown, each figure a line.
func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| work | fs | figure | Understudy | rival | ratio | reach | |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range r.rows {
		if row.Error != "" {
			fmt.Fprintf(&b, "| %s | %s | %s | failed | | | | **missed** |\n", row.Work, row.FS, row.What)
			continue
		}
		for i, f := range append([]figure{row.figure}, row.Also...) {
			id, fs, name := row.Work, row.FS, row.What
			if i > 0 {
				id, fs, name = "", "", "– "+f.Name
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", id, fs, name,
				spread(f.Understudy, f.Unit), f.against(), f.factor(), escaped(f.Reach), f.judged())
		}
	}
	return b.String()
}

// escaped is text that may stand in a cell.
func escaped(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func (f figure) against() string {
	if len(f.RivalRuns) == 0 {
		return ""
	}
	return escaped(f.Rival) + ": " + spread(f.RivalRuns, f.Unit)
}

func (f figure) factor() string {
	if f.Ratio == nil {
		return ""
	}
	return number(*f.Ratio) + " ×"
}

func (f figure) judged() string {
	switch {
	case f.Reach == "":
		return ""
	case f.Met:
		return "reached"
	}
	return "**missed**"
}
