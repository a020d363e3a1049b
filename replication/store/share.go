package store

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// What is stored raw need not lie on the disk twice, in a pack and in a live tree: on
// the active node a pack takes over the blocks of the clone that a large file was read
// from, on a standby a live file those of the pack. Whoever writes to a live file gets
// blocks of its own from the file system, so a pack stays as it is. What is lost with
// it: a sector that goes bad is bad in both, and only the other node has it still.

// shareFrom is the least that is shared, bytes: less would scatter a file more than
// it saves.
const shareFrom = 64 << 10

func (c packChunk) shareable() bool { return c.flags == 0 && c.stored >= shareFrom }

// share goes on with n bytes of from at offset at, sharing their blocks, and says how
// many it could.
func (p *openedPack) share(from *os.File, at, n int64) (int64, error) {
	if n &^= packAlign - 1; at%packAlign != 0 {
		return 0, nil
	}
	if err := p.w.Flush(); err != nil {
		return 0, err
	}
	shared, err := tree.CloneRange(p.f, p.at, from, at, n)
	if err != nil || !shared {
		return 0, err
	}
	p.at += n
	_, err = p.f.Seek(p.at, io.SeekStart)
	return n, err
}

// Shares is what Share would give for a file on the store's own file system, where that shares blocks.
func (s *Store) Shares(h replication.Hash, skip, length, at int64) (int64, error) {
	_, n, err := s.shares(h, skip, length, at)
	return n, err
}

func (s *Store) shares(h replication.Hash, skip, length, at int64) (w where, n int64, err error) {
	if length &^= packAlign - 1; s.o.Apart || length < shareFrom || skip%packAlign != 0 || at%packAlign != 0 {
		return w, 0, nil
	}
	w, ok, err := s.index.find(h)
	if err != nil || !ok || !w.chunk().shareable() || w.chunk().offset()%packAlign != 0 {
		return w, 0, err
	}
	return w, length, nil
}

// Share puts the first bytes of a part of a chunk at offset at of f, by sharing their
// blocks, and says how many: 0 where it cannot. skip and length, bytes, are the part.
// The content is not verified: Get does.
func (s *Store) Share(h replication.Hash, skip, length int64, f *os.File, at int64) (int64, error) {
	w, length, err := s.shares(h, skip, length, at)
	if err != nil || length == 0 {
		return 0, err
	}
	pack, err := os.Open(w.pack.path())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // swept, or written anew with others
	}
	if err != nil {
		return 0, err
	}
	defer pack.Close()
	shared, err := tree.CloneRange(f, at, pack, w.chunk().offset()+skip, length)
	if err != nil || !shared {
		return 0, err
	}
	return length, nil
}
