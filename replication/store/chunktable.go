package store

import (
	"encoding/binary"

	"github.com/understudy-ha/understudy/replication"
)

// where a chunk is.
type where struct {
	pack *pack
	at   int // in pack.chunks
}

func (w where) chunk() packChunk { return w.pack.chunks[w.at] }

// chunkTable finds the chunks of packs. There are as many as a service has files, and the packs have
// their hashes already: it holds but the beginning of each.
type chunkTable struct {
	packs []*pack
	begin map[uint64]place
	alike map[replication.Hash]where // whose hash begins as that of another, which is in begin: rare, unless somebody seeks them
}

// place is where, with the pack by its number.
type place struct{ pack, at uint32 }

func newChunkTable() chunkTable {
	return chunkTable{begin: map[uint64]place{}, alike: map[replication.Hash]where{}}
}

func beginOf(h replication.Hash) uint64 { return binary.LittleEndian.Uint64(h[:]) }

// add is for a pack's chunks; of those that are in another pack, too, that one counts.
func (t *chunkTable) add(p *pack) {
	n := uint32(len(t.packs))
	t.packs = append(t.packs, p)
	for i, c := range p.chunks {
		begin := beginOf(c.hash)
		switch other, taken := t.begin[begin]; {
		case !taken:
			t.begin[begin] = place{n, uint32(i)}
		case t.where(other).chunk().hash != c.hash:
			if _, dup := t.alike[c.hash]; !dup {
				t.alike[c.hash] = where{p, i}
			}
		}
	}
}

func (t *chunkTable) where(p place) where { return where{t.packs[p.pack], int(p.at)} }

// find says where a chunk is. The empty table has none.
func (t *chunkTable) find(h replication.Hash) (where, bool) {
	p, ok := t.begin[beginOf(h)]
	if !ok {
		return where{}, false
	}
	if w := t.where(p); w.chunk().hash == h {
		return w, true
	}
	w, ok := t.alike[h]
	return w, ok
}
