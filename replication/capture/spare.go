package capture

import (
	"context"
	"errors"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// After a freeze that took too long, captures of the next spareFor are made so that
// less is left to be done in the freeze, at the price of more being done before it.
const (
	spareFor    = 10 * time.Minute
	spareRest   = 50 * time.Millisecond // more than a few ticks of any clock that ctimes come from
	spareRounds = 4
)

// spare reads what was not at rest at first as soon as it is, and writes back what
// is not at rest at all: then the freeze has less to write, and to set aside only
// what is written to all the time.
func (j *job) spare(ctx context.Context) error {
	for round := 1; ; round++ {
		if err := j.readAtRest(ctx, spareRest); err != nil {
			return err
		}
		busy, err := j.flushBusy(ctx)
		if err != nil || busy == 0 || round == spareRounds {
			return err
		}
		if err := j.lookLater(ctx, spareRest); err != nil {
			return err
		}
	}
}

// beginFlush has all large files that are dirty written back side by side: to compare where they lie, or to clone them, waits
// for each, one after the other.
func (j *job) beginFlush() {
	for _, v := range j.vols {
		for path := range v.todo() {
			n := v.node(path)
			if n.Stat.Type() != replication.TypeFile || n.Stat.Size < largeFile || v.linksTo(n) != "" {
				continue
			}
			if f, err := v.root.Open(path); err == nil {
				tree.BeginFlush(f)
				_ = f.Close() // read only
			}
		}
	}
}

// lookLater looks again when what is not written to any more has been at rest for so long.
func (j *job) lookLater(ctx context.Context, rest time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(rest):
	}
	return j.look(ctx)
}

// flushBusy writes back the files that are still dirty, and counts them. Large ones whose clones are hardly behind do not
// count: in the freeze only what changed since has to be looked at.
func (j *job) flushBusy(ctx context.Context) (busy int, err error) {
	j.beginFlush()
	for _, v := range j.vols {
		for path := range v.todo() {
			if ctx.Err() != nil {
				return busy, context.Cause(ctx)
			}
			n := v.node(path)
			if n.Stat.Type() != replication.TypeFile || v.linksTo(n) != "" {
				continue
			}
			if s := v.brought[path]; s == nil || s.clone.apart || s.clone.behind {
				busy++
			}
			f, err := v.root.Open(path)
			if tree.Vanished(err) {
				continue
			}
			if err == nil {
				err = errors.Join(tree.Flush(f), f.Close())
			}
			if err != nil {
				return busy, moved(v, n, err)
			}
		}
	}
	return busy, nil
}
