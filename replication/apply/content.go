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
	"github.com/understudy-ha/understudy/replication/extent"
	"github.com/understudy-ha/understudy/replication/tree"
)

// inPlace is the size from which a file whose content changed in parts is not
// written anew where clones cannot be had, but patched: it would take the disk
// twice, and its whole length for each change.
const inPlace = 8 << 20

// mostExtents is in how many extents a file may lie to be cloned: that takes 10 to 50 µs for each, and leaves it in
// ever more of them. Beyond it is patched, too.
var mostExtents = 100

// patchSpare is what a file system that shares blocks has to have free beside twice what is patched, bytes: nobody knows
// what that takes, and a clone that finds no room leaves the file whole.
const patchSpare = 64 << 20

// errPatch: the file is to be patched where it is.
var errPatch = errors.New("patch it in place")

// file makes a file that is new or has other content. Where there was none before it is
// written under its own name: a kill leaves a part of it there, but also the journal, with
// which it is written again. What is there is replaced when the new is whole or, where it is large, patched (see patch).
func (w *worker) file(ctx context.Context, old, e *replication.Entry) error {
	if err := w.hook.At("make " + e.Path); err != nil {
		return err
	}
	w.touch(e.Path)
	f, name, err := w.create(old, e)
	if err != nil {
		return err
	}
	if err := errors.Join(w.write(ctx, f, old, e), f.Close()); err != nil {
		err = errors.Join(err, w.near.Remove(name))
		if errors.Is(err, errPatch) {
			return w.patch(ctx, old, e)
		}
		return err
	}
	w.renewed(e)
	if name == e.Path {
		w.done(e.Path)
		return nil
	}
	return w.rename(name, e.Path, w.near.Rename)
}

// create makes the file for e's content, empty: under its own name where nothing is to be
// there and nothing is. After a kill it has the temporary name in any case, because
// what the kill may have left under that is to go.
func (w *worker) create(old, e *replication.Entry) (f *os.File, name string, err error) {
	if old == nil && w.fresh {
		if f, err = w.near.Create(e.Path); !errors.Is(err, unix.EEXIST) {
			return f, e.Path, err
		}
	}
	name = tempName(e.Path)
	if f, err = w.near.Create(name); errors.Is(err, unix.EEXIST) {
		if err = w.clear(name); err == nil {
			f, err = w.near.Create(name)
		}
	}
	return f, name, err
}

// write gives the empty file f e's content and metadata: a clone of the live file with only the
// differences written, where that can be had, else all from the store.
func (w *worker) write(ctx context.Context, f *os.File, old, e *replication.Entry) error {
	need := e.Chunks
	cloned := false
	if live, err := w.live(old, e, os.O_RDONLY); err != nil {
		return err
	} else if live != nil {
		defer live.Close()
		differ := replication.Differing(old.Chunks, e.Chunks)
		patchable := e.Size >= inPlace && total(differ) <= e.Size/2 && old.Flags == 0 // else it is not to be opened
		if patchable && extent.Count(live) > mostExtents && spare(live) > 2*total(differ)+patchSpare {
			return errPatch
		}
		if cloned, err = tree.Clone(f, live); err != nil {
			return err
		}
		if cloned {
			need = differ
		} else if patchable {
			return errPatch
		}
	}
	if cloned || !inOne(e) {
		if err := f.Truncate(e.Size); err != nil {
			return err
		}
	}
	if cloned {
		if err := punchHoles(f, e); err != nil {
			return err
		}
	}
	if err := w.fill(ctx, f, need); err != nil {
		return err
	}
	if err := w.hook.At("meta " + e.Path); err != nil {
		return err
	}
	refused, err := tree.SetFileMeta(f, e)
	w.unkept(e.Path, false, refused)
	return err
}

// spare is what is free on f's file system, bytes; 0 where that cannot be told.
func spare(f *os.File) int64 {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return 0
	}
	return int64(fs.Bavail) * fs.Bsize
}

// inOne says whether an empty file gets its size by e's content being written in one.
func inOne(e *replication.Entry) bool {
	return e.Size == 0 || len(e.Chunks) == 1 && e.Chunks[0].Length == e.Size
}

// patch brings the live file from old's content to e's where it lies. Whoever is
// killed in it finds the journal, and the file's stat is not the known one, or
// all that was written is written again.
func (w *worker) patch(ctx context.Context, old, e *replication.Entry) (err error) {
	if err := w.hook.At("patch " + e.Path); err != nil {
		return err
	}
	f, err := w.live(old, e, os.O_RDWR)
	if err != nil {
		return err
	}
	if f == nil {
		return fmt.Errorf("%q is not as this node left it: find and stop what writes to the standby's volume", e.Path)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w.changed[e.Path] = struct{}{}
	w.res.Changed++
	if err := f.Truncate(e.Size); err != nil {
		return err
	}
	if err := punchHoles(f, e); err != nil {
		return err
	}
	if err := w.fill(ctx, f, replication.Differing(old.Chunks, e.Chunks)); err != nil {
		return err
	}
	return w.setMeta(e.Path, e)
}

// fill writes chunks where they belong.
func (w *worker) fill(ctx context.Context, f *os.File, chunks []replication.Chunk) error {
	for _, c := range chunks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		data, err := w.g.Get(c.Hash)
		if err != nil {
			return err
		}
		if int64(len(data)) < c.Skip+c.Length {
			return fmt.Errorf("chunk %s is %d bytes long, and %d are needed: %w", c.Hash, len(data), c.Skip+c.Length, replication.ErrFormat)
		}
		if err := w.hook.At("fill " + f.Name()); err != nil {
			return err
		}
		shared := int64(0)
		if !w.apart {
			if shared, err = w.g.Share(c.Hash, c.Skip, c.Length, f, c.Offset); err != nil {
				return err
			}
		}
		if _, err := f.WriteAt(data[c.Skip+shared:c.Skip+c.Length], c.Offset+shared); err != nil {
			return err
		}
		w.res.Bytes += c.Length
	}
	return nil
}

// live opens the live file at e's path when its content is sure to be old's, and
// there is more than one chunk to save; else nil.
func (w *worker) live(old, e *replication.Entry, flags int) (*os.File, error) {
	if old == nil || old.Type != replication.TypeFile || old.Link != "" || len(old.Chunks) < 2 {
		return nil, nil
	}
	known, ok := w.stats.Get(e.Path)
	if !ok {
		return nil, nil
	}
	f, err := w.root.OpenAs(e.Path, flags)
	if tree.Vanished(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if st, err := tree.FileStat(f); err != nil || st != known {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func total(chunks []replication.Chunk) (n int64) {
	for _, c := range chunks {
		n += c.Length
	}
	return n
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
func matches(ctx context.Context, g Generations, f *os.File, e *replication.Entry) (bool, error) {
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
		if same, err := isChunk(g, b, c); err != nil || !same {
			return false, err
		}
	}
	return emptyGaps(ctx, f, e)
}

// emptyGaps says whether there is nothing in f where e has no chunks.
func emptyGaps(ctx context.Context, f *os.File, e *replication.Entry) (bool, error) {
	buf := make([]byte, min(e.Size, replication.ChunkSize))
	same, holes := true, tree.NewData(f, e.Size)
	err := gaps(e, func(at, end int64) error {
		for same && at < end {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			data, _, err := holes.Next(at)
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

// isChunk says whether b is c's content. A part of a stored run has no hash of its own.
func isChunk(g Generations, b []byte, c replication.Chunk) (bool, error) {
	if c.Skip == 0 && replication.Hash(blake3.Sum256(b)) == c.Hash {
		return true, nil
	}
	data, err := g.Get(c.Hash)
	if err != nil || int64(len(data)) < c.Skip+c.Length {
		return false, err
	}
	return bytes.Equal(b, data[c.Skip:c.Skip+c.Length]), nil
}
