package capture

import (
	"bytes"
	"context"
	"errors"
	"os"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// staged is a dirty node as it was in the freeze.
type staged struct {
	entry  *replication.Entry
	file   *os.File  // its content, a clone or a copy; nil: there is shadow's, or entry is complete but for kept
	cloned bool      // the content is a clone
	stat   tree.Stat // of what was cloned; Ino 0: it may differ
	kept   []kept    // content that is in memory
	shadow *shadow   // of a large file: one whose clone is the content, or one that is complete
}

// content is what is to be read of it yet; nil: nothing.
func (s *staged) content() *os.File {
	if s.shadow != nil && s.shadow.clone != nil {
		return s.shadow.clone.f
	}
	return s.file
}

type kept struct {
	hash replication.Hash
	data []byte
}

// keep is an emit that keeps.
func (s *staged) keep(h replication.Hash, b []byte) error {
	s.kept = append(s.kept, kept{h, bytes.Clone(b)})
	return nil
}

func (s *staged) close() error {
	err := s.shadow.close()
	s.shadow = nil
	if s.file != nil {
		err = errors.Join(err, s.file.Close())
		s.file = nil
	}
	return err
}

// Small files are kept in memory: that is cheaper than a file in the stage.
const (
	smallFile   = 64 << 10
	smallBudget = 64 << 20 // in all
)

// keepMost is what is kept in memory of a large file that changed between its
// reading and the freeze, bytes; one that changed more is copied.
const keepMost = 128 << 20

var errTooMuch = errors.New("too much to keep in memory")

// setAside secures what is dirty. Called in the freeze: it must be quick.
func (j *job) setAside(ctx context.Context) error {
	j.beginFlush()
	budget := int64(smallBudget)
	for _, v := range j.vols {
		for path := range v.todo() {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := j.c.hook.At("set aside " + path); err != nil {
				return err
			}
			s, err := j.secure(ctx, v, v.node(path), &budget)
			if j.r.Loose && errors.Is(err, errMoved) {
				s, err = j.chase(ctx, v, path, &budget)
			}
			if err != nil {
				return err
			}
			if s != nil {
				v.aside = append(v.aside, s)
			}
		}
	}
	return nil
}

// secure sets one node aside as it is now; errMoved when it is not what n says.
func (j *job) secure(ctx context.Context, v *volume, n tree.Node, budget *int64) (s *staged, err error) {
	s = &staged{}
	if lead := v.linksTo(n); lead != "" {
		s.entry = &replication.Entry{Path: n.Path, Type: n.Stat.Type(), Link: lead}
		return s, nil
	}
	if n.Stat.Type() == replication.TypeFile && n.Stat.Size <= min(smallFile, *budget) && !j.asItIs {
		if err := j.keepSmall(v, n, s); !errors.Is(err, errors.ErrUnsupported) {
			*budget -= n.Stat.Size
			return s, moved(v, n, err)
		}
	}
	e, err := v.root.Meta(n.Path, n.Stat)
	if err != nil {
		return nil, moved(v, n, err)
	}
	s.entry = &e
	if e.Type == replication.TypeFile && n.Stat.Size > 0 {
		if err := j.setAsideFile(ctx, v, n, s, budget); err != nil {
			return nil, errors.Join(moved(v, n, err), s.close())
		}
	}
	return s, nil
}

// keepSmall keeps a small file in memory; errors.ErrUnsupported as tree.Root.ReadWhole.
func (j *job) keepSmall(v *volume, n tree.Node, s *staged) error {
	e, data, err := v.root.ReadWhole(n.Path, n.Stat, make([]byte, n.Stat.Size))
	if err != nil {
		return err
	}
	if s.entry = &e; len(data) > 0 {
		c := wholeChunk(data)
		e.Chunks, s.kept = []replication.Chunk{c}, []kept{{c.Hash, data}}
		j.bytes.Add(c.Length)
	}
	return nil
}

// chase takes a file that does not stand still: after some tries as it is while
// it moves, its first bytes perhaps older than its last. nil: it is gone.
func (j *job) chase(ctx context.Context, v *volume, path string, budget *int64) (*staged, error) {
	for try := 1; ; try++ {
		if err := v.lookAtPath(ctx, path, nil); errors.Is(err, errWhole) {
			return nil, moved(v, v.node(path), errMoved) // begin anew
		} else if err != nil {
			return nil, err
		}
		if !v.dirty.Has(path) {
			return nil, nil
		}
		if err := j.c.hook.At("set aside " + path); err != nil {
			return nil, err
		}
		n := v.node(path)
		j.asItIs = try == attempts
		s, err := j.secure(ctx, v, n, budget)
		if j.asItIs = false; err == nil && try == attempts {
			j.res.Moved++
			// The index is not to say that this is what the file was at rest.
			n.Stat.CtimeNs = 0
			v.now.Set(&n)
		}
		if !errors.Is(err, errMoved) || try == 2*attempts {
			return s, err
		}
	}
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
		var read int64
		s.entry.Chunks, read, err = tree.ReadChunks(ctx, src, n.Stat.Size, s.keep)
		j.bytes.Add(read)
		return errors.Join(err, j.unmoved(src, n))
	}
	if err := j.cloneAside(ctx, v, n, src, s); err != nil {
		return err
	}
	if s.cloned {
		j.res.Cloned++
		if j.asItIs {
			st, err := tree.FileStat(s.content())
			if err == nil && st.Size > s.entry.Size { // what comes after that is not in the entry, and so not in its shadow
				err = s.content().Truncate(s.entry.Size)
			}
			s.entry.Size = min(s.entry.Size, st.Size)
			return err
		}
		s.stat = n.Stat
		return j.unmoved(src, n)
	}
	if from, ok := v.prepared[n.Path]; ok {
		if err := tree.Flush(src); err != nil {
			return err
		}
		room := int64(keepMost)
		now := &shadow{}
		err = j.readLarge(ctx, v, content{f: src}, now, s.entry, from, func(h replication.Hash, b []byte, _ *tree.Twin, _ int64) error {
			if room -= int64(len(b)); room < 0 {
				return errTooMuch
			}
			return s.keep(h, b)
		})
		if !errors.Is(err, errTooMuch) {
			err = errors.Join(err, s.close(), j.unmoved(src, n))
			s.shadow = now
			return err
		}
		s.kept, s.entry.Chunks = nil, nil
	}
	j.res.Copied++
	if err := tree.Flush(src); err != nil {
		return err
	}
	return errors.Join(tree.Copy(ctx, s.file, src, n.Stat.Size), j.unmoved(src, n))
}

// cloneAside clones src if that can be; else s.file is empty.
func (j *job) cloneAside(ctx context.Context, v *volume, n tree.Node, src *os.File, s *staged) (err error) {
	if n.Stat.Size >= largeFile {
		if s.shadow, _, err = j.snapshot(ctx, v, n.Path, src, n.Stat.Size); err != nil || s.shadow != nil {
			s.cloned = err == nil
			return err
		}
	}
	s.file, s.cloned, err = v.cloneWhole(src)
	return err
}

// unmoved checks that the file is still what n says: the one found, not written to.
func (j *job) unmoved(f *os.File, n tree.Node) error {
	if j.asItIs {
		return nil
	}
	st, err := tree.FileStat(f)
	if err == nil && st != n.Stat {
		err = errMoved
	}
	return err
}
