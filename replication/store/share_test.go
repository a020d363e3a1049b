package store

import (
	"errors"
	"os"
	"testing"

	"github.com/understudy-ha/understudy/replication"
)

// Long raw chunks are where blocks can be shared, whatever lies between them, and a
// pack carries nothing in the gaps.
func TestLongRawChunksAreAligned(t *testing.T) {
	home, away := open(t, t.TempDir(), Options{}), open(t, t.TempDir(), Options{})
	data := [][]byte{[]byte("short"), noise(1, shareFrom), noise(2, shareFrom+7), make([]byte, shareFrom), noise(3, 1<<20), noise(4, shareFrom-1)}
	ps := put(t, home, data...)
	f, err := os.Open(ps[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunks, err := readPackIndex(f, ps[0].Size)
	if err != nil || len(chunks) != len(data) {
		t.Fatalf("%d chunks, %v", len(chunks), err)
	}
	gap := int64(0)
	for i, c := range chunks {
		if long := i == 1 || i == 2 || i == 4; long != c.shareable() || long && c.offset()%packAlign != 0 {
			t.Errorf("chunk %d of %d bytes begins at %d and is stored in %d", i, len(data[i]), c.offset(), c.stored)
		}
		if b, err := home.Get(c.hash); err != nil || hashOf(b) != hashOf(data[i]) {
			t.Errorf("chunk %d: %v", i, err)
		}
		if i == 1 {
			gap = c.offset() - 1
		}
	}
	err = receive(t, away, ps[0], func(b []byte) []byte { b[gap] = 1; return b })
	if !errors.Is(err, replication.ErrBadHash) {
		t.Errorf("a pack with content in a gap: %v", err)
	}
	if err := receive(t, away, ps[0], nil); err != nil {
		t.Error(err)
	}
}

// Share says no, rather than anything wrong, to what cannot be shared.
func TestShareRefuses(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	long, zeros := noise(1, 2*shareFrom), make([]byte, 2*shareFrom)
	put(t, s, long, zeros)
	f, err := os.Create(t.TempDir() + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		what             string
		h                replication.Hash
		skip, length, at int64
	}{
		{"a chunk that is compressed", hashOf(zeros), 0, 2 * shareFrom, 0},
		{"a part that begins within a block", hashOf(long), 1, shareFrom, 0},
		{"a place within a block", hashOf(long), 0, 2 * shareFrom, 511},
		{"too little", hashOf(long), 0, shareFrom - 1, 0},
		{"a chunk that is not there", hashOf([]byte("no")), 0, 2 * shareFrom, 0},
	} {
		if n, err := s.Share(c.h, c.skip, c.length, f, c.at); n != 0 || err != nil {
			t.Errorf("%s: %d bytes, %v", c.what, n, err)
		}
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != 0 {
		t.Errorf("the file has %d bytes, %v", fi.Size(), err)
	}
}
