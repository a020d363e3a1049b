package capture

import (
	"bytes"
	"context"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/extent"
)

// compareStored finds where the first size bytes of f differ from chunks whose content get has: when a
// restart or a takeover lost the shadows, this is dearer, and still cheaper than to send all chunks
// that something changed in: with scattered writes that is the whole file. What the store does not have (any more), or
// cannot read where it has to, differs.
func compareStored(ctx context.Context, f content, size int64, chunks []replication.Chunk, has func(replication.Hash) bool, get func(replication.Hash) ([]byte, error)) (ranges []extent.Range, err error) {
	differ := func(from, to int64) {
		if n := len(ranges); n > 0 && ranges[n-1].Offset+ranges[n-1].Length >= from {
			ranges[n-1].Length = to - ranges[n-1].Offset
		} else if from < to {
			ranges = append(ranges, extent.Range{Offset: from, Length: to - from})
		}
	}
	buf := make([]byte, replication.ChunkSize)
	at := int64(0)
	holes := f.data(size)
	gap := func(end int64) error { // a hole, or it differs
		if at >= end {
			return nil
		}
		data, _, err := holes.Next(at)
		if err == nil && data < end {
			differ(data, end)
		}
		return err
	}
	parts := chunkParts{get: get}
	for _, c := range chunks {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if c.Offset >= size {
			break
		}
		if err := gap(c.Offset); err != nil {
			return nil, err
		}
		b := buf[:min(c.Length, size-c.Offset)]
		if _, err := f.ReadAt(b, c.Offset); err != nil {
			return nil, err
		}
		at = c.Offset + int64(len(b))
		if c.Skip == 0 && replication.Hash(blake3.Sum256(b)) == c.Hash && has(c.Hash) {
			continue
		}
		was, ok := parts.of(c)
		for k := 0; k < len(b); k += block {
			end := min(k+block, len(b))
			if !ok || !bytes.Equal(b[k:end], was[k:end]) {
				differ(c.Offset+int64(k), c.Offset+int64(end))
			}
		}
	}
	if err := gap(size); err != nil {
		return nil, err
	}
	return ranges, nil
}

// chunkParts has the content of chunks that entries use parts of. A file that is written to at random has
// many parts of the same chunk one after another, small chunks of their own in between: the
// chunk is got, and so verified, once for all of them.
type chunkParts struct {
	get   func(replication.Hash) ([]byte, error)
	hash  replication.Hash // of the last chunk that only a part was used of
	chunk []byte           // nil: none yet, or it cannot be had
	tried bool
}

// of is the part of a chunk that c is; false: it cannot be had.
func (p *chunkParts) of(c replication.Chunk) ([]byte, bool) {
	chunk := p.chunk
	if !p.tried || c.Hash != p.hash {
		var err error
		if chunk, err = p.get(c.Hash); err != nil {
			chunk = nil // the store is damaged, and scrubbing mends that
		}
		if chunk == nil || int64(len(chunk)) > c.Length {
			p.hash, p.chunk, p.tried = c.Hash, chunk, true
		}
	}
	if int64(len(chunk)) < c.Skip+c.Length {
		return nil, false
	}
	return chunk[c.Skip:], true
}
