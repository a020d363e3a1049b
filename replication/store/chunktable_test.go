package store

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// Hashes that begin alike are not taken for each other, whichever pack they are in; of what is in several the
// first counts.
func TestChunksWhoseHashesBeginAlike(t *testing.T) {
	rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
	hash := func() (h replication.Hash) {
		binary.LittleEndian.PutUint64(h[:], uint64(rnd.IntN(5)))
		h[31] = byte(rnd.IntN(8))
		return h
	}
	table, want := newChunkTable(), map[replication.Hash]where{}
	for range 20 {
		p := &pack{}
		for range rnd.IntN(6) {
			h := hash()
			if _, ok := want[h]; !ok {
				want[h] = where{p, len(p.chunks)}
			}
			p.chunks = append(p.chunks, packChunk{hash: h})
		}
		table.add(p)
	}
	for range 200 {
		h := hash()
		is, ok := table.find(h)
		if should, there := want[h]; ok != there || is != should {
			t.Fatalf("%s: %v, %v; it should be %v, %v", h, is, ok, should, there)
		}
	}
	if _, ok := (&chunkTable{}).find(hash()); ok {
		t.Error("the empty table has something")
	}
}
