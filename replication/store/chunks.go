package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// ParseHash reads Hash.String's form: 64 lower-case hex digits. ErrFormat.
func ParseHash(text string) (h replication.Hash, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) || hex.EncodeToString(b) != text {
		return h, fmt.Errorf("%w: %.80q is not a hash of 64 hex digits", replication.ErrFormat, text)
	}
	return replication.Hash(b), nil
}

// Has says whether the chunk is in a verified pack.
func (s *Store) Has(h replication.Hash) bool {
	_, ok, err := s.index.find(h)
	return ok && err == nil
}

// Missing returns those of hs that are not in the store, in order, each once.
func (s *Store) Missing(hs []replication.Hash) ([]replication.Hash, error) {
	var out []replication.Hash
	seen := map[replication.Hash]struct{}{}
	err := s.index.finding(func(find func(replication.Hash) (where, bool)) {
		for _, h := range hs {
			if _, ok := find(h); ok {
				continue
			}
			if _, dup := seen[h]; !dup {
				seen[h] = struct{}{}
				out = append(out, h)
			}
		}
	})
	return out, err
}

// Get reads a chunk and verifies it. ErrNotFound, ErrBadHash.
func (s *Store) Get(h replication.Hash) ([]byte, error) {
	for try := 0; ; try++ {
		w, ok, err := s.index.known(h)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("chunk %s: %w", h, replication.ErrNotFound)
		}
		data, err := s.getFrom(w, s.reading.read)
		if damaged := new(DamagedPack); errors.As(err, &damaged) {
			// The other process may have put a good one in its place since it was opened.
			s.reading.forget()
			data, err = s.getFrom(w, readStored)
		}
		if errors.Is(err, fs.ErrNotExist) && try == 0 {
			// Swept, or written anew with others: another pack may have it.
			if err := s.index.look(); err != nil {
				return nil, err
			}
			continue
		}
		return data, err
	}
}

func (s *Store) getFrom(w where, read func(where) ([]byte, error)) ([]byte, error) {
	stored, err := read(w)
	if err != nil {
		return nil, w.damaged(err)
	}
	data, err := s.codec.unpack(stored, w.chunk())
	if err != nil {
		return nil, &DamagedPack{w.pack.hash, err}
	}
	return data, nil
}

// damaged is what an error of reading says of the pack.
func (w where) damaged(err error) error {
	if errors.Is(err, unix.EIO) || errors.Is(err, io.EOF) {
		return &DamagedPack{w.pack.hash, err}
	}
	return err
}

// known is find without a look at the directory where the chunk was seen before: packs
// do not change, and one that was swept is not found when it is opened.
func (x *chunkIndex) known(h replication.Hash) (where, bool, error) {
	x.mu.Lock()
	w, ok := x.chunks.find(h)
	x.mu.Unlock()
	if ok {
		return w, ok, nil
	}
	return x.find(h)
}

func readStored(w where) ([]byte, error) {
	f, err := os.Open(w.pack.path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, w.chunk().stored)
	if _, err := f.ReadAt(b, w.chunk().offset()); err != nil {
		return nil, err
	}
	return b, nil
}
