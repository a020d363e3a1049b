package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// write makes the file temp with e's content: a clone of the live file with
// only the differences written, where that can be had, else all from the store.
func (w *worker) write(ctx context.Context, temp string, old, e *replication.Entry) (err error) {
	f, err := w.root.Create(temp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	keep, err := w.clone(f, old, e)
	if err != nil {
		return err
	}
	if err := f.Truncate(e.Size); err != nil {
		return err
	}
	if keep != nil {
		if err := punchHoles(f, e); err != nil {
			return err
		}
	}
	for _, c := range e.Chunks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, ok := keep[c]; ok {
			continue
		}
		data, err := w.g.Get(c.Hash)
		if err != nil {
			return err
		}
		if int64(len(data)) != c.Length {
			return fmt.Errorf("chunk %s is %d bytes long, not %d: %w", c.Hash, len(data), c.Length, replication.ErrFormat)
		}
		if _, err := f.WriteAt(data, c.Offset); err != nil {
			return err
		}
		w.res.Bytes += c.Length
	}
	return nil
}

// clone reflinks the live file into f when its content is sure to be old's and
// some of that is in e; it returns the chunks that need not be written.
func (w *worker) clone(f *os.File, old, e *replication.Entry) (map[replication.Chunk]struct{}, error) {
	if old == nil || old.Type != replication.TypeFile || old.Link != "" || len(old.Chunks) < 2 {
		return nil, nil
	}
	known, ok := w.stats[e.Path]
	if !ok {
		return nil, nil
	}
	live, err := w.root.Open(e.Path)
	if tree.Vanished(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer live.Close()
	if st, err := tree.FileStat(live); err != nil || st != known {
		return nil, err
	}
	if ok, err := tree.Clone(f, live); err != nil || !ok {
		return nil, err
	}
	keep := make(map[replication.Chunk]struct{}, len(old.Chunks))
	for _, c := range old.Chunks {
		keep[c] = struct{}{}
	}
	return keep, nil
}

// gaps calls do for each run of e that no chunk covers.
func gaps(e *replication.Entry, do func(at, end int64) error) error {
	at := int64(0)
	for _, c := range e.Chunks {
		if c.Offset > at {
			if err := do(at, c.Offset); err != nil {
				return err
			}
		}
		at = c.Offset + c.Length
	}
	if at < e.Size {
		return do(at, e.Size)
	}
	return nil
}

func punchHoles(f *os.File, e *replication.Entry) error {
	return gaps(e, func(at, end int64) error {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, end-at)
		if err != nil {
			return &os.PathError{Op: "punch a hole", Path: f.Name(), Err: err}
		}
		return nil
	})
}

// matches says whether a live file has e's content. How it is laid out in
// extents does not matter: a hole reads as zeros.
func matches(ctx context.Context, f *os.File, e *replication.Entry) (bool, error) {
	buf := make([]byte, min(e.Size, replication.ChunkSize))
	for _, c := range e.Chunks {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		b := buf[:c.Length]
		if _, err := f.ReadAt(b, c.Offset); errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		if replication.Hash(blake3.Sum256(b)) != c.Hash {
			return false, nil
		}
	}
	same := true
	err := gaps(e, func(at, end int64) error {
		for same && at < end {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			data, _, err := tree.NextData(f, at, end)
			if err != nil || data >= end {
				return err
			}
			b := buf[:min(end-data, int64(len(buf)))]
			if _, err := f.ReadAt(b, data); err != nil {
				return err
			}
			same = len(bytes.TrimLeft(b, "\x00")) == 0
			at = data + int64(len(b))
		}
		return nil
	})
	return same, err
}
