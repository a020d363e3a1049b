package replication

import (
	"cmp"
	"encoding/binary"
	"iter"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"sync"

	"github.com/google/btree"
	"github.com/zeebo/blake3"
)

// ComparePaths orders as entries are: the root first, then by bytes.
func ComparePaths(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == ".":
		return -1
	case b == ".":
		return 1
	}
	return cmp.Compare(a, b)
}

// Entries are a volume's entries in the order of [ComparePaths], so that a
// directory comes before what it holds. A clone costs nothing and shares with
// the original what neither has changed since: a volume's generations are held
// in memory at the cost of what changed between them. An entry is never changed
// once it is in. The nil Entries are empty, to be read only.
type Entries struct {
	mu     sync.Mutex // Clone marks the original as shared
	byPath *btree.BTreeG[*Entry]
	links  *btree.BTreeG[[2]string] // of each hard link: where to, its path
	sum    digest
}

const degree = 32

// NewEntries makes Entries of a list in any order.
func NewEntries(list ...*Entry) *Entries {
	es := &Entries{
		byPath: btree.NewG(degree, func(a, b *Entry) bool { return ComparePaths(a.Path, b.Path) < 0 }),
		links: btree.NewG(degree, func(a, b [2]string) bool {
			if c := ComparePaths(a[0], b[0]); c != 0 {
				return c < 0
			}
			return ComparePaths(a[1], b[1]) < 0
		}),
	}
	for _, e := range list {
		es.Set(e)
	}
	return es
}

// Clone is the same entries, to be changed without the original.
func (es *Entries) Clone() *Entries {
	if es == nil {
		return NewEntries()
	}
	es.mu.Lock()
	defer es.mu.Unlock()
	return &Entries{byPath: es.byPath.Clone(), links: es.links.Clone(), sum: es.sum}
}

// Len counts.
func (es *Entries) Len() int {
	if es == nil {
		return 0
	}
	return es.byPath.Len()
}

// Get is the entry at path, nil where there is none.
func (es *Entries) Get(path string) *Entry {
	if es == nil {
		return nil
	}
	at := probes.Get().(*Entry)
	at.Path = path
	e, _ := es.byPath.Get(at)
	at.Path = ""
	probes.Put(at)
	return e
}

// probes are what a path is looked for with: as many garbage entries as there are files would lie between those that
// stay, and leave holes in memory that nothing else fits in.
var probes = sync.Pool{New: func() any { return new(Entry) }}

// Set puts e where its path says.
func (es *Entries) Set(e *Entry) {
	if old, was := es.byPath.ReplaceOrInsert(e); was {
		es.forget(old)
	}
	es.sum.add(e.digest())
	if e.Link != "" {
		es.links.ReplaceOrInsert([2]string{e.Link, e.Path})
	}
}

// Delete takes one entry out; not what is below it.
func (es *Entries) Delete(path string) {
	if old, was := es.byPath.Delete(&Entry{Path: path}); was {
		es.forget(old)
	}
}

func (es *Entries) forget(old *Entry) {
	es.sum.sub(old.digest())
	if old.Link != "" {
		es.links.Delete([2]string{old.Link, old.Path})
	}
}

// All goes through the entries in order.
func (es *Entries) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		if es != nil {
			es.byPath.Ascend(yield)
		}
	}
}

// From goes through the entries in order, beginning with the first that is not before path.
func (es *Entries) From(path string) iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		if es != nil {
			es.byPath.AscendGreaterOrEqual(&Entry{Path: path}, yield)
		}
	}
}

// Below goes through what is in the directory dir, at any depth; dir itself is not.
func (es *Entries) Below(dir string) iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		if es == nil {
			return
		}
		prefix := dir + "/"
		if dir == "." {
			prefix = ""
		}
		at := probes.Get().(*Entry)
		at.Path = prefix
		defer func() {
			at.Path = ""
			probes.Put(at)
		}()
		es.byPath.AscendGreaterOrEqual(at, func(e *Entry) bool {
			if e.Path == "." {
				return true
			}
			return strings.HasPrefix(e.Path, prefix) && yield(e)
		})
	}
}

// LinksTo goes through the paths of the hard links whose content is at path.
func (es *Entries) LinksTo(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if es != nil {
			es.links.AscendGreaterOrEqual([2]string{path, "."}, func(l [2]string) bool { return l[0] == path && yield(l[1]) })
		}
	}
}

// Sum is a hash of all entries that can be kept up to date entry by entry: the sum of their hashes
// modulo 2²⁵⁶ (Bellare and Micciancio's AdHash). It tells trees apart that differ by
// accident; it is no proof against somebody who may write all of a tree.
func (es *Entries) Sum() Hash {
	if es == nil {
		return Hash{}
	}
	return es.sum.hash()
}

// digest is a number of 256 bits, the lowest word first.
type digest [4]uint64

func (d *digest) add(o digest) {
	var c uint64
	for i := range d {
		d[i], c = bits.Add64(d[i], o[i], c)
	}
}

func (d *digest) sub(o digest) {
	var c uint64
	for i := range d {
		d[i], c = bits.Sub64(d[i], o[i], c)
	}
}

func (d *digest) hash() (h Hash) {
	for i, w := range d {
		binary.LittleEndian.PutUint64(h[8*i:], w)
	}
	return h
}

// digest hashes an entry; strings and lists carry their length, so that no two entries look the same.
func (e *Entry) digest() (d digest) {
	var small [512]byte
	b := small[:0]
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	number := func(n uint64) { b = binary.AppendUvarint(b, n) }
	text(e.Path)
	number(uint64(e.Type))
	number(uint64(e.Mode) | uint64(e.Flags)<<12)
	number(uint64(e.UID))
	number(uint64(e.GID))
	number(uint64(e.MtimeNs))
	number(uint64(e.Size))
	number(e.Rdev)
	text(e.Target)
	text(e.Link)
	number(uint64(len(e.Xattrs)))
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		text(name)
		text(string(e.Xattrs[name]))
	}
	for _, c := range e.Chunks {
		number(uint64(c.Offset))
		number(uint64(c.Length))
		number(uint64(c.Skip))
		b = append(b, c.Hash[:]...)
	}
	h := blake3.Sum256(b)
	for i := range d {
		d[i] = binary.LittleEndian.Uint64(h[8*i:])
	}
	return d
}

// Equal says whether two entries are the same in everything.
func (e *Entry) Equal(o *Entry) bool { return e == o || e.SameMeta(o) && e.SameContent(o) }

// SameMeta compares type, owner, mode, flags, times and attributes; not content, and not Link.
func (e *Entry) SameMeta(o *Entry) bool {
	return e.Type == o.Type && e.Mode == o.Mode && e.Flags == o.Flags && e.UID == o.UID && e.GID == o.GID && e.MtimeNs == o.MtimeNs &&
		maps.EqualFunc(e.Xattrs, o.Xattrs, slices.Equal[[]byte])
}

// SameContent compares all that changing metadata cannot make the same.
func (e *Entry) SameContent(o *Entry) bool {
	return e.Type == o.Type && e.Size == o.Size && e.Rdev == o.Rdev && e.Target == o.Target && e.Link == o.Link &&
		slices.Equal(e.Chunks, o.Chunks)
}
