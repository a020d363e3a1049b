package main

import (
	"context"
	"fmt"

	"github.com/understudy-ha/understudy/agent/drill"
)

func init() {
	register(work{
		id: "random-4g", what: "1 % of the 4 KiB blocks of a large file rewritten at random places", on: both,
		full: shape{size: 4 << 30, pairs: 3}, small: shape{size: 64 << 20, pairs: 2}, grows: "bytes", run: random,
	})
}

// least is how many times faster than rsync -a this has to be.
var randomLeast = map[string]float64{"xfs": 20, "ext4": 2}

func random(ctx context.Context, s *site, sh shape) (*row, error) {
	f := &first{s: s, tree: place + "/tree/_data"}
	defer f.clean(context.WithoutCancel(ctx))
	if err := s.makeTree(ctx, "file", f.tree, sh.size); err != nil {
		return nil, err
	}
	d, err := s.direct(ctx, f.tree, "")
	if err != nil {
		return nil, err
	}
	defer d.close()
	if _, err := d.cycle(ctx); err != nil {
		return nil, err
	}
	if _, err := d.apply(ctx); err != nil {
		return nil, err
	}
	rivals := []string{"-a", "-az"}
	for _, o := range rivals {
		if _, err := s.rsync(ctx, f.tree, copied(o), o); err != nil {
			return nil, err
		}
	}
	var bytes, theirBytes, applied, packed []float64
	var change struct{ Bytes int64 }
	ours := func(int) (float64, error) {
		if err := s.tool(ctx, s.n1, &change, "blocks", "-file", f.tree+"/file", "-seed", s.seed()); err != nil {
			return 0, err
		}
		if err := s.rest(ctx); err != nil {
			return 0, err
		}
		part, err := s.share(change.Bytes, func() (err error) {
			f.last, err = d.cycle(ctx)
			return err
		})
		if err != nil {
			return 0, err
		}
		bytes = append(bytes, part)
		a, err := d.apply(ctx)
		applied = append(applied, a.MS/1000)
		return f.last.MS / 1000, err
	}
	theirs := func(int) (float64, error) {
		var r ran
		part, err := s.share(change.Bytes, func() (err error) {
			r, err = s.rsync(ctx, f.tree, copied(rivals[0]), rivals[0])
			return err
		})
		if err != nil {
			return 0, err
		}
		theirBytes = append(theirBytes, part)
		z, err := s.rsync(ctx, f.tree, copied(rivals[1]), rivals[1])
		packed = append(packed, z.MS/1000)
		return r.MS / 1000, err
	}
	us, them, err := s.inTurns(sh.pairs, ours, theirs)
	if err == nil {
		err = s.same(ctx, f.tree, live, "--checksum")
	}
	if err != nil {
		return nil, err
	}
	onWire := versus("× changed", bytes, "rsync -a", theirBytes).named("bytes sent")
	if s.fs == "xfs" {
		onWire = onWire.atMost(1.3, drill.Median, "≤ 1.3 × changed")
	}
	r := newRow(versus("s", us, "rsync -a", them).times(randomLeast[s.fs]), onWire,
		versus("s", us, "rsync -az", packed).named("compressing"),
		versus("s", applied, "", nil).named("apply, after that"))
	f.note(r)
	r.note("the file is synced before the clock starts, as a database does; what a node sent is counted at its network interface")
	return r, nil
}

// share is how many times the given bytes left n1 while f ran.
func (s *site) share(of int64, f func() error) (float64, error) {
	before, err := sent(s.n1)
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := sent(s.n1)
	if of <= 0 {
		return 0, fmt.Errorf("nothing was changed")
	}
	return float64(after-before) / float64(of), err
}
