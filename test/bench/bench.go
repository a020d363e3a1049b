package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/test/stack"
)

// The scales.
const (
	scaleFull  = "full"
	scaleSmall = "small"
)

// work is one id of the report.
type work struct {
	id    string
	what  string   // for a reader of the table
	on    []string // file systems it makes sense on
	full  shape
	small shape
	grows string // what its size counts, where the cost at a tenth and a hundredth is of interest
	dear  bool   // that is measured at the full scale only: the small one has no time for it
	run   func(ctx context.Context, s *site, sh shape) (*row, error)
}

// shape is how large a work is, and how often it is done.
type shape struct {
	size  int64 // files or bytes, or what grows says
	pairs int
	part  bool // of the work's size: a point of its growth, nothing else is looked at
	once  bool // on the first file system only: it hangs little on that, and there is no time for both
}

// partPairs is how often a point of the growth is measured at most.
const partPairs = 3

// limit is how long one work may take, all sizes included.
var limit = map[string]time.Duration{scaleFull: 2 * time.Hour, scaleSmall: 8 * time.Minute}

var both = []string{"xfs", "ext4"}

// works is filled by the files work_*.go, in the order of their names.
var works []work

func register(w work) { works = append(works, w) }

// bench is one run.
type bench struct {
	out, name, scale string
	seed             uint64
	profile, grow    bool
	fs               []string
	began            time.Time

	works  []work // that were asked for
	report report
}

// say prints what is being done, with the time since the begin.
func (b *bench) say(format string, args ...any) {
	fmt.Printf("%7.1fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// Write makes bench the progress writer of the lab: a line at a time.
func (b *bench) Write(p []byte) (int, error) {
	for _, line := range stack.Lines(p) {
		b.say("%s", line)
	}
	return len(p), nil
}

// choose takes the ids that are asked for; none is all.
func (b *bench) choose(ids []string) error {
	if _, ok := limit[b.scale]; !ok {
		return fmt.Errorf("scale %q: use %s or %s", b.scale, scaleFull, scaleSmall)
	}
	for _, fs := range b.fs {
		if !slices.Contains(both, fs) {
			return fmt.Errorf("file system %q: use %s", fs, strings.Join(both, " or "))
		}
	}
	var known []string
	for _, w := range works {
		known = append(known, w.id)
		if len(ids) == 0 || slices.Contains(ids, w.id) {
			b.works = append(b.works, w)
		}
	}
	for _, id := range ids {
		if !slices.Contains(known, id) {
			return fmt.Errorf("there is no work %q: there are %s", id, strings.Join(known, ", "))
		}
	}
	return nil
}

func (w work) shape(scale string) shape {
	if scale == scaleSmall {
		return w.small
	}
	return w.full
}

// run does all works on one file system after the other. A work that fails is in the
// report as failed; the others go on.
func (b *bench) run(ctx context.Context) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	b.say("scale %s, seed %d (SEED=%[2]d repeats it)", b.scale, b.seed)
	b.report.about = about(b)
	var failed []error
	for _, fs := range b.fs {
		err := b.runOn(ctx, fs)
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		failed = append(failed, err)
	}
	b.report.seconds = time.Since(b.began).Seconds()
	if err := b.report.write(b.out); err != nil {
		return err
	}
	fmt.Println()
	fmt.Print(b.report.table())
	fmt.Printf("\nThe report is in %s and report.json beside it.\n", filepath.Join(b.out, "report.md"))
	return errors.Join(failed...)
}

// runOn makes a lab on the file system, does the works in it and takes it down.
func (b *bench) runOn(ctx context.Context, fs string) (err error) {
	var mine []work
	for _, w := range b.works {
		sh := w.shape(b.scale)
		if slices.Contains(w.on, fs) && sh.pairs > 0 && (!sh.once || fs == b.fs[0]) {
			mine = append(mine, w)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	s, err := b.newSite(ctx, fs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.down(ctx)) }()
	var failed []error
	for _, w := range mine {
		if err := s.do(ctx, w); err != nil {
			b.say("%s on %s FAILED: %v", w.id, fs, err)
			failed = append(failed, fmt.Errorf("%s on %s: %w", w.id, fs, err))
		}
		if ctx.Err() != nil {
			break
		}
		// What was measured is kept also if the run ends early.
		if err := b.report.write(b.out); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// do does one work: at a hundredth and a tenth of its size first, where its cost
// grows with that.
func (s *site) do(ctx context.Context, w work) error {
	ctx, cancel := context.WithTimeout(ctx, limit[s.bench.scale])
	defer cancel()
	sh := w.shape(s.bench.scale)
	s.working = w.id
	sizes := []int64{sh.size}
	// The small scale has the time for it on one file system.
	if w.grows != "" && s.bench.grow && (s.bench.scale == scaleFull || s.fs == s.bench.fs[0] && !w.dear) {
		sizes = slices.Compact([]int64{max(1, sh.size/100), max(1, sh.size/10), sh.size})
	}
	for _, size := range sizes {
		s.say("%s on %s: %s", w.id, s.fs, sizeText(w, size))
		one := sh
		if size != sh.size {
			one = shape{size: size, pairs: min(sh.pairs, partPairs), part: true}
		}
		r, err := w.run(ctx, s, one)
		if !one.part || err != nil {
			if r == nil || err != nil {
				r = &row{Error: fmt.Sprint(err), figure: versus("", nil, "", nil).missed()}
			}
			r.Work, r.FS, r.What, r.Scale, r.Seed = w.id, s.fs, w.what, s.bench.scale, s.bench.seed
			s.bench.report.rows = append(s.bench.report.rows, r)
		}
		if err != nil {
			return err
		}
		if err := errors.Join(s.rest(ctx), s.trim(ctx)); err != nil {
			return err
		}
		if w.grows != "" {
			s.bench.report.points = append(s.bench.report.points, point{Work: w.id, FS: s.fs, Counts: w.grows, Size: size, figure: r.figure})
		}
		s.say("%s on %s: %s", w.id, s.fs, r.line())
	}
	return nil
}

func sizeText(w work, size int64) string {
	switch w.grows {
	case "files":
		return fmt.Sprintf("%d files", size)
	case "bytes":
		return fmt.Sprintf("%.4g MiB", float64(size)/(1<<20))
	case "":
		return w.what
	}
	return fmt.Sprintf("%s %d", w.grows, size)
}

// inTurns does ours and theirs so many times, one after the other.
func (s *site) inTurns(pairs int, ours, theirs func(i int) (float64, error)) (us, them []float64, err error) {
	for i := range pairs {
		u, err := ours(i)
		if err != nil {
			return us, them, err
		}
		us = append(us, u)
		t, err := theirs(i)
		if err != nil {
			return us, them, err
		}
		them = append(them, t)
		if s.bench.scale == scaleFull { // it is long
			s.say("pair %d of %d: %s to %s", i+1, pairs, number(u), number(t))
		}
	}
	return us, them, nil
}
