package main

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
)

func init() {
	register(work{
		id: "memory-small", what: "memory of the agent of a small service that writes a little, in the steady state",
		on: both, full: shape{size: 100, pairs: 60}, small: shape{size: 100, pairs: 15, once: true}, run: memorySmall,
	})
}

// memorySmall looks after so many seconds in each of which something changed.
func memorySmall(ctx context.Context, s *site, sh shape) (*row, error) {
	v := service{name: "small", args: "idle", interval: "1s"}
	if err := s.serve(ctx, v); err != nil {
		return nil, err
	}
	if err := s.tool(ctx, s.n1, nil, "files", "-dir", v.dir(), "-to", fmt.Sprint(sh.size), "-seed", s.seed()); err != nil {
		return nil, err
	}
	var now, peaks []float64
	for i := range sh.pairs {
		if err := s.tool(ctx, s.n1, nil, "change", "-dir", v.dir(), "-of", fmt.Sprint(sh.size), "-count", "3", "-seed", s.seed()); err != nil {
			return nil, err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return nil, err
		}
		if i < sh.pairs/2 {
			continue // not yet steady
		}
		for _, n := range []*lab.Node{s.n1, s.n2} {
			m, err := agentMemory(n)
			if err != nil {
				return nil, err
			}
			now, peaks = append(now, mb(m.now)), append(peaks, mb(m.peak))
		}
	}
	r := newRow(versus("MB", now, "", nil).atMost(60, most, "≤ 60 MB"), versus("MB", peaks, "", nil).named("most ever resident"))
	r.note("all processes of the agent's unit, each with its share of what they share (PSS); active node and standby")
	return r, nil
}
