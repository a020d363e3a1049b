package main

import (
	"context"
	"fmt"
)

func init() {
	register(work{
		id: "rtt-10ms", what: "first synchronisation of small files over a line with 10 ms round-trip time", on: both,
		full: shape{size: 100_000, pairs: 3}, small: shape{size: 10_000, pairs: 2, once: true}, grows: "files", run: roundTrip,
	})
}

// roundTrip puts a relay on n1 that delays each way by half the time, and keeps the
// bandwidth; both go through it. A second tree, mixed, is in the row too.
func roundTrip(ctx context.Context, s *site, sh shape) (*row, error) {
	relay := s.n1.Command(ctx, tool, "relay", "-listen", relayed, "-to", "n2:22", "-delay", "5ms")
	if err := relay.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = relay.Cancel() // it ends with the node at the latest
		_ = relay.Wait()
	}()
	f := &first{s: s, tree: place + "/tree/_data", via: relayed}
	defer f.clean(context.WithoutCancel(ctx))
	var figures []figure
	var notes []string
	type tree struct {
		kind string
		size int64
	}
	trees := []tree{{"small", sh.size}}
	if !sh.part {
		trees = append(trees, tree{"mixed", sh.size * 10 << 10})
	}
	for _, t := range trees {
		f.clean(ctx)
		f.applied, f.synced, f.compressed = nil, nil, nil
		if err := s.makeTree(ctx, t.kind, f.tree, t.size); err != nil {
			return nil, err
		}
		us, them, err := s.inTurns(sh.pairs, func(int) (float64, error) { return f.ours(ctx) }, func(int) (float64, error) { return f.theirs(ctx) })
		if err != nil {
			return nil, err
		}
		figures = append(figures,
			versus("s", us, "rsync -a", them),
			versus("s", us, "rsync -az", f.compressed))
		notes = append(notes, fmt.Sprintf("%s tree, the last: capture %.2f s, shipping %.2f s, %.1f MB sent", t.kind, f.last.SealMS/1000, f.last.ShipMS/1000, mb(f.last.Sent)))
	}
	more := []figure{figures[1].named("compressing")}
	if !sh.part {
		more = append(more, figures[2].named("a mixed tree"), figures[3].named("a mixed tree, compressing"))
	}
	r := newRow(figures[0].times(3), more...)
	r.Notes = notes
	return r, nil
}
