package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/drill"
)

func init() {
	register(work{
		id: "few-of-100k", what: "10 files of so many changed: from the write until it is durable on the standby",
		on: both, full: shape{size: 100_000, pairs: 15}, small: shape{size: 10_000, pairs: 5}, grows: "files", run: few,
	})
}

// few times a cycle that is asked for at once, as rsync is started at once. What
// comes on top where nobody asks is in the row too.
func few(ctx context.Context, s *site, sh shape) (*row, error) {
	if err := s.many(ctx, int(sh.size)); err != nil {
		return nil, err
	}
	tree, whole, listed := s.current.dir(), copied("rsync -a"), copied("lsyncd")
	defer s.dropCopies(ctx)
	for _, to := range []string{whole, listed} {
		if _, err := s.rsync(ctx, tree, to, "-a"); err != nil {
			return nil, err
		}
	}
	var change struct{ Paths []string }
	var lists []float64
	drops := 0
	ours := func(int) (float64, error) {
		if err := s.rest(ctx); err != nil {
			return 0, err
		}
		if err := s.tool(ctx, s.n1, &change, "change", "-dir", tree, "-of", fmt.Sprint(sh.size), "-seed", s.seed()); err != nil {
			return 0, err
		}
		took, dropped, err := s.cycle(ctx)
		drops += dropped
		if err != nil {
			return 0, err
		}
		return ms(took), s.applied(ctx, "") // the rival must not share the nodes with an apply
	}
	theirs := func(int) (float64, error) {
		r, err := s.rsync(ctx, tree, whole, "-a", "--delete")
		if err != nil {
			return 0, err
		}
		l, err := s.rsyncInput(ctx, lsyncdList(change.Paths), tree, "n2:"+listed+"/",
			"-a", "--delete", "--ignore-errors", "--from0", "--include-from=-", "--exclude=*")
		lists = append(lists, l.MS)
		return r.MS, err
	}
	us, them, err := s.inTurns(sh.pairs, ours, theirs)
	if err == nil {
		err = errors.Join(s.same(ctx, tree, tree), s.same(ctx, tree, listed, "-O")) // as lsyncd leaves directories' times
	}
	if err != nil {
		return nil, err
	}
	r := newRow(versus("ms", us, "rsync -a", them).atMost(150, drill.Median, "≤ 150 ms median"),
		versus("ms", us, "what lsyncd runs", lists).named("against a list of what changed"))
	r.note("a cycle asked for at once; lsyncd's own delay, 15 s by default, and rsync's interval are not counted either")
	r.note("rsync does not sync what it wrote; understudy does")
	if drops > 0 {
		r.note("%d captures were dropped and tried again, within the times", drops)
	}
	if sh.part {
		return r, nil
	}
	return r, s.unprompted(ctx, r, sh)
}

// unprompted adds what the same change takes when nobody asks for a cycle: the
// interval is a second.
func (s *site) unprompted(ctx context.Context, r *row, sh shape) error {
	if err := s.interval(ctx, "1s"); err != nil {
		return err
	}
	var runs []float64
	for range sh.pairs {
		// Anywhere in an interval.
		if err := sleep(ctx, 1200*time.Millisecond+time.Duration(s.turn%10)*97*time.Millisecond); err != nil {
			return err
		}
		before, err := s.head()
		if err != nil {
			return err
		}
		if err := s.tool(ctx, s.n1, nil, "change", "-dir", s.current.dir(), "-of", fmt.Sprint(sh.size), "-seed", s.seed()); err != nil {
			return err
		}
		began := time.Now()
		for {
			now, err := s.head()
			if err != nil {
				return err
			}
			if now != before {
				break
			}
			if time.Since(began) > time.Minute {
				return errors.New("n2 got nothing within a minute")
			}
			if err := sleep(ctx, 2*time.Millisecond); err != nil {
				return err
			}
		}
		runs = append(runs, ms(time.Since(began)))
	}
	r.Also = append(r.Also, versus("ms", runs, "", nil).named("at interval 1s, nobody asking"))
	return s.interval(ctx, "1h")
}

// lsyncdList is the filter list that lsyncd gives rsync for changed files: each
// path with the directories that lead to it, from the root, ended by NUL.
func lsyncdList(paths []string) string {
	seen := map[string]bool{}
	for _, p := range paths {
		seen["/"+p] = true
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			seen["/"+d+"/"] = true
		}
	}
	var list []string
	for p := range seen {
		list = append(list, p)
	}
	slices.Sort(list)
	return strings.Join(list, "\x00") + "\x00"
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
