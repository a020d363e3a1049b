package capture

import (
	"context"
	"errors"
	"runtime"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// Small files are read whole, several at a time: of a tree of them, opening and closing takes
// longer than hashing, and the processors of a node that waits for its standby have time.
const (
	wholeFile  = replication.ChunkSize // bytes: up to here it is one chunk
	mostAtOnce = 4
)

// readers read small files while whoever finds them goes on.
type readers struct {
	j     *job
	ctx   context.Context
	files chan small
	all   *errgroup.Group
}

type small struct {
	v *volume
	n tree.Node
}

func (j *job) newReaders(ctx context.Context) *readers {
	r := &readers{j: j, files: make(chan small, 64)}
	r.all, r.ctx = errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), mostAtOnce) {
		r.all.Go(func() error {
			var buf []byte
			for s := range r.files {
				if len(buf) < int(s.n.Stat.Size) {
					buf = make([]byte, min(2*int(s.n.Stat.Size), wholeFile))
				}
				if err := j.readWhole(r.ctx, s.v, s.n, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return r
}

// read has a file read; false: one that was before could not be.
func (r *readers) read(v *volume, n tree.Node) bool {
	select {
	case r.files <- small{v, n}:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// wait ends the reading, when all of it is done or because of the first failure.
func (r *readers) wait() error {
	close(r.files)
	return r.all.Wait()
}

// readWhole reads one that is at rest. From several goroutines.
func (j *job) readWhole(ctx context.Context, v *volume, n tree.Node, buf []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e, data, err := v.root.ReadWhole(n.Path, n.Stat, buf)
	if errors.Is(err, errors.ErrUnsupported) {
		return j.readEarly(ctx, v, n)
	}
	if err == nil && len(data) > 0 {
		c := wholeChunk(data)
		e.Chunks = []replication.Chunk{c}
		j.bytes.Add(c.Length)
		if err := j.put(c.Hash, data, nil, 0); err != nil {
			return err
		}
	}
	return j.noteEarly(v, n, &e, moved(v, n, err))
}

// wholeChunk is a file of one chunk.
func wholeChunk(data []byte) replication.Chunk {
	return replication.Chunk{Length: int64(len(data)), Hash: blake3.Sum256(data)}
}

// readEarly reads one of any kind that is at rest.
func (j *job) readEarly(ctx context.Context, v *volume, n tree.Node) error {
	e, err := j.readNow(ctx, v, n, j.put)
	return j.noteEarly(v, n, e, err)
}

// noteEarly keeps what was read before the freeze; what moved meanwhile was not at rest after all.
func (j *job) noteEarly(v *volume, n tree.Node, e *replication.Entry, err error) error {
	if errors.Is(err, errMoved) {
		return nil
	}
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.early.ReplaceOrInsert(reading{node: v.now.Node(n.Path), entry: e})
	v.dirty.Delete(n.Path)
	return nil
}
