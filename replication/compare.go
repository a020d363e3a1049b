package replication

import (
	"encoding/binary"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/zeebo/blake3"
)

// ChangeKind says how a path differs between two generations.
type ChangeKind string

// The kinds.
const (
	Added     ChangeKind = "added"
	Removed   ChangeKind = "removed"
	Modified  ChangeKind = "changed"  // other content, or another type
	Inscribed ChangeKind = "metadata" // mode, owner, time, attributes
	Renamed   ChangeKind = "renamed"  // the same content, gone from one path and new at another
)

// Change is a path that differs between two generations.
type Change struct {
	Kind   ChangeKind
	Volume string
	Path   string // in the newer one; of a removed file in the older one
	From   string // of a renamed one: its old path
	Before *Entry // nil: it was not there
	After  *Entry // nil: it is gone
	Bytes  int64  // of content that the older one has not at that place; 0 for a renamed one
}

// Compare lists what is different in m, compared with base, by volume and path. A
// hard link is compared as one: where it leads. What a directory that was moved holds
// is listed file by file.
func (m *Manifest) Compare(base *Manifest) []Change {
	out := slices.Collect(m.EachChange(base))
	slices.SortStableFunc(out, func(a, b Change) int {
		if c := strings.Compare(a.Volume, b.Volume); c != 0 {
			return c
		}
		return ComparePaths(a.Path, b.Path)
	})
	return out
}

// EachChange is Compare one by one: volume by volume, of each first what is there, by path, then what is gone.
func (m *Manifest) EachChange(base *Manifest) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		d := m.DeltaFrom(base)
		for _, name := range d.Gone {
			v := base.Volume(name)
			for e := range v.Entries.All() {
				if !yield(Change{Kind: Removed, Volume: name, Path: e.Path, Before: e}) {
					return
				}
			}
		}
		for i := range d.Volumes {
			if !compareVolume(&d.Volumes[i], base.Volume(d.Volumes[i].Name), yield) {
				return
			}
		}
	}
}

func compareVolume(d *VolumeDelta, old *Volume, yield func(Change) bool) bool {
	var before *Entries
	if old != nil {
		before = old.Entries
	}
	gone := map[Hash][]*Entry{} // files by content
	for _, path := range d.Del {
		if e := before.Get(path); e != nil && e.hasContent() {
			h := e.contentHash()
			gone[h] = append(gone[h], e)
		}
	}
	moved := map[string]bool{} // old paths
	for _, e := range d.Put {
		c := Change{Volume: d.Name, Path: e.Path, Before: before.Get(e.Path), After: e}
		switch {
		case c.Before != nil && c.Before.SameContent(e):
			c.Kind = Inscribed
		case c.Before != nil:
			c.Kind, c.Bytes = Modified, Fresh(c.Before.Chunks, e.Chunks)
		default:
			c.Kind, c.Bytes = Added, Fresh(nil, e.Chunks)
			if e.hasContent() && len(gone) > 0 {
				if from := take(gone, e); from != nil {
					c.Kind, c.From, c.Before, c.Bytes = Renamed, from.Path, from, 0
					moved[from.Path] = true
				}
			}
		}
		if !yield(c) {
			return false
		}
	}
	for _, path := range d.Del {
		if !moved[path] && !yield(Change{Kind: Removed, Volume: d.Name, Path: path, Before: before.Get(path)}) {
			return false
		}
	}
	return true
}

// take finds where e may have come from, and takes it away: preferably a file whose
// name is the beginning of e's or the same in another directory.
func take(gone map[Hash][]*Entry, e *Entry) *Entry {
	h := e.contentHash()
	list := gone[h]
	if len(list) == 0 {
		return nil
	}
	at := slices.IndexFunc(list, func(o *Entry) bool {
		return strings.HasPrefix(e.Path, o.Path) || path.Base(o.Path) == path.Base(e.Path)
	})
	at = max(at, 0)
	from := list[at]
	gone[h] = slices.Delete(list, at, at+1)
	return from
}

// hasContent says whether the entry is a file by whose content it can be known again.
func (e *Entry) hasContent() bool { return e.Type == TypeFile && e.Link == "" && len(e.Chunks) > 0 }

// contentHash is of what the file's content is made of.
func (e *Entry) contentHash() Hash {
	b := binary.AppendVarint(nil, e.Size)
	for _, c := range e.Chunks {
		b = binary.AppendVarint(b, c.Offset)
		b = binary.AppendVarint(b, c.Length)
		b = binary.AppendVarint(b, c.Skip)
		b = append(b, c.Hash[:]...)
	}
	return Hash(blake3.Sum256(b))
}

// Fresh is how many bytes of to from does not have at the same place.
func Fresh(from, to []Chunk) (n int64) {
	for _, c := range Differing(from, to) {
		n += c.Length
	}
	return n
}

// Differing lists the chunks of to whose content from does not have at the same place.
func Differing(from, to []Chunk) (need []Chunk) {
	for _, c := range to {
		for len(from) > 0 && from[0].Offset+from[0].Length <= c.Offset {
			from = from[1:]
		}
		if len(from) > 0 {
			o := from[0]
			if o.Hash == c.Hash && o.Offset <= c.Offset && o.Offset+o.Length >= c.Offset+c.Length && c.Offset-o.Offset == c.Skip-o.Skip {
				continue
			}
		}
		need = append(need, c)
	}
	return need
}
