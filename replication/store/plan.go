package store

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/replication"
)

// plan is what a Prune is about to do. It is made without the store's lock, which
// commits need: they only add, and what they add is looked at again under the lock.
type plan struct {
	ids     []replication.ID // that were committed then, in order
	at      []stamp          // of each
	keep    map[replication.ID]bool
	encoded map[string][]byte             // manifests, by path, that get another base
	refs    map[replication.Hash]struct{} // chunks that are needed
	seen    map[string]fs.FileInfo        // manifests that refs is of
	// atOnce are chunks, and packs by their names, that go whatever their pack's age.
	atOnce map[replication.Hash]struct{}
}

// gone are the generations that go, the oldest first.
func (p *plan) gone() (ids []replication.ID) {
	for _, id := range p.ids {
		if !p.keep[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// stamps are of those that stay.
func (p *plan) stamps() (kept []stamp) {
	for i, id := range p.ids {
		if p.keep[id] {
			kept = append(kept, p.at[i])
		}
	}
	return kept
}

// plan is for whoever holds the prune lock: nobody else rewrites a manifest.
func (s *Store) plan(p Policy) (pl *plan, err error) {
	pl = &plan{
		keep: map[replication.ID]bool{}, encoded: map[string][]byte{},
		refs: map[replication.Hash]struct{}{}, seen: map[string]fs.FileInfo{}, atOnce: map[replication.Hash]struct{}{},
	}
	if pl.ids, err = s.Generations(); err != nil {
		return nil, err
	}
	if pl.at, err = s.committed(pl.ids); err != nil {
		return nil, err
	}
	pins, err := s.Pins()
	if err != nil {
		return nil, err
	}
	times := make([]time.Duration, len(pl.at))
	for i, t := range pl.at {
		times[i] = t.at
	}
	for i, stays := range p.keep(times) {
		id := pl.ids[i]
		pl.keep[id] = stays || slices.Contains(p.Applied, id) || slices.ContainsFunc(pins, func(pin Pin) bool { return pin.ID == id })
	}
	instead := map[string]*replication.Manifest{}
	if err := s.rebase(pl, instead); err != nil {
		return nil, err
	}
	for path, m := range instead {
		if pl.encoded[path], err = EncodeManifest(m); err != nil {
			return nil, err
		}
	}
	for _, id := range pl.gone() {
		instead[s.manifestFile(id)] = nil
		if err := s.release(pl, p, id); err != nil {
			return nil, err
		}
	}
	for _, h := range p.Orphans {
		pl.atOnce[h] = struct{}{}
	}
	return pl, s.reference(pl.refs, pl.seen, instead)
}

// release notes what a generation that goes has needed, where the disk is short.
func (s *Store) release(pl *plan, p Policy, id replication.ID) error {
	if !p.Short {
		return nil
	}
	m, err := s.peek(s.manifestFile(id))
	if err == nil {
		newChunks(m, func(c replication.Chunk) { pl.atOnce[c.Hash] = struct{}{} })
	}
	return err
}

// stillTrueLocked says whether a plan can be carried out: what it is about is still
// there, and nothing of what goes was pinned since.
func (s *Store) stillTrueLocked(pl *plan) (bool, error) {
	pins, err := s.Pins()
	if err != nil {
		return false, err
	}
	for _, p := range pins {
		if stays, planned := pl.keep[p.ID]; planned && !stays {
			return false, nil
		}
	}
	for _, id := range pl.ids {
		path := s.manifestFile(id)
		if fi, err := os.Lstat(path); err != nil || !os.SameFile(fi, pl.seen[path]) {
			return false, nil // a former active turned round
		}
	}
	return true, nil
}

// rebase makes what is kept independent of what goes: a delta from a generation
// that goes becomes one from the next older that stays, the oldest whole. The
// content and the time of the commit stay as they are. What changes goes into instead.
func (s *Store) rebase(pl *plan, instead map[string]*replication.Manifest) error {
	near := s.loaded.clone() // or what is used all the time would be forgotten for what is used now
	var before replication.ID
	for _, id := range pl.ids {
		if !pl.keep[id] {
			continue
		}
		if err := s.rebaseOn(near, id, before, pl.keep, instead); err != nil {
			return err
		}
		before = id
	}
	return nil
}

func (s *Store) rebaseOn(near *loaded, id, onto replication.ID, keep map[replication.ID]bool, instead map[string]*replication.Manifest) error {
	path := s.manifestFile(id)
	m, err := s.peek(path)
	if err != nil || m.Delta == nil || keep[m.Delta.Base] {
		return err
	}
	if m, err = s.loadNear(near, path, id); err != nil {
		return err
	}
	copied := *m
	copied.Delta = nil
	if !onto.IsZero() {
		base, err := s.loadNear(near, s.manifestFile(onto), onto)
		if err != nil {
			return err
		}
		copied.Delta = m.DeltaFrom(base)
	}
	instead[path] = &copied
	return nil
}

// peek reads a manifest, of a delta without its volumes; from memory where it is at hand.
func (s *Store) peek(path string) (*replication.Manifest, error) {
	if m := s.loaded.get(path); m != nil {
		return m, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, _, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// reference adds to refs every chunk that a manifest of the store names which is not
// seen yet: what a delta does not name, a manifest it is from does. instead is
// what to take in place of some files; nil there: they are to go. An unreadable
// manifest is an error: nothing may be removed then.
func (s *Store) reference(refs map[replication.Hash]struct{}, seen map[string]fs.FileInfo, instead map[string]*replication.Manifest) error {
	return s.eachManifest(seen, instead, func(m *replication.Manifest, err error) error {
		if err == nil {
			newChunks(m, func(c replication.Chunk) { refs[c.Hash] = struct{}{} })
		}
		return err
	})
}

func (s *Store) eachManifest(seen map[string]fs.FileInfo, instead map[string]*replication.Manifest, do func(*replication.Manifest, error) error) error {
	for _, dir := range []string{"generations", "diverged", "superseded"} {
		paths, err := filepath.Glob(s.path(dir, "*"+manifestSuffix))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if strings.HasPrefix(filepath.Base(path), ".") {
				continue
			}
			fi, err := os.Lstat(path)
			if err != nil {
				return err
			}
			if was, ok := seen[path]; ok && os.SameFile(was, fi) {
				continue
			}
			seen[path] = fi
			m, ok := instead[path]
			if ok && m == nil {
				continue
			}
			if !ok {
				m, err = s.peek(path)
			}
			if err := do(m, err); err != nil {
				return err
			}
		}
	}
	return nil
}
