package main

import (
	"context"
	"fmt"

	"github.com/understudy-ha/understudy/test/lab"
)

func init() {
	register(work{
		id: "memory-1m", what: "most memory that the agent ever had with so many files, from the first synchronisation on",
		on: both, full: shape{size: 1_000_000, pairs: 1}, small: shape{size: 10_000, pairs: 1, once: true}, grows: "files", run: memoryMany,
	})
}

// memoryMany begins with agents that know nothing, so that the peak has the first
// synchronisation in it, then cycles of nothing and of few changes.
func memoryMany(ctx context.Context, s *site, sh shape) (*row, error) {
	if err := s.remove(ctx); err != nil {
		return nil, err
	}
	if err := s.many(ctx, int(sh.size)); err != nil {
		return nil, err
	}
	for range 3 {
		if err := s.tool(ctx, s.n1, nil, "change", "-dir", s.current.dir(), "-of", fmt.Sprint(sh.size), "-seed", s.seed()); err != nil {
			return nil, err
		}
		if err := s.settle(ctx); err != nil {
			return nil, err
		}
	}
	// So many entries are to be right, too: a second look by the content of each, whose cost is nobody's figure.
	if err := s.same(ctx, s.current.dir(), s.current.dir(), "-HAXS", "--checksum"); err != nil {
		return nil, err
	}
	var peaks, now []float64
	for _, n := range []*lab.Node{s.n1, s.n2} {
		m, err := agentMemory(n)
		if err != nil {
			return nil, err
		}
		peaks, now = append(peaks, mb(m.peak)), append(now, mb(m.now))
	}
	defer s.dropCopies(ctx)
	rival, err := s.rsync(ctx, s.current.dir(), copied("rsync -a"), "-a")
	if err != nil {
		return nil, err
	}
	r := newRow(versus("MB", peaks, "rsync -a", []float64{mb(rival.PeakRSS)}).atMost(600, most, "≤ 600 MB"),
		versus("MB", now, "", nil).named("afterwards"))
	r.note("the agents on the active node and on the standby; rsync's first copy, its largest process on the sending end")
	return r, nil
}
