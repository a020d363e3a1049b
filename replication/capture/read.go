package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// unchanged says whether the trees are as in Base. What only may have changed
// is read for it, without a freeze: nothing is kept of that reading.
func (j *job) unchanged(ctx context.Context) (bool, error) {
	if j.r.Base == nil || len(j.r.Base.Volumes) != len(j.vols) {
		return false, nil
	}
	for k, v := range j.vols {
		if j.r.Base.Volumes[k].Name != v.Name || v.gone > 0 || v.skip != j.r.Base.Volumes[k].Skipped {
			return false, nil
		}
		for _, i := range v.dirty {
			n := v.nodes[i]
			if _, unsure := v.racy[n.Path]; !unsure || v.index[n.Path] != n.Stat {
				return false, nil
			}
		}
		if !v.linksAsBase() {
			return false, nil
		}
	}
	for _, v := range j.vols {
		for _, i := range v.dirty {
			n := v.nodes[i]
			e, err := j.readNow(ctx, v, n, func(replication.Hash, []byte) error { return nil })
			if errors.Is(err, errMoved) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			if !tree.Equal(e, v.base[n.Path]) {
				return false, nil
			}
		}
	}
	return true, nil
}

// linksAsBase: every path is in Base and links as it did there.
func (v *volume) linksAsBase() bool {
	leads := v.leaders()
	for _, n := range v.nodes {
		old, ok := v.base[n.Path]
		if !ok {
			return false
		}
		want := ""
		if lead, linked := leads[inode(n)]; linked && lead != n.Path {
			want = lead
		}
		if old.Link != want {
			return false
		}
	}
	return true
}

// readQuiet reads, before the freeze, dirty files that have been at rest for a
// while, so that the freeze has only the busy ones to set aside. A file that
// has the same stat in the freeze has the same content: its ctime is older
// than this look by more than any clock tick, so a change since would show.
func (j *job) readQuiet(ctx context.Context) error {
	before := j.at - int64(quiet)
	for _, v := range j.vols {
		for _, i := range v.dirty {
			n := v.nodes[i]
			if n.Stat.CtimeNs >= before {
				continue
			}
			e, err := j.readNow(ctx, v, n, j.put)
			if errors.Is(err, errMoved) {
				continue // busy after all
			}
			if err != nil {
				return err
			}
			v.early[n.Path] = reading{stat: n.Stat, entry: *e}
		}
	}
	return nil
}

func (j *job) put(h replication.Hash, data []byte) error {
	if j.r.Sink.Has(h) {
		return nil
	}
	return j.r.Sink.Put(h, data)
}

// readNow reads a node where it lies. errMoved when it is not what n says, before or after.
func (j *job) readNow(ctx context.Context, v *volume, n tree.Node, emit func(replication.Hash, []byte) error) (*replication.Entry, error) {
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
		var read int64
		e.Chunks, read, err = tree.ReadChunks(ctx, f, n.Stat.Size, emit)
		j.res.BytesRead += read
		if err != nil {
			return nil, moved(v, n, err)
		}
	}
	after, err := v.root.Lstat(n.Path)
	if err != nil || after != n.Stat {
		return nil, moved(v, n, errors.Join(err, errMoved))
	}
	return &e, nil
}

// moved turns what happens to a path that others change into errMoved.
func moved(v *volume, n tree.Node, err error) error {
	if tree.Vanished(err) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.Join(errMoved, err)
	}
	return fmt.Errorf("volume %s, %q: %w", v.Name, n.Path, err)
}

// staged is a dirty node as it was in the freeze.
type staged struct {
	at    int // in volume.nodes
	entry replication.Entry
	file  *os.File // its content, a clone or a copy; nil: entry is complete but for small
	small [][]byte // content of a small file, one for each of entry's chunks
}

func (s *staged) close() error {
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Small files are kept in memory: that is cheaper than a file in the stage.
const (
	smallFile   = 64 << 10
	smallBudget = 64 << 20 // in all
)

// setAside secures what is dirty. Called in the freeze: it must be quick.
func (j *job) setAside(ctx context.Context) error {
	budget := int64(smallBudget)
	for _, v := range j.vols {
		for _, i := range v.dirty {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := v.nodes[i]
			s := &staged{at: i}
			v.aside = append(v.aside, s)
			if early, ok := v.early[n.Path]; ok && early.stat == n.Stat {
				s.entry = early.entry
				continue
			}
			var err error
			if s.entry, err = v.root.Meta(n.Path, n.Stat); err != nil {
				return moved(v, n, err)
			}
			if s.entry.Type == replication.TypeFile && n.Stat.Size > 0 {
				if err := j.setAsideFile(ctx, v, n, s, &budget); err != nil {
					return moved(v, n, err)
				}
			}
		}
	}
	return nil
}

func (j *job) setAsideFile(ctx context.Context, v *volume, n tree.Node, s *staged, budget *int64) (err error) {
	src, err := v.root.Open(n.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	if n.Stat.Size <= smallFile && n.Stat.Size <= *budget {
		*budget -= n.Stat.Size
		if err := tree.Flush(src); err != nil {
			return err
		}
		s.entry.Chunks, _, err = tree.ReadChunks(ctx, src, n.Stat.Size, func(_ replication.Hash, b []byte) error {
			s.small = append(s.small, bytes.Clone(b))
			return nil
		})
		return errors.Join(err, unmoved(src, n))
	}
	s.file, err = os.OpenFile(filepath.Join(v.StageDir, strconv.Itoa(len(v.aside))), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	cloned, err := tree.Clone(s.file, src) // flushes
	if err != nil {
		return err
	}
	if cloned {
		j.res.Cloned++
		return unmoved(src, n)
	}
	j.res.Copied++
	if err := tree.Flush(src); err != nil {
		return err
	}
	return errors.Join(tree.Copy(ctx, s.file, src, n.Stat.Size), unmoved(src, n))
}

// unmoved checks that the file is still what n says: the one found, not written to.
func unmoved(f *os.File, n tree.Node) error {
	st, err := tree.FileStat(f)
	if err == nil && st != n.Stat {
		err = errMoved
	}
	return err
}

// read hashes what was set aside and puts the result's volumes together.
func (j *job) read(ctx context.Context) error {
	for _, v := range j.vols {
		entries := make([]replication.Entry, len(v.nodes))
		for _, s := range v.aside {
			if err := j.readStaged(ctx, s); err != nil {
				return fmt.Errorf("volume %s, %q: %w", v.Name, s.entry.Path, err)
			}
			entries[s.at] = s.entry
		}
		leads := v.leaders()
		for i, n := range v.nodes {
			if lead, linked := leads[inode(n)]; linked && lead != n.Path {
				entries[i] = replication.Entry{Path: n.Path, Type: n.Stat.Type(), Link: lead}
			} else if entries[i].Path == "" {
				entries[i] = *v.base[n.Path]
			}
			if old, ok := v.base[n.Path]; !ok || !tree.Equal(old, &entries[i]) {
				j.res.Changed++
			}
		}
		j.res.Changed += v.gone
		j.res.Volumes = append(j.res.Volumes, replication.Volume{Name: v.Name, Entries: entries, Skipped: v.skip})
	}
	if b := j.r.Base; b != nil {
		j.res.Changed += volumesDiffer(b.Volumes, j.res.Volumes)
	}
	return nil
}

// volumesDiffer counts volumes that came or went; one without an entry of its own to show it.
func volumesDiffer(a, b []replication.Volume) (n int) {
	names := map[string]int{}
	for _, v := range a {
		names[v.Name] = v.Skipped + 1
	}
	for _, v := range b {
		if names[v.Name] != v.Skipped+1 {
			n++
		}
		delete(names, v.Name)
	}
	return n + len(names)
}

func (j *job) readStaged(ctx context.Context, s *staged) (err error) {
	for k, data := range s.small {
		j.res.BytesRead += int64(len(data))
		if err := j.put(s.entry.Chunks[k].Hash, data); err != nil {
			return err
		}
	}
	s.small = nil
	if s.file == nil {
		return nil
	}
	var read int64
	s.entry.Chunks, read, err = tree.ReadChunks(ctx, s.file, s.entry.Size, j.put)
	j.res.BytesRead += read
	return errors.Join(err, s.close())
}
