package capture

import (
	"context"
	"errors"
	"hash/maphash"
	"io"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/extent"
	"github.com/understudy-ha/understudy/replication/tree"
)

// Of a large file only what changed is read and sent. What tells it is a shadow
// that is kept from one capture to the next: a clone, whose extents are compared
// with the file's, without reading either; where the file system has
// no clones, a hash of each block, which saves sending but not reading.
const (
	largeFile  = 4 << 20 // bytes
	block      = 4 << 10 // bytes
	maxClones  = 512     // open files
	maxDigests = 8 << 20 // blocks: 32 GiB of files in 64 MiB of memory
)

// shadow is a large file as it was captured.
type shadow struct {
	clone  *clone         // nil: blocks has a hash of each block
	stale  []extent.Range // where clone may have other content than the file had, in order
	blocks []uint64
}

func (s *shadow) close() error {
	if s == nil || s.clone == nil {
		return nil
	}
	return s.clone.release(s)
}

// shadows are found by the entry that they were captured as, so that one of a
// generation that was not committed is never taken for the base's.
type shadows struct {
	seed   maphash.Seed
	of     map[*replication.Entry]*shadow
	blocks int
	clones map[*clone]int // how many shadows it is of
}

func newShadows() *shadows {
	return &shadows{seed: maphash.MakeSeed(), of: map[*replication.Entry]*shadow{}, clones: map[*clone]int{}}
}

// put keeps a shadow, if there is room: the first ones stay, as files that come
// and go are no large databases.
func (ss *shadows) put(e *replication.Entry, s *shadow) error {
	if s.clone != nil && ss.clones[s.clone] == 0 && len(ss.clones) >= maxClones || ss.blocks+len(s.blocks) > maxDigests {
		return s.close()
	}
	ss.of[e] = s
	ss.count(s, 1)
	return nil
}

func (ss *shadows) count(s *shadow, sign int) {
	ss.blocks += sign * len(s.blocks)
	if s.clone == nil {
		return
	}
	if ss.clones[s.clone] += sign; ss.clones[s.clone] == 0 {
		delete(ss.clones, s.clone)
	}
}

// keepOnly drops the shadows of entries that are not wanted.
func (ss *shadows) keepOnly(wanted func(*replication.Entry) bool) error {
	var errs []error
	for e, s := range ss.of {
		if !wanted(e) {
			delete(ss.of, e)
			ss.count(s, -1)
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}

// rename is for an entry that turned out to be as another.
func (ss *shadows) rename(from, to *replication.Entry) {
	if s := ss.of[from]; s != nil && from != to {
		delete(ss.of, from)
		if old := ss.of[to]; old != nil {
			ss.count(old, -1)
			_ = old.close() // read only
		}
		ss.of[to] = s
	}
}

// source is what is known of a large file's content from before.
type source struct {
	entry  *replication.Entry // nil: nothing
	shadow *shadow            // nil: only what entry says
}

// known is the source that Base is.
func (v *volume) known(path string) source {
	e := v.base.Get(path)
	if e == nil || e.Type != replication.TypeFile || e.Link != "" {
		return source{}
	}
	return source{entry: e, shadow: v.shadows.of[e]}
}

// content is a file that is read, as it lies there or a clone.
type content struct {
	f    *os.File
	twin *tree.Twin // of f; nil: f is no clone
}

func (c content) ReadAt(b []byte, at int64) (int, error) {
	if c.twin != nil {
		return c.twin.ReadAt(b, at)
	}
	return c.f.ReadAt(b, at)
}

func (c content) data(size int64) *tree.Data {
	if c.twin != nil {
		return tree.NewTwinData(c.twin, size)
	}
	return tree.NewData(c.f, size)
}

// readLarge fills in e's chunks, reading what differs in f from what is known, or
// everything. now is f's shadow: its clone is f, or it is filled in.
func (j *job) readLarge(ctx context.Context, v *volume, f content, now *shadow, e *replication.Entry, from source, to emit) error {
	ranges, sure, err := j.differences(ctx, v, f, e.Size, from, now)
	if err == nil {
		// The file may change between the two readings: what counts is what is emitted.
		put := func(c replication.Chunk, data []byte) error {
			v.shadows.digest(now.blocks, c.Offset, data, e.Size)
			return to(c.Hash, data, f.twin, c.Offset)
		}
		var read int64
		if sure && length(ranges) <= e.Size/2 {
			e.Chunks, read, err = overlay(ctx, f, e.Size, from.entry.Chunks, ranges, put)
		} else {
			e.Chunks, read, err = tree.ReadData(ctx, f.data(e.Size), 0, e.Size, make([]byte, min(e.Size, replication.ChunkSize)), put)
		}
		j.bytes.Add(read)
	}
	return err
}

// differences finds where f is not as from says, and fills in now; false: that
// cannot be told.
func (j *job) differences(ctx context.Context, v *volume, f content, size int64, from source, now *shadow) (ranges []extent.Range, sure bool, err error) {
	if now.clone != nil && from.shadow != nil && from.shadow.clone != nil {
		if from.shadow.clone == now.clone {
			return from.shadow.stale, true, nil
		}
		if ranges, sure, err = extent.Changed(from.shadow.clone.f, f.f, size); err != nil || sure {
			return extent.Union(ranges, from.shadow.stale), sure, err
		}
	}
	if now.clone == nil {
		j.bytes.Add(size)
		ranges, now.blocks, err = v.shadows.compare(ctx, f.f, size, from.shadow)
		if err != nil || from.shadow != nil && from.shadow.clone == nil {
			return ranges, err == nil, err
		}
	}
	if j.r.Content == nil || from.entry == nil || len(from.entry.Chunks) == 0 {
		return nil, false, nil
	}
	j.bytes.Add(size)
	ranges, err = compareStored(ctx, f, size, from.entry.Chunks, j.r.Sink.Has, j.r.Content)
	return ranges, err == nil, err
}

func length(ranges []extent.Range) (n int64) {
	for _, r := range ranges {
		n += r.Length
	}
	return n
}

// compare hashes a file's blocks, and gives the runs of those that are not as in was.
func (ss *shadows) compare(ctx context.Context, f *os.File, size int64, was *shadow) (changed []extent.Range, blocks []uint64, err error) {
	if blocks, err = ss.digests(ctx, f, size); err != nil {
		return nil, nil, err
	}
	if was == nil {
		return nil, blocks, nil
	}
	for i, b := range blocks {
		if i < len(was.blocks) && was.blocks[i] == b {
			continue
		}
		r := extent.Range{Offset: int64(i) * block, Length: min(block, size-int64(i)*block)}
		if n := len(changed); n > 0 && changed[n-1].Offset+changed[n-1].Length == r.Offset {
			changed[n-1].Length += r.Length
		} else {
			changed = append(changed, r)
		}
	}
	return changed, blocks, nil
}

// digests hashes a file's blocks, holes as 0. Several parts at a time: in the freeze the service waits for
// it, and leaves it the processors.
func (ss *shadows) digests(ctx context.Context, f *os.File, size int64) ([]uint64, error) {
	blocks := make([]uint64, (size+block-1)/block)
	all, ctx := errgroup.WithContext(ctx)
	parts := make(chan int64) // where each begins
	for range min(runtime.GOMAXPROCS(0), mostAtOnce) {
		all.Go(func() error {
			buf := make([]byte, min(size, replication.ChunkSize))
			for at := range parts {
				n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
				if err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				ss.digest(blocks, at, buf[:n], size)
			}
			return nil
		})
	}
	all.Go(func() error {
		defer close(parts)
		for at := int64(0); at < size; {
			start, end, err := tree.NextData(f, at, size)
			if err != nil {
				return err
			}
			for at = start - start%block; at < end; at += replication.ChunkSize {
				select {
				case parts <- at:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			at = max(at, end)
		}
		return nil
	})
	return blocks, all.Wait()
}

// unlike is no block's digest: those are odd, and a hole's is 0.
const unlike = 2

// digest brings the digests of the blocks that data at offset at lies in up to it.
func (ss *shadows) digest(blocks []uint64, at int64, data []byte, size int64) {
	for len(data) > 0 && at/block < int64(len(blocks)) {
		n := min(block-at%block, int64(len(data)))
		whole := at%block == 0 && (n == block || at+n == size)
		if d := &blocks[at/block]; whole {
			*d = maphash.Bytes(ss.seed, data[:n]) | 1
		} else {
			*d = unlike
		}
		at, data = at+n, data[n:]
	}
}

// overlay is old's content with ranges, in order, read anew from f.
func overlay(ctx context.Context, f content, size int64, old []replication.Chunk, ranges []extent.Range, emit func(replication.Chunk, []byte) error) (cs []replication.Chunk, read int64, err error) {
	at := int64(0)
	keep := func(end int64) { // what old has from at to end
		for len(old) > 0 && old[0].Offset < end {
			c := old[0]
			if from, to := max(c.Offset, at), min(c.Offset+c.Length, end); from < to {
				cs = append(cs, replication.Chunk{Offset: from, Length: to - from, Hash: c.Hash, Skip: c.Skip + from - c.Offset})
			}
			if c.Offset+c.Length > end {
				break
			}
			old = old[1:]
		}
		at = end
	}
	data, buf := f.data(size), make([]byte, min(size, replication.ChunkSize))
	ahead := readAhead{f: f, ranges: ranges}
	for i, r := range ranges {
		end := min(r.Offset+r.Length, size)
		if r.Offset >= end {
			break
		}
		keep(r.Offset)
		ahead.at(i)
		anew, n, err := tree.ReadData(ctx, data, r.Offset, end, buf, emit)
		read += n
		if err != nil {
			return nil, read, err
		}
		cs = append(cs, anew...)
		at = end
	}
	keep(size)
	return cs, read, nil
}

// readAhead has the file system read scattered ranges side by side, before they are
// asked for one by one: a clone has nothing in memory of what the file has.
type readAhead struct {
	f      content
	ranges []extent.Range
	begun  bool
	next   int // to be asked for
	bytes  int64
}

// How far it is ahead, at most.
const (
	aheadRanges = 128
	aheadBytes  = 8 << 20
)

// at is called before range i is read. It only helps: errors do not matter.
func (a *readAhead) at(i int) {
	if a.f.twin != nil && !a.f.twin.Cold() {
		return
	}
	fd := int(a.f.f.Fd())
	if !a.begun {
		a.begun, a.next = true, i
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) // not what lies between them
	} else {
		a.bytes -= a.ranges[i-1].Length
	}
	for ; a.next < len(a.ranges) && a.next < i+aheadRanges && (a.bytes < aheadBytes || a.next <= i); a.next++ {
		r := a.ranges[a.next]
		_ = unix.Fadvise(fd, r.Offset, r.Length, unix.FADV_WILLNEED)
		a.bytes += r.Length
	}
}
