package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// maxTermStep is by how much a generation can raise the term. A promotion takes the next
// one: without a bound one forged generation would use them all up, and nobody could be
// promoted any more.
const maxTermStep = 1 << 32

const manifestSuffix = ".manifest"

func (s *Store) manifestFile(id replication.ID) string {
	return s.path("generations", id.String()+manifestSuffix)
}

// Commit seals m in the store: DESIGN.md's rules. All its chunks must be in
// packs. It is kept as a delta where m.Delta is from the head, which is its parent.
// ErrStaleTerm, ErrWrongParent, ErrMissingChunks, ErrBadPath, ErrFormat.
// Committing the head again, with the same content, is a success.
func (s *Store) Commit(m *replication.Manifest) error {
	kept := *m
	if kept.Delta != nil && (kept.Delta.Base != m.Parent || m.Parent.IsZero()) {
		kept.Delta = nil
	}
	b, err := EncodeManifest(&kept)
	if err != nil {
		return err
	}
	return s.locked(func() error { return s.commitLocked(&kept, b, false) })
}

// CommitEncoded is Commit of an encoded manifest in the file at path, which must
// name id. The file is consumed on success only.
func (s *Store) CommitEncoded(path string, id replication.ID) error {
	b, err := readIncoming(path)
	if err != nil {
		return fmt.Errorf("generation %s: %w", id, err)
	}
	err = s.locked(func() error {
		m, err := DecodeManifest(b, s.baseLocked(b))
		if err != nil {
			return fmt.Errorf("generation %s: %w", id, err)
		}
		if m.ID != id {
			return fmt.Errorf("generation %s: %w: the manifest says it is %s", id, replication.ErrFormat, m.ID)
		}
		return s.commitLocked(m, b, true)
	})
	if err != nil {
		return err
	}
	if err := s.o.Hook.At("consume " + filepath.Base(path)); err != nil {
		return err
	}
	return os.Remove(path) // the bytes that were verified are kept in a file of their own
}

// baseLocked finds the generation that an arriving delta is from. Only the head
// can be its parent; the head's own delta, sent again, is from the head's parent.
func (s *Store) baseLocked(b []byte) func(*replication.Delta) (*replication.Manifest, error) {
	return func(d *replication.Delta) (*replication.Manifest, error) {
		head, err := s.Head()
		if err != nil {
			return nil, err
		}
		if d.Base != head && !s.sameLocked(head, b) {
			return nil, fmt.Errorf("%w: a delta from %s, the head here is %s", replication.ErrWrongParent, d.Base, head)
		}
		return s.Load(d.Base)
	}
}

func readIncoming(path string) ([]byte, error) {
	f, err := openIncoming(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(int(min(fi.Size(), maxEncoded)) + bytes.MinRead)
	_, err = b.ReadFrom(io.LimitReader(f, maxEncoded+1))
	return b.Bytes(), err
}

// received: by a sender, and so to be judged.
func (s *Store) commitLocked(m *replication.Manifest, b []byte, received bool) error {
	if done, err := s.mendLocked(m); err != nil || done {
		return err
	}
	done, err := s.checkLocked(m, b)
	if err != nil || done {
		return err
	}
	if err := s.fenceLocked(m.ID.Term); err != nil {
		return err
	}
	if err := s.clearBeyondLocked(m.ID); err != nil {
		return err
	}
	if err := s.placeLocked(m.ID, b); err != nil {
		return err
	}
	whole, err := identity(m)
	if err != nil {
		return err
	}
	// Before the head moves: there is no moment in which it is committed and not marked.
	did, err := s.judgeLocked(m, received)
	if err != nil {
		return err
	}
	if err := s.stampLocked(stamp{name: generationName(m.ID), sum: m.Sum(), whole: whole, did: did}); err != nil {
		return err
	}
	if err := s.endTermLocked(m.ID); err != nil {
		return err
	}
	if err := s.setHeadLocked(m.ID); err != nil {
		return err
	}
	if fi, err := os.Lstat(s.manifestFile(m.ID)); err == nil {
		s.loaded.keep(s.manifestFile(m.ID), fi, m)
	}
	return nil
}

// clearBeyondLocked moves out of the way what a kill left beyond the head and nobody
// acknowledged, but for next: once the head is at next, it would count as history.
func (s *Store) clearBeyondLocked(next replication.ID) error {
	head, err := s.Head()
	if err != nil {
		return err
	}
	ids, err := s.manifestIDs()
	if err != nil {
		return err
	}
	for _, id := range slices.Backward(ids) { // a delta before what it is from
		if id.Compare(head) > 0 && id != next {
			if err := s.supersedeLocked(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkLocked is every rule of a commit; done: it is the head already.
func (s *Store) checkLocked(m *replication.Manifest, b []byte) (done bool, err error) {
	if m.Service != s.service {
		return false, fmt.Errorf("generation %s: %w: it is of service %s, this is the store of %s", m.ID, replication.ErrFormat, m.Service, s.service)
	}
	if m.Diverged {
		return false, fmt.Errorf("generation %s: %w: a diverged generation is archived, never committed", m.ID, replication.ErrFormat)
	}
	term, err := s.Term()
	if err != nil {
		return false, err
	}
	head, err := s.Head()
	if err != nil {
		return false, err
	}
	if head == m.ID && s.sameLocked(m.ID, b) {
		return true, nil
	}
	if m.ID.Term < term {
		return false, fmt.Errorf("generation %s: %w: this node knows term %d; the sender is not the active any more", m.ID, replication.ErrStaleTerm, term)
	}
	if m.ID.Term > term && m.ID.Term-term > maxTermStep {
		return false, fmt.Errorf("generation %s: %w: this node knows term %d, and no cluster has promoted so often since; the sender is not to be believed", m.ID, replication.ErrFormat, term)
	}
	if head == m.ID {
		return false, fmt.Errorf("generation %s: %w: it is committed with other content", m.ID, replication.ErrWrongParent)
	}
	if m.Delta != nil && m.Delta.Base != m.Parent {
		return false, fmt.Errorf("generation %s: %w: its parent is %s and its delta is from %s", m.ID, replication.ErrWrongParent, m.Parent, m.Delta.Base)
	}
	if !head.IsZero() && m.Parent != head {
		return false, fmt.Errorf("generation %s: %w: its parent is %s, the head here is %s", m.ID, replication.ErrWrongParent, m.Parent, head)
	}
	return false, s.checkChunks(m)
}

func (s *Store) sameLocked(id replication.ID, b []byte) bool {
	old, err := os.ReadFile(s.manifestFile(id))
	return err == nil && bytes.Equal(old, b)
}

// checkChunks makes sure that all content is in packs, and as long as m needs it.
// What a delta does not touch was checked when its base was committed, and is
// looked at again where packs were lost since.
func (s *Store) checkChunks(m *replication.Manifest) error {
	lost, err := s.index.lost()
	if err != nil {
		return err
	}
	whole := *m
	if lost != s.checked.Load() {
		whole.Delta = nil
	}
	if err := s.checkAdded(&whole); err != nil {
		return err
	}
	s.checked.Store(lost)
	return nil
}

func (s *Store) checkAdded(m *replication.Manifest) error {
	missing, all := 0, 0
	var first, wrong replication.Hash
	err := s.index.finding(func(find func(replication.Hash) (where, bool)) {
		for c := range newChunks(m) {
			switch w, ok := find(c.Hash); {
			case !ok:
				if missing == 0 {
					first = c.Hash
				}
				missing++
			case int64(w.chunk().raw) < c.Skip+c.Length:
				wrong = c.Hash
			}
			all++
		}
	})
	if err != nil {
		return err
	}
	if missing > 0 {
		return fmt.Errorf("generation %s: %w: %d of %d, the first %s", m.ID, replication.ErrMissingChunks, missing, all, first)
	}
	if wrong != (replication.Hash{}) {
		return fmt.Errorf("generation %s: %w: chunk %s is not as long as the manifest says", m.ID, replication.ErrFormat, wrong)
	}
	return nil
}

// placeLocked puts the manifest into generations. A manifest that is there
// under this ID was never acknowledged (a kill came before the head moved): it
// stays when it is the same, and is set aside when it is not.
func (s *Store) placeLocked(id replication.ID, b []byte) error {
	path := s.manifestFile(id)
	if s.sameLocked(id, b) {
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		if err := s.supersedeLocked(id); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.WriteFile(path, b, sealMode, s.o.Hook)
}

// supersedeLocked moves a generation that is not of this chain any more out of the way.
func (s *Store) supersedeLocked(id replication.ID) error {
	for n := 1; ; n++ {
		name := filepath.Join("superseded", fmt.Sprintf("%s.%d%s", id, n, manifestSuffix))
		err := durable.RenameNoReplace(s.manifestFile(id), s.path(name), s.o.Hook)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = s.stampLocked(stamp{name: name})
		}
		return err
	}
}

// Reset sets the head back to a committed generation, or to none, on a former
// active's return. Generations beyond it are moved aside (superseded), not
// deleted, and are not pinned any more. It never touches the term. Local only: nothing on the wire reaches it.
func (s *Store) Reset(to replication.ID) error {
	return s.locked(func() error {
		head, err := s.Head()
		if err != nil {
			return err
		}
		if !to.IsZero() {
			if to.Compare(head) > 0 {
				return fmt.Errorf("generation %s: %w: the head here is %s", to, replication.ErrNotFound, head)
			}
			if _, err := s.Load(to); err != nil {
				return err
			}
		}
		if head != to {
			if err := s.setHeadLocked(to); err != nil {
				return err
			}
		}
		ids, err := s.manifestIDs()
		if err != nil {
			return err
		}
		for _, id := range slices.Backward(ids) { // a delta before what it is from
			if id.Compare(to) > 0 {
				if err := s.supersedeLocked(id); err != nil {
					return err
				}
			}
		}
		return errors.Join(s.dropPinsLocked(to), s.dropSuspectsLocked(to))
	})
}
