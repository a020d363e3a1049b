package capture

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// After a restart nothing is known of a large file but what the store has: only what changed is sent, and no
// chunk is asked for once for each of the parts that the file uses of it.
func TestScatteredFileAfterRestart(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
			b := newBench(t, treetest.Mount(t, fs))
			f := b.scattered(t, rnd)
			before := map[replication.Hash]bool{}
			for h := range b.sink {
				before[h] = true
			}
			asked := map[replication.Hash]int{}
			b.stored = func(h replication.Hash) ([]byte, error) {
				asked[h]++
				if data, ok := b.sink[h]; ok {
					return data, nil
				}
				return nil, replication.ErrNotFound
			}
			scatter(t, rnd, f, 5)
			b.must(t)
			b.same(t)
			sent := 0
			for h, data := range b.sink {
				if !before[h] {
					sent += len(data)
				}
			}
			if sent > 5*block {
				t.Errorf("%d bytes were sent for 5 blocks", sent)
			}
			for h, n := range asked {
				// A chunk between whose parts another's lie is asked for again.
				if n > 3 {
					t.Errorf("chunk %s, of %d bytes, was asked for %d times", h, len(b.sink[h]), n)
				}
			}
			if len(asked) == 0 {
				t.Error("the store was not asked")
			}
		})
	}
}

// What the store has damaged is sent, also where the file has zeros, and so is what it has lost and the file still has.
func TestDamagedStoreAfterRestart(t *testing.T) {
	rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
	b := newBench(t, treetest.Mount(t, "xfs"))
	f := b.scattered(t, rnd)
	first := b.entry(t, "db").Chunks[0]
	lost := b.entry(t, "db").Chunks[len(b.entry(t, "db").Chunks)/2]
	delete(b.sink, lost.Hash)
	b.stored = func(h replication.Hash) ([]byte, error) {
		if h == first.Hash {
			return nil, replication.ErrBadHash
		}
		if data, ok := b.sink[h]; ok {
			return data, nil
		}
		return nil, replication.ErrNotFound
	}
	_, err := f.WriteAt(make([]byte, first.Length), first.Offset)
	treetest.Must(t, err)
	b.must(t)
	b.same(t)
}

// scattered captures a file that was written to at random between captures, and forgets all but that.
func (b *bench) scattered(t *testing.T, rnd *rand.Rand) *os.File {
	t.Helper()
	b.with = New(Options{Settle: racy})
	treetest.Write(t, b.in("db"), noise(rnd, 2*largeFile+1))
	f, err := os.OpenFile(b.in("db"), os.O_RDWR, 0)
	treetest.Must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	for range 3 {
		b.must(t)
		scatter(t, rnd, f, 50)
	}
	b.must(t)
	if n := len(b.entry(t, "db").Chunks); n < 100 {
		t.Fatalf("the file has only %d pieces", n)
	}
	treetest.Must(t, b.with.Close())
	b.with = nil
	return f
}

// same: what was captured is what the file has.
func (b *bench) same(t *testing.T) {
	t.Helper()
	is, err := os.ReadFile(b.in("db"))
	treetest.Must(t, err)
	if !bytes.Equal(b.content(t, "db"), is) {
		t.Error("something else was captured than the file has")
	}
}
