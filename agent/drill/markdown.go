package drill

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

//go:embed report.md.tmpl
var reportTemplate string

var reportMarkdown = template.Must(template.New("report").Funcs(template.FuncMap{
	"ms":     formatMS,
	"lost":   formatLost,
	"median": medianText,
	"worst":  worstText,
	"sum":    sumText,
	"time":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") },
	"span":   func(a, b time.Time) string { return b.Sub(a).Round(time.Second).String() },
	"cell":   func(s string) string { return strings.NewReplacer("|", "\\|", "\n", " ").Replace(s) },
	"since":  func(f float64) string { return fmt.Sprintf("%+.1f", f) },
}).Parse(reportTemplate))

// Markdown is the report for a person.
func (r *Report) Markdown() (string, error) {
	var b strings.Builder
	err := reportMarkdown.Execute(&b, r)
	return b.String(), err
}

// Write puts report.json and report.md into a directory, which is made if it is not there.
func (r *Report) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("the report cannot be written: %w", err)
	}
	md, err := r.Markdown()
	if err != nil {
		return err
	}
	js, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(js, '\n'), 0o644); err != nil {
		return fmt.Errorf("the report cannot be written: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.md"), []byte(md), 0o644); err != nil {
		return fmt.Errorf("the report cannot be written: %w", err)
	}
	return nil
}

const unknown = "not known"

func formatMS(v *float64) string {
	if v == nil {
		return unknown
	}
	return fmt.Sprintf("%.0f ms", *v)
}

func formatLost(v *int) string {
	if v == nil {
		return unknown
	}
	return fmt.Sprint(*v)
}

func medianText(v []float64) string {
	if len(v) == 0 {
		return unknown
	}
	return fmt.Sprintf("%.0f ms", Median(v))
}

func worstText(v []float64) string {
	if len(v) == 0 {
		return unknown
	}
	worst := v[0]
	for _, x := range v {
		worst = max(worst, x)
	}
	return fmt.Sprintf("%.0f ms", worst)
}

func sumText(v []int) string {
	if len(v) == 0 {
		return unknown
	}
	sum := 0
	for _, x := range v {
		sum += x
	}
	return fmt.Sprint(sum)
}
