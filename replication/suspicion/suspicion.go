// Package suspicion tells an attack on a service's data by how a generation differs
// from the one before it: content that could be compressed has become noise, most files
// have another name, most are gone or empty. What it looks at is cheap: the delta, and
// the lengths that the store knows of its chunks. No content is read.
//
// A big change alone is no attack. A package upgrade replaces files by such that
// compress as well; a vacuum writes a database anew; logs that are rotated get smaller
// when they become noise, where encryption leaves a file as long as it was. What a
// service has done before is held against a share that would stand out elsewhere.
//
// It can be wrong in both directions: an application that begins to encrypt its files
// looks like an attack, and an attacker who changes a few files per generation, or keeps
// what he writes compressible, does not.
package suspicion

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/replication"
)

// Activity is what a generation changed, as it is remembered for those that follow.
type Activity struct {
	Changed int // files with other content under their name, or under their name with a suffix
	Noised  int // of these: could be compressed before, and are noise now
	Renamed int // files whose name changed
	Gone    int // files that are gone or empty
}

// Volume is how a generation changed one volume.
type Volume struct {
	Name    string
	Entries int // files and directories before
	Activity
	Eligible    int            // of Changed: could be compressed before
	NoisedBytes int64          // of the new content of Noised
	Suffixes    map[string]int // of Renamed: the suffix that was added
	before      tally          // of Eligible: the content that was replaced
	after       tally          // and what replaced it
}

// Lengths says how long chunks are as they are stored, and raw, bytes, in the order in
// which they are asked for; 0, 0: not known.
type Lengths func(hs []replication.Hash, each func(i int, stored, raw int64)) error

// tally is how well some content can be compressed.
type tally struct{ stored, raw float64 }

func (t tally) ratio() float64 { return t.stored / max(t.raw, 1) }

// What can be said of a file by its content's lengths.
const (
	leastBytes = 256  // of a file, to be judged
	plain      = 0.85 // stored/raw at most, of what can be compressed
	sparse     = 0.05 // and at least: room that was set aside holds nothing
	noise      = 0.97
	mostPieces = 1 << 18 // chunks that are looked up, of one generation
)

// pair is a file as it was and as it is.
type pair struct {
	was, is       *replication.Entry
	before, after tally
	weight        int // files that it stands for
}

// Measure says how m changes each volume of base, its parent. It costs what
// changed; of very many files some are looked at.
func Measure(m, base *replication.Manifest, lengths Lengths) ([]Volume, error) {
	byVolume := map[string]*changes{}
	for c := range m.EachChange(base) {
		if byVolume[c.Volume] == nil {
			byVolume[c.Volume] = &changes{}
		}
		byVolume[c.Volume].note(c)
	}
	var out []Volume
	for i := range base.Volumes {
		v := &base.Volumes[i]
		changes := byVolume[v.Name]
		if changes == nil || m.Volume(v.Name) == nil { // a volume that is not the service's any more was not attacked
			continue
		}
		r := Volume{Name: v.Name, Entries: v.Entries.Len() - 1, Suffixes: map[string]int{}}
		pairs := r.sort(changes)
		if err := weigh(pairs, lengths); err != nil {
			return nil, err
		}
		for _, p := range pairs {
			r.add(p)
		}
		out = append(out, r)
	}
	return out, nil
}

// changes are a volume's, in order. Nothing but new files may be as many as it has files.
type changes struct {
	come  []*replication.Entry // new files that are not empty
	other []replication.Change
}

func (cs *changes) note(c replication.Change) {
	switch {
	case c.Kind == replication.Added && isFile(c.After) && c.After.Size > 0:
		cs.come = append(cs.come, c.After)
	case c.Kind != replication.Added && c.Kind != replication.Inscribed:
		cs.other = append(cs.other, c)
	}
}

// sort counts what can be told by names alone, and pairs what has come or changed with
// what was there before: under its name, under the beginning of its name, and what is
// left by the same name elsewhere, by the same extension, and by size.
func (v *Volume) sort(cs *changes) (pairs []*pair) {
	gone := map[string]*replication.Entry{} // files, by path
	emptied := map[string]bool{}            // of these: still there, without content
	for _, c := range cs.other {
		switch {
		case !isFile(c.Before) || c.Before.Size == 0:
		case c.Kind == replication.Removed:
			gone[c.Path] = c.Before
		case c.Kind == replication.Modified && isFile(c.After) && c.After.Size == 0:
			gone[c.Path], emptied[c.Path] = c.Before, true
		}
	}
	there := cs.other
	if len(gone) > 0 { // else what is new takes no place
		there = slices.Clone(there)
		for _, e := range cs.come {
			there = append(there, replication.Change{Kind: replication.Added, Path: e.Path, After: e})
		}
		slices.SortStableFunc(there, func(a, b replication.Change) int { return replication.ComparePaths(a.Path, b.Path) })
	}
	var come []*replication.Entry
	for _, c := range there {
		if !isFile(c.After) || c.After.Size == 0 {
			continue
		}
		from := suffixed(c.Path, gone)
		switch {
		case c.Kind == replication.Renamed:
			v.renamed(c.From, c.Path)
		case c.Kind == replication.Modified && isFile(c.Before):
			pairs = append(pairs, &pair{was: c.Before, is: c.After})
			if emptied[from] { // rotated on
				delete(gone, from)
			}
		case c.Kind == replication.Added && from != "":
			pairs = append(pairs, &pair{was: gone[from], is: c.After})
			delete(gone, from)
			if !emptied[from] {
				v.renamed(from, c.Path)
			}
		case c.Kind == replication.Added:
			come = append(come, c.After)
		}
	}
	left := slices.Collect(maps.Values(gone))
	for _, key := range []func(string) string{path.Base, path.Ext, func(string) string { return "" }} {
		var more []*pair
		more, left, come = match(left, come, key)
		pairs = append(pairs, more...)
	}
	v.Gone += len(left)
	return pairs
}

// match pairs what has the same key, in the order of size, and gives what is left.
func match(gone, come []*replication.Entry, key func(string) string) (pairs []*pair, restGone, restCome []*replication.Entry) {
	slices.SortFunc(gone, bySize)
	slices.SortFunc(come, bySize)
	there := map[string][]*replication.Entry{}
	for _, e := range gone {
		there[key(e.Path)] = append(there[key(e.Path)], e)
	}
	for _, e := range come {
		k := key(e.Path)
		if len(there[k]) == 0 {
			restCome = append(restCome, e)
			continue
		}
		pairs = append(pairs, &pair{was: there[k][0], is: e})
		there[k] = there[k][1:]
	}
	for _, es := range there {
		restGone = append(restGone, es...)
	}
	return pairs, restGone, restCome
}

func bySize(a, b *replication.Entry) int {
	return cmp.Or(cmp.Compare(a.Size, b.Size), strings.Compare(a.Path, b.Path))
}

func isFile(e *replication.Entry) bool {
	return e != nil && e.Type == replication.TypeFile && e.Link == ""
}

// suffixed finds the file that is gone and whose name the path goes on.
func suffixed(p string, gone map[string]*replication.Entry) string {
	base := len(p) - len(path.Base(p))
	for i := len(p) - 1; i > base; i-- {
		if p[i] == '.' || p[i] == '_' || p[i] == '-' {
			if _, ok := gone[p[:i]]; ok {
				return p[:i]
			}
		}
	}
	return ""
}

// renamed counts a file that has another name. One that only moved has not, nor one
// that was rotated or compressed: its suffix counts up, is a date or a compressor's; nor
// mail whose suffix says that it was read.
func (v *Volume) renamed(from, to string) {
	was, is := path.Base(from), path.Base(to)
	if was == is {
		return
	}
	suffix, longer := strings.CutPrefix(is, was)
	if longer && (rotated(suffix) || strings.ContainsAny(suffix, ":,")) {
		return
	}
	v.Renamed++
	if longer {
		v.Suffixes[suffix]++
	}
}

func rotated(suffix string) bool {
	for _, c := range []string{".gz", ".xz", ".zst", ".bz2", ".lz4"} {
		suffix = strings.TrimSuffix(suffix, c)
	}
	return strings.Trim(suffix, ".-_0123456789") == ""
}

// weigh looks up how well the contents of pairs that differ can be compressed.
func weigh(pairs []*pair, lengths Lengths) error {
	type piece struct {
		of     *tally
		length int64
	}
	var hs []replication.Hash
	var pieces []piece
	add := func(to *tally, chunks []replication.Chunk) {
		for _, c := range chunks[:min(len(chunks), 4096)] {
			hs, pieces = append(hs, c.Hash), append(pieces, piece{to, c.Length})
		}
	}
	step := 1 + len(pairs)/(mostPieces/8)
	for i := 0; i < len(pairs) && len(hs) < mostPieces; i += step {
		p := pairs[i]
		p.weight = step
		add(&p.before, replication.Differing(p.is.Chunks, p.was.Chunks))
		add(&p.after, replication.Differing(p.was.Chunks, p.is.Chunks))
	}
	return lengths(hs, func(i int, stored, raw int64) {
		if raw > 0 {
			t, n := pieces[i].of, float64(pieces[i].length)
			t.raw += n
			t.stored += n * float64(stored) / float64(raw)
		}
	})
}

// add judges one file.
func (v *Volume) add(p *pair) {
	if p.weight == 0 {
		return // another stands for it
	}
	v.Changed += p.weight
	if p.before.stored >= 2*leastBytes && p.after.raw >= p.before.raw/2 && p.after.stored*20 <= p.before.stored { // zeroes
		v.Gone += p.weight
	}
	r := p.before.ratio()
	if p.before.raw < leastBytes || r < sparse || r > plain || p.after.raw == 0 {
		return
	}
	v.Eligible += p.weight
	w := float64(p.weight)
	v.before.raw, v.before.stored = v.before.raw+w*p.before.raw, v.before.stored+w*p.before.stored
	v.after.raw, v.after.stored = v.after.raw+w*p.after.raw, v.after.stored+w*p.after.stored
	// What was only compressed holds no more than before; what was encrypted seems to.
	if p.after.ratio() >= noise && p.after.stored >= 1.15*p.before.stored && p.is.Size >= p.was.Size/2 {
		v.Noised += p.weight
		v.NoisedBytes += int64(w * p.after.raw)
	}
}
