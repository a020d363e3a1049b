package replication

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/blake3"
)

// Delta is how a generation's volumes differ from those of another, its base.
// What is kept and shipped of a generation is its delta, so that a generation
// costs what changed, whatever the volumes' size.
type Delta struct {
	Base    ID
	BaseSum Hash          // of the base's volumes: a delta fits one content only
	Volumes []VolumeDelta // sorted by Name; a volume that is not here is as in the base
	Gone    []string      // volumes of the base that there are no more, sorted
}

// VolumeDelta is a volume's part of a Delta. Both lists are in the order of
// [ComparePaths] and have no path in common.
type VolumeDelta struct {
	Name    string
	Skipped int      // as in Volume
	Put     []*Entry // new and changed ones
	Del     []string // each entry that is gone, also those below a directory that is
	// Splices is, by the path of an entry of Put, how its chunks come from those that the
	// base has there; encoded instead of them. An entry that is not here has nothing in common.
	Splices map[string][]Splice
}

// Changes counts entries and volumes.
func (d *Delta) Changes() int {
	n := len(d.Gone)
	for _, v := range d.Volumes {
		n += max(1, len(v.Put)+len(v.Del))
	}
	return n
}

// Of is what the delta says of a volume's entries.
func (d *Delta) Of(volume string) (put []*Entry, del []string) {
	for i := range d.Volumes {
		if d.Volumes[i].Name == volume {
			return d.Volumes[i].Put, d.Volumes[i].Del
		}
	}
	return nil, nil
}

// Volume finds a volume of the manifest; nil where there is none.
func (m *Manifest) Volume(name string) *Volume {
	if m == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(m.Volumes, name, func(v Volume, name string) int { return strings.Compare(v.Name, name) })
	if !ok {
		return nil
	}
	return &m.Volumes[i]
}

// Sum is a hash of the volumes' content and metadata; the same for two nodes
// that have the same, however it came to them.
func (m *Manifest) Sum() Hash {
	b := blake3.New()
	for _, v := range m.Volumes {
		sum := v.Entries.Sum()
		fmt.Fprintf(b, "%s\x00%d\x00%x\n", v.Name, v.Skipped, sum[:])
	}
	return Hash(b.Sum(nil))
}

// DeltaFrom is how m differs from base: m's own Delta where that is it, else found
// by comparing. Both must have their volumes.
func (m *Manifest) DeltaFrom(base *Manifest) *Delta {
	sum := base.Sum()
	if d := m.Delta; d != nil && d.Base == base.ID && d.BaseSum == sum {
		return d
	}
	d := &Delta{Base: base.ID, BaseSum: sum}
	for i := range base.Volumes {
		if m.Volume(base.Volumes[i].Name) == nil {
			d.Gone = append(d.Gone, base.Volumes[i].Name)
		}
	}
	for i := range m.Volumes {
		v := &m.Volumes[i]
		vd := VolumeDelta{Name: v.Name, Skipped: v.Skipped}
		old := base.Volume(v.Name)
		if old == nil {
			vd.Put = slices.Collect(v.Entries.All())
		} else {
			vd.Put, vd.Del = Diff(old.Entries, v.Entries)
			vd.Splice(old.Entries)
			if len(vd.Put)+len(vd.Del) == 0 && old.Skipped == v.Skipped {
				continue
			}
		}
		d.Volumes = append(d.Volumes, vd)
	}
	return d
}

// Diff lists how to differs from from: entries to put, and paths that are gone.
func Diff(from, to *Entries) (put []*Entry, del []string) {
	if from == nil {
		return slices.Collect(to.All()), nil
	}
	for e := range to.All() {
		if old := from.Get(e.Path); old == nil || !old.Equal(e) {
			put = append(put, e)
		}
	}
	for e := range from.All() {
		if to.Get(e.Path) == nil {
			del = append(del, e.Path)
		}
	}
	return put, del
}

// ApplyTo gives the volumes of the generation whose delta from base d is; base
// stays as it is. Entries that came without their chunks get them. ErrWrongParent where base is not what d was made from, ErrFormat.
func (d *Delta) ApplyTo(base *Manifest) ([]Volume, error) {
	if base.ID != d.Base || base.Sum() != d.BaseSum {
		return nil, fmt.Errorf("%w: a delta from generation %s with other content than the one here", ErrWrongParent, d.Base)
	}
	vs := slices.DeleteFunc(slices.Clone(base.Volumes), func(v Volume) bool { return slices.Contains(d.Gone, v.Name) })
	if len(base.Volumes)-len(vs) != len(d.Gone) {
		return nil, fmt.Errorf("%w: a delta that takes away volumes that are not in generation %s", ErrFormat, d.Base)
	}
	for i := range d.Volumes {
		vd := &d.Volumes[i]
		at, ok := slices.BinarySearchFunc(vs, vd.Name, func(v Volume, name string) int { return strings.Compare(v.Name, name) })
		if !ok {
			vs = slices.Insert(vs, at, Volume{Name: vd.Name, Entries: NewEntries()})
		}
		es := vs[at].Entries.Clone()
		if err := vd.fill(es); err != nil {
			return nil, err
		}
		for _, path := range vd.Del {
			if es.Get(path) == nil {
				return nil, fmt.Errorf("%w: volume %s, %.300q: taken away, and not in generation %s", ErrFormat, vd.Name, path, d.Base)
			}
			es.Delete(path)
		}
		for _, e := range vd.Put {
			es.Set(e)
		}
		vs[at].Entries, vs[at].Skipped = es, vd.Skipped
	}
	return vs, nil
}
