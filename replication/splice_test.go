package replication_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/understudy-ha/understudy/replication"
)

// pieces is a file's chunks, in order, with holes between some of them.
func pieces(r *rand.Rand, n int) (cs []replication.Chunk) {
	at := int64(0)
	for range n {
		at += int64(r.IntN(2)) * 4096
		c := replication.Chunk{Offset: at, Length: 4096, Hash: replication.Hash{byte(r.IntN(5))}, Skip: int64(r.IntN(2)) * 4096}
		cs = append(cs, c)
		at += c.Length
	}
	return cs
}

// rewritten is cs with other content in some places: pieces that are replaced, split, go or come.
func rewritten(r *rand.Rand, cs []replication.Chunk, places int) []replication.Chunk {
	cs = slices.Clone(cs)
	for range places {
		if len(cs) == 0 {
			return pieces(r, 3)
		}
		at := r.IntN(len(cs))
		switch r.IntN(5) {
		case 0:
			cs[at].Hash[1]++
		case 1:
			cs = slices.Delete(cs, at, min(len(cs), at+1+r.IntN(3)))
		case 2:
			half := cs[at]
			half.Length /= 2
			cs[at].Offset, cs[at].Length, cs[at].Skip = half.Offset+half.Length, half.Length, cs[at].Skip+half.Length
			cs = slices.Insert(cs, at, half)
		case 3:
			cs = cs[:at]
		case 4:
			end := cs[len(cs)-1]
			end.Offset += end.Length
			cs = append(cs, end)
		}
	}
	return cs
}

func fileOf(path string, cs []replication.Chunk) *replication.Entry {
	e := &replication.Entry{Path: path, Type: replication.TypeFile, Chunks: cs}
	if len(cs) > 0 {
		e.Size = cs[len(cs)-1].Offset + cs[len(cs)-1].Length
	}
	return e
}

// named is what a delta says itself, hash by hash.
func named(d *replication.VolumeDelta) (n int) {
	for range d.Named() {
		n++
	}
	return n
}

// What travels without its chunks gets the same ones again from the base, whatever became of them.
func TestSplicesMakeTheChunks(t *testing.T) {
	r := seeded(t)
	spliced := 0
	for range 2000 {
		from := pieces(r, r.IntN(60))
		to := rewritten(r, from, r.IntN(12))
		a := generation(1, map[string]*replication.Entries{"v": replication.NewEntries(fileOf("f", from), fileOf("g", from))})
		b := generation(2, map[string]*replication.Entries{"v": replication.NewEntries(fileOf("f", to), fileOf("g", from))})
		d := b.DeltaFrom(a)
		vd := &d.Volumes[0]
		if len(vd.Splices) > 0 {
			spliced++
			if n := named(vd); n > len(to)/2 {
				t.Fatalf("%d of %d chunks are named again", n, len(to))
			}
			bare := *vd.Put[0] // as it is read
			bare.Chunks = nil
			vd.Put[0] = &bare
		}
		made, err := d.ApplyTo(a)
		if err != nil {
			t.Fatal(err)
		}
		if got := made[0].Entries.Get("f").Chunks; !slices.Equal(got, to) {
			t.Fatalf("from %v\nmade %v\nnot  %v", from, got, to)
		}
		if !slices.Equal(a.Volume("v").Entries.Get("f").Chunks, from) {
			t.Fatal("the base changed")
		}
	}
	if spliced < 100 {
		t.Errorf("only %d deltas had splices", spliced)
	}
}

// One block of a file in a hundred thousand pieces.
func TestOneChangedPieceIsNamedAlone(t *testing.T) {
	from := pieces(seeded(t), 100_000)
	to := slices.Clone(from)
	to[77_777].Hash[5]++
	a := generation(2, map[string]*replication.Entries{"v": replication.NewEntries(fileOf("f", from))})
	b := generation(4, map[string]*replication.Entries{"v": replication.NewEntries(fileOf("f", to))})
	d := b.DeltaFrom(a)
	if n := named(&d.Volumes[0]); n != 1 {
		t.Errorf("%d chunks are named", n)
	}
}

// Splices that do not fit the base are refused, and nothing panics.
func TestSplicesThatDoNotFit(t *testing.T) {
	base := generation(2, map[string]*replication.Entries{"v": replication.NewEntries(fileOf("f", pieces(seeded(t), 20)))})
	for name, ss := range map[string][]replication.Splice{
		"beyond the end":   {{At: 21}},
		"too many go":      {{At: 19, Del: 2}},
		"before the first": {{At: -1, Del: 1}},
		"fewer than none":  {{At: 1, Del: -1}},
		"backwards":        {{At: 5, Del: 3}, {At: 6, Del: 1}},
		"overflow":         {{At: 1, Del: math.MaxInt}},
	} {
		d := &replication.Delta{Base: base.ID, BaseSum: base.Sum(), Volumes: []replication.VolumeDelta{{
			Name: "v", Put: []*replication.Entry{fileOf("f", nil)}, Splices: map[string][]replication.Splice{"f": ss},
		}}}
		if _, err := d.ApplyTo(base); !errors.Is(err, replication.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
