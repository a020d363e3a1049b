package capture

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/extent"
	"github.com/understudy-ha/understudy/replication/tree"
)

// clone is a reflink clone of a large file. It is kept from one capture to the next and brought up to the
// file by cloning what changed: to clone a file whole takes a time for each of its extents, and one that is
// written to at random while clones of it are kept comes to lie in ever more of them.
type clone struct {
	f      *os.File
	of     []*shadow      // what it was once; each knows where it is not that any more
	layout *extent.Map    // where f lay before since; nil: to be looked at
	since  []extent.Range // what was cloned into f, or cut off
	known  *layouts       // of all clones
	used   bool           // in this capture
	behind bool           // much was different in the file when f was last brought up to it
	apart  bool           // from the file, so that the extents of both cannot be compared
}

// look finds where f lies. It takes a time for each piece that was cloned, and is left until that is
// asked again: in a freeze only where nobody knew before that the file is busy.
func (c *clone) look() error {
	layout, err := c.layout.Update(c.f, c.since)
	if err == nil && layout == nil && c.known.room(extent.Count(c.f)) {
		layout, err = extent.Take(c.f)
	}
	c.since = nil
	c.remember(layout)
	return err
}

// remember keeps where f lies, if there is room for that.
func (c *clone) remember(m *extent.Map) {
	c.known.extents.Add(int64(-c.layout.Len()))
	if !c.known.room(m.Len()) {
		m = nil
	}
	c.known.extents.Add(int64(m.Len()))
	c.layout = m
}

// outdate notes for all that c was that it may be something else in ranges.
func (c *clone) outdate(ranges []extent.Range) {
	for _, s := range c.of {
		s.stale = extent.Union(s.stale, ranges)
	}
}

// shadow is c as it is now.
func (c *clone) shadow() *shadow {
	s := &shadow{clone: c}
	c.of = append(c.of, s)
	return s
}

// release is for a shadow that is needed no more.
func (c *clone) release(s *shadow) error {
	if c.of = slices.DeleteFunc(c.of, func(o *shadow) bool { return o == s }); len(c.of) > 0 {
		return nil
	}
	c.remember(nil)
	return c.f.Close()
}

// bring makes c as the first size bytes of src and says in how many pieces. Size is a whole number of
// blocks, or the file's. Where src is written to meanwhile c is of no one instant, and the next time
// finds that. False: too much is different, or it cannot be told what; then c is something in between.
func (c *clone) bring(ctx context.Context, src *os.File, size int64) (pieces int, ok bool, err error) {
	st, err := tree.FileStat(c.f)
	if err != nil {
		return 0, false, err
	}
	if st.Size > size {
		c.since = extent.Union(c.since, []extent.Range{{Offset: size, Length: st.Size - size}})
		if err := errors.Join(wholeBlocks(c.f, c.since), c.f.Truncate(size)); err != nil { // what is beyond the end of either counts as changed
			return 0, false, err
		}
	}
	c.used = true
	if err := c.look(); err != nil {
		return 0, false, err
	}
	ranges, sure, err := c.changed(src, size)
	if c.apart = err == nil && !sure; err != nil || !sure || length(ranges) > size/2 {
		return 0, false, err
	}
	if err := wholeBlocks(c.f, ranges); err != nil {
		return 0, false, err
	}
	c.outdate(ranges)
	if pieces, ok, err = c.take(ctx, src, ranges); err != nil || !ok {
		c.remember(nil) // it is something in between
		return pieces, ok, err
	}
	c.since, c.behind = ranges, pieces > bringFew
	return pieces, ok, err
}

// changed is where src is not as c; dirty pages of both are written back for it.
func (c *clone) changed(src *os.File, size int64) (ranges []extent.Range, sure bool, err error) {
	if c.layout != nil {
		return c.layout.Changed(src, size)
	}
	return extent.Changed(c.f, src, size)
}

// atOnce is how much of a file is cloned in one call, bytes: it cannot be written to meanwhile, however
// many extents it has there.
const atOnce = 16 << 20

// take clones ranges of src. False: it cannot, for one because src became shorter.
func (c *clone) take(ctx context.Context, src *os.File, ranges []extent.Range) (pieces int, ok bool, err error) {
	for _, r := range ranges {
		for at, end := r.Offset, r.Offset+r.Length; at < end; at += atOnce {
			if ctx.Err() != nil {
				return 0, false, context.Cause(ctx)
			}
			if ok, err := tree.CloneRange(c.f, at, src, at, min(atOnce, end-at)); err != nil || !ok {
				return 0, false, err
			}
			pieces++
		}
	}
	return pieces, true, nil
}

// wholeBlocks moves where ranges begin back to a block of f's file system: only whole ones can be cloned.
func wholeBlocks(f *os.File, ranges []extent.Range) error {
	size, err := blockSize(f)
	for i := range ranges {
		before := ranges[i].Offset % size
		ranges[i].Offset -= before
		ranges[i].Length += before
	}
	return err
}

// blockSize is that of f's file system, bytes.
func blockSize(f *os.File) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return block, &os.PathError{Op: "statfs", Path: f.Name(), Err: err}
	}
	return max(1, fs.Bsize), nil
}

// snapshot is the large file src at path as it is now, size as bring has it: in a clone that is there already,
// and brought up to it in so many pieces, or in a new one, which counts as many. nil: there can be none.
func (j *job) snapshot(ctx context.Context, v *volume, path string, src *os.File, size int64) (now *shadow, pieces int, err error) {
	was := v.cloneOf(path)
	if was != nil && !j.asItIs {
		// This waits for direct I/O that is under way, as cloning all of it would.
		if can, err := v.canClone(src); err != nil || !can {
			return nil, 0, err
		}
		if pieces, ok, err := was.bring(ctx, src, size); err != nil {
			return nil, 0, err
		} else if ok {
			return was.shadow(), pieces, nil
		}
	}
	c, err := j.newClone(ctx, v, src, size)
	if err != nil || c == nil {
		return nil, 0, err
	}
	c.apart = was != nil && was.apart
	return c.shadow(), bringFew + 1, nil
}

// newClone is one of the large file src; nil: there can be none.
func (j *job) newClone(ctx context.Context, v *volume, src *os.File, size int64) (*clone, error) {
	if !j.asItIs {
		f, err := tree.Nameless(v.StageDir)
		if err != nil {
			return nil, err
		}
		_ = extent.StayPut(f) // or it is looked at anew each time
		c := &clone{f: f, known: &j.c.layouts, behind: true, used: true}
		if _, ok, err := c.take(ctx, src, []extent.Range{{Length: size}}); err == nil && ok {
			return c, nil
		} else if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	f, cloned, err := v.cloneWhole(src) // in one: its length may have changed meanwhile
	if err != nil {
		return nil, err
	}
	if !cloned {
		return nil, f.Close()
	}
	return &clone{f: f, known: &j.c.layouts, behind: true, used: true}, nil
}

// cloneOf is the clone that there is of the file at path; nil: none.
func (v *volume) cloneOf(path string) *clone {
	if s := v.brought[path]; s != nil {
		return s.clone
	}
	if s := v.known(path).shadow; s != nil {
		return s.clone
	}
	return nil
}

// bringEarly has a clone of a busy file that differs little from it when the freeze begins, and has
// looked where that lies.
func (j *job) bringEarly(ctx context.Context, v *volume, path string, src *os.File) error {
	whole, err := blockSize(src)
	if err != nil {
		return err
	}
	for range bringRounds {
		old := v.cloneOf(path)
		if old != nil && old.apart {
			return nil
		}
		st, err := tree.FileStat(src)
		if err != nil {
			return err
		}
		now, _, err := j.snapshot(ctx, v, path, src, st.Size-st.Size%whole) // it may grow meanwhile
		if err != nil || now == nil {
			return err
		}
		err = v.brought[path].close()
		if v.brought[path] = now; err != nil {
			return err
		}
		if err := now.clone.look(); err != nil || !now.clone.behind {
			return err
		}
	}
	return nil
}

// A busy file's clone is brought up to it again after that took many pieces: meanwhile much may have changed.
const (
	bringRounds = 3
	bringFew    = 500
)

// keptExtents is of how many extents of clones it is remembered where they lie, from one capture to the next: 14 MiB of
// them. The other clones are looked at anew each time.
var keptExtents int64 = 1 << 18 // only tests change it

// layouts is what all clones of a Capturer are remembered with.
type layouts struct {
	extents atomic.Int64
	short   atomic.Bool // there was no room for one
}

func (l *layouts) room(extents int) bool {
	room := l.extents.Load()+int64(extents) <= keptExtents
	if !room {
		l.short.Store(true)
	}
	return room
}

// trimLayouts makes room, where there was none in this capture, by what it did not need.
func (c *Capturer) trimLayouts() {
	short := c.layouts.short.Swap(false)
	for _, ss := range c.shadows {
		for of := range ss.clones {
			if short && !of.used {
				of.remember(nil)
			}
			of.used = false
		}
	}
}

// cloneWhole clones src into a file of the stage that has no name, so that it goes with
// this process; empty where the file system cannot.
func (v *volume) cloneWhole(src *os.File) (f *os.File, cloned bool, err error) {
	if f, err = tree.Nameless(v.StageDir); err != nil {
		return nil, false, err
	}
	if cloned, err = tree.Clone(f, src); err != nil { // it flushes
		return nil, false, errors.Join(err, f.Close())
	}
	return f, cloned, nil
}

// canClone says whether f can be cloned, by its first block: of a large file that is in many
// extents a whole clone is dear. It hangs on the file, too: on btrfs some have no copy-on-write,
// and a volume may be another file system than its stage.
func (v *volume) canClone(f *os.File) (bool, error) {
	to, err := tree.Nameless(v.StageDir)
	if err != nil {
		return false, err
	}
	n, err := blockSize(to)
	can := false
	if err == nil {
		can, err = tree.CloneRange(to, 0, f, 0, n)
	}
	return can, errors.Join(err, to.Close())
}

// twin is a clone with src, which it was made of when that was found to be st; nil: that is gone.
func (j *job) twin(v *volume, path string, st tree.Stat, clone, src *os.File) *tree.Twin {
	if src == nil || st.Unsure(j.at) { // a later change may not show
		return tree.ColdTwin(clone)
	}
	return tree.NewTwin(clone, src, tree.Origin{Tree: v.Path, Path: path, Stat: st})
}
