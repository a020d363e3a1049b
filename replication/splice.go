package replication

import (
	"fmt"
	"iter"
	"slices"
)

// Splice is a place where a file's chunks are others than in a delta's base: at index At
// of the base's list, Put comes instead of Del chunks.
type Splice struct {
	At  int     `cbor:"1,keyasint"`
	Del int     `cbor:"2,keyasint,omitempty"`
	Put []Chunk `cbor:"3,keyasint,omitempty"`
}

// spliceMin is how many chunks a list has at least that is worth the trouble.
const spliceMin = 16

// Splice finds the files of Put whose chunks are mostly as they are in from, the
// volume's entries in the base: a file that is in many pieces, after many changes,
// costs a generation what changed in it, not its whole list.
func (d *VolumeDelta) Splice(from *Entries) {
	for _, e := range d.Put {
		old := from.Get(e.Path)
		if old == nil || len(e.Chunks) < spliceMin {
			continue
		}
		ss := splices(old.Chunks, e.Chunks)
		cost := 0
		for _, s := range ss {
			cost += 1 + len(s.Put)
		}
		if len(ss) == 0 || cost > len(e.Chunks)/2 {
			continue
		}
		if d.Splices == nil {
			d.Splices = map[string][]Splice{}
		}
		d.Splices[e.Path] = ss
	}
}

// splices is how to comes from from. Both are in the order of their offsets, so what
// they have in common is at the same one.
func splices(from, to []Chunk) (ss []Splice) {
	same := func(i, j int) bool { return i < len(from) && j < len(to) && from[i] == to[j] }
	for i, j := 0, 0; i < len(from) || j < len(to); {
		if same(i, j) {
			i, j = i+1, j+1
			continue
		}
		at, begin := i, j
		for (i < len(from) || j < len(to)) && !same(i, j) {
			switch {
			case j == len(to) || i < len(from) && from[i].Offset < to[j].Offset:
				i++
			case i == len(from) || to[j].Offset < from[i].Offset:
				j++
			default:
				i, j = i+1, j+1
			}
		}
		ss = append(ss, Splice{At: at, Del: i - at, Put: to[begin:j]})
	}
	return ss
}

// spliced is from after ss; ErrFormat where they do not fit it.
func spliced(from []Chunk, ss []Splice) ([]Chunk, error) {
	var to []Chunk
	at := 0
	for _, s := range ss {
		if s.At < at || s.At > len(from) || s.Del < 0 || s.Del > len(from)-s.At {
			return nil, fmt.Errorf("%w: %d chunks from the %dth on are changed, the base has %d", ErrFormat, s.Del, s.At, len(from))
		}
		to = append(append(to, from[at:s.At]...), s.Put...)
		at = s.At + s.Del
	}
	return slices.Clip(append(to, from[at:]...)), nil
}

// fill gives the entries of Put that were read without their chunks those of from, the
// volume's entries in the base, with what is changed in them.
func (d *VolumeDelta) fill(from *Entries) error {
	for _, e := range d.Put {
		ss, ok := d.Splices[e.Path]
		if !ok || len(e.Chunks) > 0 {
			continue
		}
		old := from.Get(e.Path)
		if old == nil {
			return fmt.Errorf("%w: volume %s, %.300q: changed chunks of a file that the base has not", ErrFormat, d.Name, e.Path)
		}
		chunks, err := spliced(old.Chunks, ss)
		if err != nil {
			return fmt.Errorf("volume %s, %.300q: %w", d.Name, e.Path, err)
		}
		e.Chunks = chunks
	}
	return nil
}

// Named goes through the chunks that the delta names itself: of the files of Put all but
// those that the base has in the same place of the same file.
func (d *VolumeDelta) Named() iter.Seq[Chunk] {
	return func(yield func(Chunk) bool) {
		each := func(cs []Chunk) bool {
			for _, c := range cs {
				if !yield(c) {
					return false
				}
			}
			return true
		}
		for _, e := range d.Put {
			ss, ok := d.Splices[e.Path]
			if !ok && !each(e.Chunks) {
				return
			}
			for _, s := range ss {
				if !each(s.Put) {
					return
				}
			}
		}
	}
}
