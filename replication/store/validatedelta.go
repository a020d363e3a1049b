package store

import (
	"fmt"
	"slices"

	"github.com/understudy-ha/understudy/replication"
)

// validateDelta checks m and its delta, when m has its volumes already.
func validateDelta(m *replication.Manifest) error {
	if err := validateHeader(m); err != nil {
		return err
	}
	if err := validateDeltaHeader(m); err != nil {
		return err
	}
	var b budget
	last := ""
	for _, v := range m.Delta.Volumes {
		dv, err := newDeltaValidator(v.Name, last, v.Skipped, &b)
		if err != nil {
			return err
		}
		last = v.Name
		for _, e := range v.Put {
			if err := dv.put(e, v.Splices[e.Path]); err != nil {
				return err
			}
		}
		for _, path := range v.Del {
			if err := dv.del(path); err != nil {
				return err
			}
		}
	}
	return validateResult(m)
}

func validateDeltaHeader(m *replication.Manifest) error {
	d := m.Delta
	if d.Base.Term == 0 || d.Base.Seq == 0 || d.Base.Compare(m.ID) >= 0 {
		return fmt.Errorf("%w: generation %s as a delta from %s", replication.ErrFormat, m.ID, d.Base)
	}
	last := ""
	for _, name := range d.Gone {
		if err := ValidName("volume", name); err != nil {
			return err
		}
		if name <= last {
			return fmt.Errorf("%w: volume %s after %s: not sorted", replication.ErrFormat, name, last)
		}
		last = name
	}
	return nil
}

// deltaValidator is fed a volume's delta in order, and looks at each item alone.
type deltaValidator struct {
	volumeValidator
	puts    []string // in order
	lastPut string
	lastDel string
}

func newDeltaValidator(name, last string, skipped int, b *budget) (*deltaValidator, error) {
	v, err := newVolumeValidator(name, last, skipped, nil, b)
	if err != nil {
		return nil, err
	}
	return &deltaValidator{volumeValidator: *v}, nil
}

func (v *deltaValidator) put(e *replication.Entry, ss []replication.Splice) error {
	if err := v.count(e); err != nil {
		return err
	}
	if err := v.splices(e, ss); err != nil {
		return err
	}
	if err := v.follows(e.Path, &v.lastPut); err != nil {
		return v.bad(replication.ErrBadPath, e, "%s", err)
	}
	v.puts = append(v.puts, e.Path)
	if e.Path == "." && e.Type != replication.TypeDir {
		return v.bad(replication.ErrFormat, e, "the root must be a directory")
	}
	if e.Link == "" {
		return v.alone(e)
	}
	if err := checkPath(e.Link); err != nil || e.Type == replication.TypeDir {
		return v.bad(replication.ErrBadPath, e, "hard link of type %d to %.300q", e.Type, e.Link)
	}
	return v.bareLink(e)
}

// splices are looked at without the base's chunks; validateTouched sees what they make of them.
func (v *deltaValidator) splices(e *replication.Entry, ss []replication.Splice) error {
	if len(ss) > 0 && (e.Type != replication.TypeFile || e.Link != "") {
		return v.bad(replication.ErrFormat, e, "splices in what is not a file")
	}
	end := -1
	for _, s := range ss {
		if s.At <= end || s.Del < 0 || s.At > maxChunks || s.Del > maxChunks || s.Del+len(s.Put) == 0 {
			return v.bad(replication.ErrFormat, e, "a splice of %d chunks for %d at %d", len(s.Put), s.Del, s.At)
		}
		end = s.At + s.Del
		if v.budget.chunks += 1 + len(s.Put); v.budget.chunks > maxChunks {
			return v.bad(replication.ErrFormat, e, "more than %d chunks", maxChunks)
		}
	}
	return nil
}

func (v *deltaValidator) del(path string) error {
	e := &replication.Entry{Path: path}
	if err := v.count(e); err != nil {
		return err
	}
	if path == "." {
		return v.bad(replication.ErrFormat, e, "the root is taken away")
	}
	if err := v.follows(path, &v.lastDel); err != nil {
		return v.bad(replication.ErrBadPath, e, "%s", err)
	}
	if _, ok := slices.BinarySearchFunc(v.puts, path, replication.ComparePaths); ok {
		return v.bad(replication.ErrFormat, e, "put and taken away")
	}
	return nil
}

// follows checks a path, and that it comes after the last one.
func (v *deltaValidator) follows(path string, last *string) error {
	before := *last
	*last = path
	if path == "." && before == "" {
		return nil
	}
	if err := checkPath(path); err != nil {
		return err
	}
	if before != "" && replication.ComparePaths(path, before) <= 0 {
		return fmt.Errorf("not sorted")
	}
	return nil
}

// validateResult checks what a delta made of its base, where it touched it: that
// it is a tree, and that hard links lead to files.
func validateResult(m *replication.Manifest) error {
	if len(m.Volumes) > maxVolumes {
		return fmt.Errorf("%w: more than %d volumes", replication.ErrFormat, maxVolumes)
	}
	total := 0
	for i := range m.Volumes {
		total += m.Volumes[i].Entries.Len()
	}
	if total > maxEntries {
		return fmt.Errorf("%w: generation %s: more than %d entries", replication.ErrFormat, m.ID, maxEntries)
	}
	for i := range m.Delta.Volumes {
		vd := &m.Delta.Volumes[i]
		v := m.Volume(vd.Name)
		if v == nil || v.Skipped != vd.Skipped {
			return fmt.Errorf("%w: generation %s: volume %s is not as its delta says", replication.ErrFormat, m.ID, vd.Name)
		}
		if err := validateTouched(v, vd); err != nil {
			return err
		}
	}
	return nil
}

func validateTouched(v *replication.Volume, d *replication.VolumeDelta) error {
	es := v.Entries
	alone := &volumeValidator{volume: v.Name}
	bad := alone.bad
	if root := es.Get("."); root == nil || root.Type != replication.TypeDir {
		return fmt.Errorf("%w: volume %s has no root", replication.ErrFormat, v.Name)
	}
	for _, e := range d.Put {
		if es.Get(e.Path) != e {
			return bad(replication.ErrFormat, e, "is not in the generation")
		}
		if len(d.Splices[e.Path]) > 0 { // only now it has its chunks
			if err := alone.fields(e); err != nil {
				return err
			}
		}
		if parent := es.Get(parentOf(e.Path)); e.Path != "." && (parent == nil || parent.Type != replication.TypeDir) {
			return bad(replication.ErrBadPath, e, "is not in a directory")
		}
		if e.Type != replication.TypeDir {
			for below := range es.Below(e.Path) {
				return bad(replication.ErrBadPath, below, "is not in a directory")
			}
		}
		if err := validateLinks(es, e); err != nil {
			return bad(replication.ErrBadPath, e, "%s", err)
		}
	}
	for _, path := range d.Del {
		for below := range es.Below(path) {
			return bad(replication.ErrBadPath, below, "is not in a directory")
		}
		for l := range es.LinksTo(path) {
			return bad(replication.ErrBadPath, &replication.Entry{Path: l}, "hard link to %q, which is gone", path)
		}
	}
	return nil
}

// validateLinks checks where e links to, and what links to e.
func validateLinks(es *replication.Entries, e *replication.Entry) error {
	sound := func(path string, t replication.Type, to string) error {
		target := es.Get(to)
		if target == nil || target.Type != t || target.Link != "" || t == replication.TypeDir || replication.ComparePaths(to, path) >= 0 {
			return fmt.Errorf("hard link %.300q to %.300q, which is not an earlier file of that type", path, to)
		}
		return nil
	}
	if e.Link != "" {
		for l := range es.LinksTo(e.Path) {
			return fmt.Errorf("hard link %.300q to a hard link", l)
		}
		return sound(e.Path, e.Type, e.Link)
	}
	for l := range es.LinksTo(e.Path) {
		if err := sound(l, es.Get(l).Type, e.Path); err != nil {
			return err
		}
	}
	return nil
}
