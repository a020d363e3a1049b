package main

import (
	"cmp"
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/understudy-ha/understudy/agent/drill"
)

// point is a work's figure at one size.
type point struct {
	Work   string `json:"work"`
	FS     string `json:"fs"`
	Counts string `json:"counts"` // what size is of: files, bytes, or a scale factor
	Size   int64  `json:"size"`
	figure
}

// plot draws, for each work on each file system, how the figure grows with the size,
// for Understudy and the rival, both axes logarithmic. It returns the files' names.
func (r *report) plot(dir string) ([]string, error) {
	groups := map[[2]string][]point{}
	for _, p := range r.points {
		key := [2]string{p.Work, p.FS}
		groups[key] = append(groups[key], p)
	}
	var names []string
	for key, points := range groups {
		if len(points) < 2 {
			continue // nothing grows
		}
		name := fmt.Sprintf("growth-%s-%s.svg", key[0], key[1])
		if err := draw(points, filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("plot %s: %w", name, err)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func draw(points []point, path string) error {
	slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.Size, b.Size) })
	first := points[0]
	p := plot.New()
	p.Title.Text = first.Work + " on " + first.FS
	p.X.Label.Text, p.Y.Label.Text = first.Counts, first.Unit
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	p.BackgroundColor = color.White
	p.Add(plotter.NewGrid())
	for i, line := range []struct {
		name string
		runs func(point) []float64
	}{
		{"Understudy", func(p point) []float64 { return p.Understudy }},
		{first.Rival, func(p point) []float64 { return p.RivalRuns }},
	} {
		var xy plotter.XYs
		for _, pt := range points {
			if v := drill.Median(line.runs(pt)); v > 0 { // a logarithm needs it
				xy = append(xy, plotter.XY{X: float64(pt.Size), Y: v})
			}
		}
		if len(xy) == 0 {
			continue
		}
		l, s, err := plotter.NewLinePoints(xy)
		if err != nil {
			return err
		}
		l.Color, s.Color, s.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		p.Add(l, s)
		p.Legend.Add(line.name, l, s)
	}
	// From one power of ten to another: only those have a number.
	p.Y.Min, p.Y.Max = math.Pow(10, math.Floor(math.Log10(p.Y.Min))), math.Pow(10, math.Ceil(math.Log10(p.Y.Max)))
	if p.Y.Min == p.Y.Max {
		p.Y.Max *= 10
	}
	if p.Y.Min < 1 {
		p.Y.Min *= 1 - 1e-9 // LogTicks cuts a logarithm of -0.9999 off at 0, and begins there
	}
	return p.Save(16*vg.Centimeter, 10*vg.Centimeter, path)
}
