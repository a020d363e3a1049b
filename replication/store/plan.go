package store

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/understudy-ha/understudy/replication"
)

// plan is what a Prune is about to do. It is made without the store's lock, which
// commits need: they only add, and what they add is looked at again under the lock.
type plan struct {
	ids     []replication.ID // that were committed then, in order
	at      []stamp          // of each
	keep    map[replication.ID]bool
	encoded map[string][]byte      // manifests, by path, that get another base
	refs    marks                  // chunks that are needed
	seen    map[string]fs.FileInfo // manifests that refs is of
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
		refs: marks{}, seen: map[string]fs.FileInfo{}, atOnce: map[replication.Hash]struct{}{},
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
	return s.named(s.manifestFile(id), func(c replication.Chunk) { pl.atOnce[c.Hash] = struct{}{} })
}

// marks are chunks, by how their hashes begin: another that begins alike counts as marked too.
type marks map[uint64]struct{}

func (m marks) add(h replication.Hash) { m[beginOf(h)] = struct{}{} }

func (m marks) has(h replication.Hash) bool {
	_, ok := m[beginOf(h)]
	return ok
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
	base, err := s.baseOf(path)
	if err != nil || base.IsZero() || keep[base] {
		return err
	}
	m, err := s.loadNear(near, path, id)
	if err != nil {
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

// baseOf is what the manifest is a delta of; zero where it is whole.
func (s *Store) baseOf(path string) (base replication.ID, err error) {
	err = s.peek(path, func(h header, _ *cbor.Decoder) error {
		if h.Delta != nil {
			base = h.Delta.Base
		}
		return nil
	})
	return base, err
}

// named goes through the content that the manifest names: of a delta what its base does not. Of a large one this is not
// held in memory, and what is in memory does not count: what is removed hangs on this.
func (s *Store) named(path string, do func(replication.Chunk)) error {
	return s.peek(path, func(h header, dec *cbor.Decoder) error { return eachNamed(h, dec, do) })
}

// peek gives a manifest's header, and what follows it.
func (s *Store) peek(path string, do func(header, *cbor.Decoder) error) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dec, done, err := openItems(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer done()
	h, _, err := decodeHeader(dec)
	if err == nil {
		err = do(h, dec)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// reference adds to refs every chunk that a manifest of the store names which is not
// seen yet: what a delta does not name, a manifest it is from does. instead is
// what to take in place of some files; nil there: they are to go. An unreadable
// manifest is an error: nothing may be removed then.
func (s *Store) reference(refs marks, seen map[string]fs.FileInfo, instead map[string]*replication.Manifest) error {
	return s.eachManifest(func(path string) error {
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if was, ok := seen[path]; ok && os.SameFile(was, fi) {
			return nil
		}
		seen[path] = fi
		m, ok := instead[path]
		switch {
		case !ok:
			return s.named(path, func(c replication.Chunk) { refs.add(c.Hash) })
		case m != nil:
			for c := range newChunks(m) {
				refs.add(c.Hash)
			}
		}
		return nil
	})
}

// eachManifest goes through the files of all, archived ones too.
func (s *Store) eachManifest(do func(path string) error) error {
	for _, dir := range []string{"generations", "diverged", "superseded"} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil { // what of it is not seen would count as needing nothing
			return err
		}
		for _, e := range entries {
			if name := e.Name(); !strings.HasSuffix(name, manifestSuffix) || strings.HasPrefix(name, ".") {
				continue
			}
			if err := do(s.path(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
