package main

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// trees are the kinds of trees that are synchronised for the first time, by what
// makes them on n1.
func (s *site) makeTree(ctx context.Context, kind, dir string, size int64) error {
	if kind == "small" {
		return s.tool(ctx, s.n1, nil, "files", "-dir", dir, "-to", fmt.Sprint(size), "-seed", s.seed())
	}
	return s.tool(ctx, s.n1, nil, "tree", "-kind", kind, "-dir", dir, "-bytes", fmt.Sprint(size), "-seed", s.seed())
}

// firstSync synchronises a tree from nothing, time after time: with the driver until
// the generation is committed on n2, then with rsync.
func firstSync(kind string, least float64) func(context.Context, *site, shape) (*row, error) {
	return func(ctx context.Context, s *site, sh shape) (*row, error) {
		f := &first{s: s, tree: place + "/tree/_data"}
		defer f.clean(context.WithoutCancel(ctx))
		if err := s.makeTree(ctx, kind, f.tree, sh.size); err != nil {
			return nil, err
		}
		us, them, err := s.inTurns(sh.pairs, func(int) (float64, error) { return f.ours(ctx) }, func(int) (float64, error) { return f.theirs(ctx) })
		if err != nil {
			return nil, err
		}
		r := newRow(versus("s", us, "rsync -a", them).times(least),
			versus("s", us, "rsync -az", f.compressed).named("compressing"),
			versus("s", f.applied, "rsync -a, then sync", f.synced).named("until it is in place there too, and on disk"),
			versus("s CPU", f.cpu, "rsync -a", f.rivalCPU).named("processor time of both nodes until it is committed"),
			versus("MB", f.disk, "rsync -a", f.rivalDisk).named("disk taken on the standby, replica and history"))
		f.note(r)
		return r, nil
	}
}

// first is what a first synchronisation keeps of its runs, seconds.
type first struct {
	s    *site
	tree string
	via  string // relay

	applied, synced, compressed []float64
	cpu, rivalCPU               []float64 // of both nodes, without apply
	disk, rivalDisk             []float64 // MB on n2
	last                        cycled
}

func (f *first) clean(ctx context.Context) {
	_, _ = f.s.n1.Exec(ctx, "rm", "-rf", path.Dir(f.tree)) // of a lab that goes
	_ = f.s.forgetDirect(ctx)
	_ = f.s.forgetCopies(ctx)
}

func (f *first) ours(ctx context.Context) (float64, error) {
	if err := f.fresh(ctx); err != nil {
		return 0, err
	}
	d, err := f.s.direct(ctx, f.tree, f.via)
	if err != nil {
		return 0, err
	}
	defer d.close()
	before, err := f.s.diskUsed(ctx)
	if err != nil {
		return 0, err
	}
	used, err := f.s.using(func() (err error) {
		f.last, err = d.cycle(ctx)
		return err
	})
	f.cpu = append(f.cpu, used)
	if err != nil {
		return 0, err
	}
	a, err := d.apply(ctx)
	if err != nil {
		return 0, err
	}
	f.applied = append(f.applied, (f.last.MS+a.MS)/1000)
	after, err := f.s.diskUsed(ctx)
	if err != nil {
		return 0, err
	}
	f.disk = append(f.disk, after-before)
	return f.last.MS / 1000, f.s.same(ctx, f.tree, live)
}

func (f *first) theirs(ctx context.Context) (float64, error) {
	run := func(options ...string) (ran, error) {
		if f.via != "" {
			return f.s.rsyncRelayed(ctx, f.tree, copied("rsync"), options...)
		}
		return f.s.rsync(ctx, f.tree, copied("rsync"), options...)
	}
	if err := f.fresh(ctx); err != nil {
		return 0, err
	}
	before, err := f.s.diskUsed(ctx)
	if err != nil {
		return 0, err
	}
	var plain ran
	used, err := f.s.using(func() (err error) {
		plain, err = run("-a")
		return err
	})
	f.rivalCPU = append(f.rivalCPU, used)
	if err != nil {
		return 0, err
	}
	sync, err := f.s.synced(ctx)
	if err != nil {
		return 0, err
	}
	f.synced = append(f.synced, (plain.MS+sync.MS)/1000)
	after, err := f.s.diskUsed(ctx)
	if err != nil {
		return 0, err
	}
	f.rivalDisk = append(f.rivalDisk, after-before)
	if err := f.fresh(ctx); err != nil {
		return 0, err
	}
	packed, err := run("-az")
	f.compressed = append(f.compressed, packed.MS/1000)
	return plain.MS / 1000, err
}

// diskUsed is what n2's file system of volumes and store holds when all is on it, MB.
func (s *site) diskUsed(ctx context.Context) (float64, error) {
	if _, err := s.n2.Exec(ctx, "sync", "-f", place); err != nil {
		return 0, err
	}
	out, err := s.n2.Exec(ctx, "df", "--output=used", "-B1", place)
	if err != nil {
		return 0, err
	}
	_, used, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	n, err := strconv.ParseInt(strings.TrimSpace(used), 10, 64)
	return mb(n), err
}

// using is the processor time of both nodes while f runs, seconds.
func (s *site) using(f func() error) (float64, error) {
	before, err := s.bothCPU()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := s.bothCPU()
	return (after - before).Seconds(), err
}

// fresh leaves nothing on either node but the tree, and both disks at rest.
func (f *first) fresh(ctx context.Context) error {
	if err := f.s.forgetDirect(ctx); err != nil {
		return err
	}
	if err := f.s.forgetCopies(ctx); err != nil {
		return err
	}
	return f.s.rest(ctx)
}

func (f *first) note(r *row) {
	l := f.last
	r.note("the last: capture and commit at home %.2f s, shipping until committed there %.2f s, processor %.2f s; %.1f MB sent",
		l.SealMS/1000, l.ShipMS/1000, l.CPUMS/1000, mb(l.Sent))
	if l.Retries > 0 {
		r.note("%d captures were dropped and tried again, within the time", l.Retries)
	}
}
