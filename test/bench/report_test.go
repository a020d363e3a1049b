package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReport: others read report.json; each row has these keys, whatever was measured.
func TestReport(t *testing.T) {
	measured := newRow(versus("s", []float64{1, 2}, "a | b", []float64{3, 4}).times(2), versus("MB", nil, "", nil).named("more"))
	measured.Work, measured.FS = "one", "xfs"
	failed := &row{Work: "two", FS: "ext4", Error: "power", figure: versus("", nil, "", nil).missed()}
	r := report{rows: []*row{measured, failed}}
	for _, size := range []int64{1, 10, 100} {
		r.points = append(r.points, point{Work: "one", FS: "xfs", Counts: "files", Size: size, figure: measured.figure})
	}
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal(b, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 {
		t.Fatalf("%d rows: %s", len(rows), b)
	}
	for _, row := range rows {
		for _, key := range []string{"work", "fs", "unit", "understudy", "rival", "rival_runs", "ratio", "reach", "met"} {
			if _, ok := row[key]; !ok {
				t.Errorf("row %v lacks %s", row["work"], key)
			}
		}
		if runs, ok := row["understudy"].([]any); !ok {
			t.Errorf("row %v: understudy is %v, not a list", row["work"], runs)
		}
	}
	if rows[0]["ratio"] != 2.5 || rows[0]["met"] != true || rows[1]["met"] != false {
		t.Errorf("the rows are %s", b)
	}
	for _, line := range strings.Split(strings.TrimSpace(r.table()), "\n") {
		if n := strings.Count(line, "|") - strings.Count(line, `\|`); n != 9 {
			t.Errorf("%d cells' edges, not 9: %s", n, line)
		}
	}
	svg, err := os.ReadFile(filepath.Join(dir, "growth-one-xfs.svg"))
	if err != nil || !strings.Contains(string(svg), "<svg") {
		t.Errorf("the plot: %v, %.100s", err, svg)
	}
}
