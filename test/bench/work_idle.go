package main

import (
	"context"
	"time"

	"github.com/understudy-ha/understudy/agent/drill"
)

func init() {
	register(work{
		id: "idle-1m", what: "nothing changed in so many files: processor time of one cycle on the active node",
		on: both, full: shape{size: 1_000_000, pairs: 10}, small: shape{size: 10_000, pairs: 5}, grows: "files", run: idle,
	})
}

// idle asks the agent for cycles and counts the processor time of its whole
// cgroup; of rsync, that of the sending end with its ssh.
func idle(ctx context.Context, s *site, sh shape) (*row, error) {
	if err := s.many(ctx, int(sh.size)); err != nil {
		return nil, err
	}
	tree, to := s.current.dir(), copied("rsync -a")
	defer s.dropCopies(ctx)
	if _, err := s.rsync(ctx, tree, to, "-a"); err != nil {
		return nil, err
	}
	if err := s.rest(ctx); err != nil {
		return nil, err
	}
	var walls, rivalWalls []float64
	ours := func(int) (float64, error) {
		before, err := agentCPU(s.n1)
		if err != nil {
			return 0, err
		}
		took, _, err := s.cycle(ctx)
		walls = append(walls, ms(took))
		if err != nil {
			return 0, err
		}
		after, err := agentCPU(s.n1)
		return ms(after - before), err
	}
	theirs := func(int) (float64, error) {
		r, err := s.rsync(ctx, tree, to, "-a")
		rivalWalls = append(rivalWalls, r.MS)
		return r.CPUMS, err
	}
	us, them, err := s.inTurns(sh.pairs, ours, theirs)
	if err == nil {
		err = s.same(ctx, tree, tree)
	}
	if err != nil {
		return nil, err
	}
	r := newRow(versus("ms CPU", us, "rsync -a", them).atMost(5, drill.Median, "≤ 5 ms"),
		versus("ms", walls, "rsync -a", rivalWalls).named("elapsed"))
	r.note("a cycle asked for through the agent's socket, its answer and the look at the standby's state included")
	if sh.part {
		return r, nil
	}
	second, err := s.secondly(ctx)
	r.Also = append(r.Also, second)
	return r, err
}

// secondly is what the agent uses in a second when it cycles by itself every second,
// with all else that it does: gossip, Pacemaker's monitors, looks at the containers.
func (s *site) secondly(ctx context.Context) (figure, error) {
	if err := s.interval(ctx, "1s"); err != nil {
		return figure{}, err
	}
	var runs []float64
	for range 3 {
		before, err := agentCPU(s.n1)
		if err != nil {
			return figure{}, err
		}
		began := time.Now()
		if err := sleep(ctx, 5*time.Second); err != nil {
			return figure{}, err
		}
		after, err := agentCPU(s.n1)
		if err != nil {
			return figure{}, err
		}
		runs = append(runs, ms(after-before)/time.Since(began).Seconds())
	}
	return versus("ms CPU a second", runs, "", nil).named("the agent altogether, at interval 1s"), s.interval(ctx, "1h")
}
