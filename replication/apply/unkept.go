package apply

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// Unkept counts metadata that this node's system does not take, such as labels and flags.
// It is in the store. However much it is, a line says it.
type Unkept struct {
	kinds map[string]int
	first []string // paths
}

const (
	unkeptKinds = 8    // that are told apart
	unkeptPaths = 3    // that are named
	unkeptMost  = 1000 // paths that are remembered
)

func (u *Unkept) add(volume, path string, what []string) {
	if len(what) == 0 {
		return
	}
	if u.kinds == nil {
		u.kinds = map[string]int{}
	}
	for _, kind := range what {
		if u.kinds[kind] == 0 && len(u.kinds) >= unkeptKinds {
			kind = "other attributes"
		}
		u.kinds[kind]++
	}
	if name := volume + "/" + path; len(u.first) < unkeptPaths && !slices.Contains(u.first, name) {
		u.first = append(u.first, name)
	}
}

// String is a line; empty: everything was taken.
func (u *Unkept) String() string {
	if len(u.kinds) == 0 {
		return ""
	}
	var kinds []string
	for _, kind := range slices.SortedFunc(maps.Keys(u.kinds), func(a, b string) int { return cmp.Or(cmp.Compare(u.kinds[b], u.kinds[a]), strings.Compare(a, b)) }) {
		kinds = append(kinds, fmt.Sprintf("%d × %s", u.kinds[kind], kind))
	}
	return fmt.Sprintf("%s; the first: %s", strings.Join(kinds, ", "), strings.Join(quoted(u.first), ", "))
}

func quoted(paths []string) (out []string) {
	for _, p := range paths {
		out = append(out, strconv.Quote(p))
	}
	return out
}

// remembered is what the live trees do not have of the metadata of the generation that
// they are at: an apply only touches what changed, so it is known from those before.
type remembered struct {
	Volumes map[string]map[string]refusal `json:"volumes"`        // by name, then path, as a Go string: names are bytes
	More    bool                          `json:"more,omitempty"` // than these; until the trees are compared as a whole
	dirty   bool                          // not saved
}

// refusal is what was not taken of a path.
type refusal struct {
	Attributes []string `json:"attributes,omitempty"`
	Flags      []string `json:"flags,omitempty"`
}

func (r *remembered) len() (n int) {
	for _, paths := range r.Volumes {
		n += len(paths)
	}
	return n
}

// set notes what of a path's attributes, or of its flags, was not taken in an attempt.
func (r *remembered) set(volume, path string, flags bool, what []string) {
	if r == nil || len(what) == 0 && len(r.Volumes[volume]) == 0 {
		return
	}
	key := strconv.Quote(path)
	was, known := r.Volumes[volume][key]
	if !known && len(what) > 0 && r.len() >= unkeptMost {
		r.dirty = r.dirty || !r.More
		r.More = true
		return
	}
	now := refusal{what, was.Flags}
	if flags {
		now = refusal{was.Attributes, what}
	}
	switch {
	case slices.Equal(was.Attributes, now.Attributes) && slices.Equal(was.Flags, now.Flags):
		return
	case len(now.Attributes)+len(now.Flags) == 0:
		delete(r.Volumes[volume], key)
	default:
		if r.Volumes[volume] == nil {
			r.Volumes[volume] = map[string]refusal{}
		}
		r.Volumes[volume][key] = now
	}
	r.dirty = true
}

// outdate forgets of what is put and removed what no attempt is made of now.
func (r *remembered) outdate(volume string, put []*replication.Entry, del []string) {
	if r == nil || len(r.Volumes[volume]) == 0 {
		return
	}
	gone := func(path string) {
		r.set(volume, path, false, nil)
		r.set(volume, path, true, nil)
	}
	for _, path := range del {
		gone(path)
	}
	for _, e := range put {
		switch {
		case e.Link != "": // what it has is another path's
			gone(e.Path)
		case e.Flags == 0:
			r.set(volume, e.Path, true, nil)
		}
	}
}

// begin forgets what an apply finds out anew: of volumes that are compared as a whole, and
// of those that are the service's no more.
func (r *remembered) begin(way *way) {
	n := len(r.Volumes)
	maps.DeleteFunc(r.Volumes, func(name string, _ map[string]refusal) bool {
		return way.origin.Volume(name) == nil || way.target.Volume(name) == nil
	})
	r.dirty = r.dirty || len(r.Volumes) != n || r.More && way.origin == nil
	r.More = r.More && way.origin != nil
}

func (r *remembered) String() string {
	var u Unkept
	for _, volume := range slices.Sorted(maps.Keys(r.Volumes)) {
		paths := r.Volumes[volume]
		for _, key := range slices.Sorted(maps.Keys(paths)) {
			path, err := strconv.Unquote(key)
			if err != nil {
				path = key
			}
			u.add(volume, path, append(slices.Clone(paths[key].Attributes), paths[key].Flags...))
		}
	}
	if r.More {
		return strings.TrimPrefix(u.String()+"; and more", "; and ")
	}
	return u.String()
}

func (a *Applier) unkeptPath() string { return filepath.Join(a.dir, "unkept") }

// Unkept says in a line what the live trees do not have of the metadata of the generation
// that they are at, as this system does not take it; empty: nothing. It does not wait
// for an apply under way.
func (a *Applier) Unkept() string { return *a.said.Load() }

func newMemory() *remembered { return &remembered{Volumes: map[string]map[string]refusal{}} }

func (a *Applier) loadUnkept() error {
	a.memory = newMemory()
	b, err := os.ReadFile(a.unkeptPath())
	if err == nil {
		if err = json.Unmarshal(b, a.memory); err != nil || a.memory.Volumes == nil {
			a.memory = newMemory()
			err = fmt.Errorf("%s: %w", a.unkeptPath(), errors.Join(replication.ErrFormat, err))
		}
	}
	said := a.memory.String()
	a.said.Store(&said)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// forgetUnkeptLocked is for trees that are the containers' now, and so what they should be.
func (a *Applier) forgetUnkeptLocked() error {
	a.memory = newMemory()
	a.memory.dirty = a.Unkept() != ""
	return a.saveUnkeptLocked()
}

// saveUnkeptLocked comes before the record says that the trees are at the generation.
func (a *Applier) saveUnkeptLocked() error {
	if !a.memory.dirty {
		return nil
	}
	said := a.memory.String()
	if said == "" {
		if err := durable.Remove(a.unkeptPath(), a.o.Hook); err != nil {
			return err
		}
	} else {
		b, err := json.Marshal(a.memory)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(a.unkeptPath(), b, 0o600, a.o.Hook); err != nil {
			return err
		}
	}
	a.memory.dirty = false
	a.said.Store(&said)
	return nil
}
