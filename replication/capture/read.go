package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// unchanged says whether the trees are as in Base. What only may have changed
// is read for it, without a freeze: nothing is kept of that reading.
func (j *job) unchanged(ctx context.Context) (bool, error) {
	if j.r.Base == nil || len(j.r.Base.Volumes) != len(j.vols) {
		return false, nil
	}
	for _, v := range j.vols {
		if !v.looksAs(j.r.Base.Volume(v.Name)) {
			return false, nil
		}
	}
	for _, v := range j.vols {
		for path := range v.todo() {
			n := v.node(path)
			if v.linksTo(n) != "" {
				continue
			}
			e, err := j.readNow(ctx, v, n, func(replication.Hash, []byte, *tree.Twin, int64) error { return nil })
			if errors.Is(err, errMoved) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			if !e.Equal(v.base.Get(path)) {
				return false, nil
			}
		}
	}
	return true, nil
}

// looksAs: to stat, the volume is as in Base.
func (v *volume) looksAs(base *replication.Volume) bool {
	if base == nil || len(v.gone) > 0 || v.now.Sockets() != base.Skipped {
		return false
	}
	for path := range v.todo() {
		n := v.node(path)
		was, _ := v.index.Get(path)
		_, unsure := v.unsure[path]
		if old := v.base.Get(path); !unsure || was != n.Stat || old == nil || old.Link != v.linksTo(n) {
			return false
		}
	}
	return true
}

// readQuiet reads, before the freeze, dirty files that have been at rest for a
// while, so that the freeze has only the busy ones to set aside. A file that
// has the same stat in the freeze has the same content: its ctime is older
// than this look by more than any clock tick, so a change since would show. A write
// that had begun by then and goes on does not: see tree.Settle.
//
// The busy ones are written back, rather now than in the freeze; where they are many, most
// have come to rest a moment later.
func (j *job) readQuiet(ctx context.Context) error {
	if err := j.readAtRest(ctx, quiet); err != nil {
		return err
	}
	busy, err := j.flushBusy(ctx)
	if err != nil || busy < manyBusy {
		return err
	}
	if err := j.lookLater(ctx, quiet); err != nil {
		return err
	}
	return j.readAtRest(ctx, quiet)
}

// manyBusy is how many files take longer to be set aside in a freeze than its beginning and
// its end do.
const manyBusy = 32

// readAtRest is readQuiet of what has been at rest for some other while, more than a tick of
// any clock.
func (j *job) readAtRest(ctx context.Context, rest time.Duration) error {
	j.beginFlush()
	before := j.at - int64(rest)
	whole := j.newReaders(ctx)
	err := j.eachAtRest(ctx, before, whole)
	return errors.Join(err, whole.wait())
}

// eachAtRest goes through what is dirty and has whole read the small ones of it.
func (j *job) eachAtRest(ctx context.Context, before int64, whole *readers) error {
	for _, v := range j.vols {
		for path := range v.todo() {
			n := v.node(path)
			if v.linksTo(n) != "" {
				continue
			}
			if n.Stat.CtimeNs >= before {
				if err := j.prepare(ctx, v, n); err != nil {
					return err
				}
				continue
			}
			if err := j.c.hook.At("read " + path); err != nil {
				return err
			}
			if n.Stat.Type() == replication.TypeFile && n.Stat.Size <= wholeFile {
				if !whole.read(v, n) {
					return nil // wait says why, or ctx does
				}
				continue
			}
			if err := j.readEarly(ctx, v, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare has a large file that is busy cloned before the freeze or, where there are no clones, read:
// so that only what changes until then is left to be set aside. What it
// took is of no one instant, and counts for nothing else.
func (j *job) prepare(ctx context.Context, v *volume, n tree.Node) error {
	if n.Stat.Type() != replication.TypeFile || n.Stat.Size < largeFile || j.r.Freezer == nil {
		return nil
	}
	f, err := v.root.Open(n.Path)
	if tree.Vanished(err) {
		return nil
	}
	if err != nil {
		return moved(v, n, err)
	}
	defer f.Close()
	can := v.cloneOf(n.Path) != nil
	if !can {
		can, err = v.canClone(f)
	}
	if err == nil && can {
		err = j.bringEarly(ctx, v, n.Path, f)
	}
	if err != nil || can {
		return moved(v, n, err)
	}
	if err := tree.Flush(f); err != nil {
		return err
	}
	e := &replication.Entry{Path: n.Path, Size: n.Stat.Size}
	from, again := v.prepared[n.Path]
	if !again {
		from = v.known(n.Path)
	}
	now := &shadow{}
	err = j.readLarge(ctx, v, content{f: f}, now, e, from, j.put)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return nil // it becomes shorter
	}
	v.prepared[n.Path] = source{entry: e, shadow: now}
	return err
}

// emit takes a chunk that was read, as Sink.Put does.
type emit func(h replication.Hash, data []byte, from *tree.Twin, at int64) error

// moving takes a chunk of what may change where it lies.
func (to emit) moving(h replication.Hash, data []byte) error { return to(h, data, nil, 0) }

func (j *job) put(h replication.Hash, data []byte, from *tree.Twin, at int64) error {
	if j.r.Sink.Has(h) {
		return nil
	}
	return j.r.Sink.Put(h, data, from, at)
}

// readNow reads a node where it lies. errMoved when it is not what n says, before or after.
func (j *job) readNow(ctx context.Context, v *volume, n tree.Node, to emit) (*replication.Entry, error) {
	e, err := v.root.Meta(n.Path, n.Stat)
	if err != nil {
		return nil, moved(v, n, err)
	}
	if e.Type == replication.TypeFile {
		f, err := v.root.Open(n.Path)
		if err != nil {
			return nil, moved(v, n, err)
		}
		defer f.Close()
		if err := tree.Flush(f); err != nil {
			return nil, err
		}
		if err := j.readContent(ctx, v, n, f, &e, to); err != nil {
			return nil, moved(v, n, err)
		}
	}
	after, err := v.root.Lstat(n.Path)
	if err != nil || after != n.Stat {
		return nil, moved(v, n, errors.Join(err, errMoved))
	}
	return &e, nil
}

// readContent reads a file where it lies, a large one from a clone if there can be one.
func (j *job) readContent(ctx context.Context, v *volume, n tree.Node, f *os.File, e *replication.Entry, to emit) error {
	if e.Size < largeFile {
		cs, read, err := tree.ReadChunks(ctx, f, e.Size, to.moving)
		e.Chunks = cs
		j.bytes.Add(read)
		return err
	}
	now, _, err := j.snapshot(ctx, v, n.Path, f, e.Size)
	if err != nil {
		return err
	}
	from := content{f: f}
	if now != nil {
		from = content{now.clone.f, j.twin(v, n.Path, n.Stat, now.clone.f, f)}
	} else {
		now = &shadow{}
	}
	if err := j.readLarge(ctx, v, from, now, e, v.known(e.Path), to); err != nil {
		return errors.Join(err, now.close())
	}
	return v.shadows.put(e, now)
}

// moved turns what happens to a path that others change into errMoved; nil stays nil.
func moved(v *volume, n tree.Node, err error) error {
	if err == nil {
		return nil
	}
	if tree.Vanished(err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tree.ErrChanged) {
		err = errors.Join(errMoved, err)
	}
	return fmt.Errorf("volume %s, %q: %w", v.Name, n.Path, err)
}

// read hashes what was set aside and puts the result's volumes together.
func (j *job) read(ctx context.Context) error {
	base := j.r.Base
	d := &replication.Delta{}
	for _, v := range j.vols {
		for _, s := range v.aside {
			if err := j.c.hook.At("hash " + s.entry.Path); err != nil {
				return err
			}
			if err := j.readStaged(ctx, v, s); err != nil {
				return fmt.Errorf("volume %s, %q: %w", v.Name, s.entry.Path, err)
			}
		}
		to, vd := j.result(v)
		j.res.Volumes = append(j.res.Volumes, to)
		if old := base.Volume(v.Name); old == nil || old.Skipped != to.Skipped || len(vd.Put)+len(vd.Del) > 0 {
			d.Volumes = append(d.Volumes, vd)
		}
	}
	if base != nil {
		d.Base, d.BaseSum = base.ID, base.Sum()
		for i := range base.Volumes {
			name := base.Volumes[i].Name
			if !slices.ContainsFunc(j.vols, func(v *volume) bool { return v.Name == name }) {
				d.Gone = append(d.Gone, name)
			}
		}
		j.res.Delta = d
	}
	j.res.Changed = d.Changes()
	return nil
}

// result is the volume as it is now, and how that differs from Base.
func (j *job) result(v *volume) (replication.Volume, replication.VolumeDelta) {
	to := replication.Volume{Name: v.Name, Entries: v.base.Clone(), Skipped: v.now.Sockets()}
	d := replication.VolumeDelta{Name: v.Name, Skipped: to.Skipped}
	put := func(e *replication.Entry) {
		if old := v.base.Get(e.Path); old == nil || !old.Equal(e) {
			to.Entries.Set(e)
			d.Put = append(d.Put, e)
		} else {
			v.shadows.rename(e, old)
		}
	}
	for path := range v.gone {
		to.Entries.Delete(path)
		d.Del = append(d.Del, path)
	}
	for r, more := v.early.DeleteMin(); more; r, more = v.early.DeleteMin() { // of a first capture that is all files
		put(r.entry)
		if j.unsettled(v, r.node.Path) {
			v.unsettled = append(v.unsettled, r.node.Path)
		}
	}
	for _, s := range v.aside {
		put(s.entry)
	}
	slices.SortFunc(d.Put, func(a, b *replication.Entry) int { return replication.ComparePaths(a.Path, b.Path) })
	slices.SortFunc(d.Del, replication.ComparePaths)
	d.Splice(v.base)
	return to, d
}

func (j *job) readStaged(ctx context.Context, v *volume, s *staged) (err error) {
	for _, k := range s.kept {
		if err := j.put(k.hash, k.data, nil, 0); err != nil {
			return err
		}
	}
	s.kept = nil
	if s.shadow != nil && s.shadow.clone == nil {
		return v.shadows.put(s.entry, s.shadow)
	}
	if s.content() == nil {
		return nil
	}
	from, done := j.contentOf(v, s)
	defer done()
	if s.entry.Size >= largeFile {
		now := s.shadow
		if now == nil {
			now = &shadow{} // of a copy
		}
		if err := j.readLarge(ctx, v, from, now, s.entry, v.known(s.entry.Path), j.put); err != nil {
			return errors.Join(err, s.close())
		}
		s.shadow = nil // it is the volume's now
		return errors.Join(v.shadows.put(s.entry, now), s.close())
	}
	var read int64
	s.entry.Chunks, read, err = tree.ReadData(ctx, from.data(s.entry.Size), 0, s.entry.Size, make([]byte, min(s.entry.Size, replication.ChunkSize)),
		func(c replication.Chunk, b []byte) error { return j.put(c.Hash, b, nil, 0) })
	j.bytes.Add(read)
	return errors.Join(err, s.close())
}

// contentOf is what was set aside, to be read until done is called.
func (j *job) contentOf(v *volume, s *staged) (c content, done func()) {
	f := s.content()
	if !s.cloned {
		return content{f: f}, func() {}
	}
	var src *os.File
	if s.stat.Ino != 0 {
		src, _ = v.root.Open(s.entry.Path) // or the clone is read
	}
	return content{f, j.twin(v, s.entry.Path, s.stat, f, src)}, func() { _ = src.Close() } // read only, or nil
}
