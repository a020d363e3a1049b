package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// lacksFile lists what the store has lost of what was committed. It is part of the
// state that a sender reads, who sends it again as far as it has it. A
// replication.Lacks in JSON.
const lacksFile = "lacks"

// maxLacks is how many lost chunks a state names at once.
const maxLacks = 4096

func (s *Store) recordedLacks() (l replication.Lacks, err error) {
	err = s.readJSON(lacksFile, &l)
	return l, err
}

func (s *Store) writeLacks(l replication.Lacks) error {
	if l.None() && len(l.GivenUp) == 0 && !l.Unsure {
		return durable.Remove(s.path(lacksFile), s.o.Hook)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.path(lacksFile), b, fileMode, s.o.Hook)
}

// lacksCache is what Lacks said last, and what it looked at then: it is asked for every
// second, and looking again at a generation that is lost means to read what it hangs on.
type lacksCache struct {
	mu   sync.Mutex // guards what follows
	at   time.Time
	seen [3]fs.FileInfo // the list, and the folders of manifests and packs
	is   replication.Lacks
}

// same says whether nothing has changed since what is kept was worked out.
func (c *lacksCache) same(now [3]fs.FileInfo) bool {
	for i, fi := range now {
		was := c.seen[i]
		if fi == nil || was == nil || !os.SameFile(fi, was) || !fi.ModTime().Equal(was.ModTime()) || !fi.ModTime().Before(c.at.Add(-racy)) {
			return false
		}
	}
	return true
}

// Lacks is what the store has lost and not got back: of what was recorded, what is
// still not there. It costs nothing where nothing was lost. Not to be changed.
func (s *Store) Lacks() (replication.Lacks, error) {
	var now [3]fs.FileInfo
	began := time.Now()
	for i, name := range []string{lacksFile, "generations", "packs"} {
		fi, err := os.Stat(s.path(name))
		if errors.Is(err, fs.ErrNotExist) && name == lacksFile {
			return replication.Lacks{}, nil
		}
		if err != nil {
			return replication.Lacks{}, err
		}
		now[i] = fi
	}
	s.lacking.mu.Lock()
	defer s.lacking.mu.Unlock()
	if s.lacking.same(now) {
		return s.lacking.is, nil
	}
	is, err := s.lacks()
	if err == nil {
		s.lacking.at, s.lacking.seen, s.lacking.is = began, now, is
	}
	return is, err
}

func (s *Store) lacks() (replication.Lacks, error) {
	was, err := s.recordedLacks()
	if err != nil || was.None() {
		return was, err
	}
	l := replication.Lacks{GivenUp: was.GivenUp, Unsure: was.Unsure}
	looked := looked{}
	for _, id := range was.Generations {
		if !s.whole(id, looked) {
			l.Generations = append(l.Generations, id)
		}
	}
	hs := make([]replication.Hash, 0, len(was.Chunks))
	for _, text := range was.Chunks {
		h, err := ParseHash(text)
		if err != nil {
			return l, fmt.Errorf("%s: %w", s.path(lacksFile), err)
		}
		hs = append(hs, h)
	}
	missing, err := s.Missing(hs)
	for _, h := range missing {
		l.Chunks = append(l.Chunks, h.String())
	}
	return l, err
}

// FindLacks works out what is lost: of every generation that was committed, whether
// it can be read, and of those that can, whether their content is there. It reads
// all manifests, and records what it found.
func (s *Store) FindLacks() (l replication.Lacks, err error) {
	err = s.lockedAs("prune.lock", func() error {
		was, err := s.recordedLacks()
		if err != nil {
			return err
		}
		ids, err := s.Generations()
		if err != nil {
			return err
		}
		ids = append(ids, was.Generations...)
		slices.SortFunc(ids, replication.ID.Compare)
		looked := looked{}
		for _, id := range slices.Compact(ids) {
			if !s.whole(id, looked) {
				l.Generations = append(l.Generations, id)
			}
		}
		refs := map[replication.Hash]struct{}{}
		err = s.eachManifest(func(path string) error {
			_ = s.named(path, func(c replication.Chunk) { refs[c.Hash] = struct{}{} }) // what cannot be read is said elsewhere
			return nil
		})
		if err != nil {
			return err
		}
		given := map[string]bool{}
		for _, text := range was.GivenUp {
			given[text] = true
		}
		err = s.index.finding(func(find func(replication.Hash) (where, bool)) {
			for h := range refs {
				if _, ok := find(h); ok {
					continue
				}
				if text := h.String(); given[text] {
					l.GivenUp = append(l.GivenUp, text)
				} else {
					l.Chunks = append(l.Chunks, text)
				}
			}
		})
		if err != nil {
			return err
		}
		slices.Sort(l.Chunks)
		slices.Sort(l.GivenUp)
		return s.writeLacks(l)
	})
	return l, err
}

// TidyLacks forgets what was lost when all of it has come again, and looks for what a
// pack held that was set aside when a kill came. It costs nothing where nothing was lost.
func (s *Store) TidyLacks() error {
	was, err := s.recordedLacks()
	if err != nil || was.None() && !was.Unsure {
		return err
	}
	l, err := s.Lacks()
	if err == nil && (l.None() || l.Unsure) {
		_, err = s.FindLacks()
	}
	return err
}

// notLost strikes generations off the list of what is lost: they came again, and the policy has them go. For
// whoever holds the prune lock.
func (s *Store) notLost(ids []replication.ID) error {
	was, err := s.recordedLacks()
	if err != nil || !slices.ContainsFunc(was.Generations, func(id replication.ID) bool { return slices.Contains(ids, id) }) {
		return err
	}
	was.Generations = slices.DeleteFunc(was.Generations, func(id replication.ID) bool { return slices.Contains(ids, id) })
	return s.writeLacks(was)
}

// GiveUp ends the wait for what nobody has any more: generations that cannot be read go,
// their files to the folder "damaged", and lost chunks are not asked for again; what
// needs them cannot be restored. The head cannot be given up.
func (s *Store) GiveUp() (gone []replication.ID, err error) {
	err = s.lockedAs("prune.lock", func() error {
		head, err := s.Head()
		if err != nil {
			return err
		}
		ids, err := s.Generations()
		if err != nil {
			return err
		}
		looked := looked{}
		if !head.IsZero() && !s.whole(head, looked) {
			return fmt.Errorf("%w: generation %s is the newest here and cannot be read; it comes again from a node that has it", replication.ErrBadHash, head)
		}
		broken := slices.DeleteFunc(ids, func(id replication.ID) bool { return s.whole(id, looked) })
		return s.locked(func() error {
			gone, err = s.giveUpLocked(broken)
			return err
		})
	})
	slices.SortFunc(gone, replication.ID.Compare)
	return slices.Compact(gone), err
}

func (s *Store) giveUpLocked(broken []replication.ID) (gone []replication.ID, err error) {
	looked := looked{}
	for _, id := range broken {
		if s.whole(id, looked) {
			continue // it came again just now
		}
		if _, err := s.linkDamaged(generationName(id)); err != nil {
			return gone, err
		}
		if err := durable.Remove(s.manifestFile(id), s.o.Hook); err != nil {
			return gone, err
		}
		gone = append(gone, id)
	}
	l, err := s.lacks()
	if err != nil {
		return gone, err
	}
	gone = append(gone, l.Generations...)
	given := slices.Concat(l.GivenUp, l.Chunks)
	slices.Sort(given)
	return gone, s.writeLacks(replication.Lacks{GivenUp: slices.Compact(given), Unsure: l.Unsure})
}

// looked are generations of which whole has found out.
type looked map[replication.ID]bool

// whole says whether a generation's manifest, and each that it is a delta of, is there
// and what it was when it was written. Each is read once for all that is asked with known.
func (s *Store) whole(id replication.ID, known looked) (is bool) {
	var chain []replication.ID
	defer func() {
		for _, id := range chain {
			known[id] = is
		}
	}()
	for range maxDeltas {
		if was, ok := known[id]; ok {
			return was
		}
		chain = append(chain, id)
		h, err := s.readHeader(s.manifestFile(id))
		if err != nil || h.ID != id {
			return false
		}
		if h.Delta == nil {
			return true
		}
		if h.Delta.Base.Compare(id) >= 0 {
			return false
		}
		id = h.Delta.Base
	}
	return false
}

// readHeader checks the frame of a manifest and reads its header.
func (s *Store) readHeader(path string) (header, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return header{}, err
	}
	dec, done, err := openItems(b)
	if err != nil {
		return header{}, fmt.Errorf("%s: %w", path, err)
	}
	defer done()
	h, _, err := decodeHeader(dec)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return h, err
}

// mendLocked takes a generation in again whose manifest, or one that it hangs on, was
// lost: done says that it did. It must be the very generation that was committed
// here, by this node's own record.
func (s *Store) mendLocked(m *replication.Manifest) (done bool, err error) {
	was, err := s.recordedLacks()
	if err != nil || !slices.Contains(was.Generations, m.ID) || s.whole(m.ID, looked{}) {
		return false, err
	}
	known, _, err := s.stamps()
	if err != nil {
		return false, err
	}
	t, ok := known[generationName(m.ID)]
	is, err := identity(m)
	if err != nil {
		return false, err
	}
	if !ok || t.whole != is {
		return false, fmt.Errorf("generation %s: %w: it was lost here, and this is not what was committed then", m.ID, replication.ErrWrongParent)
	}
	kept := *m
	kept.Delta = nil
	if err := s.checkChunks(&kept); err != nil {
		return false, err
	}
	b, err := EncodeManifest(&kept)
	if err != nil {
		return false, err
	}
	return true, durable.WriteFileTimes(s.manifestFile(m.ID), b, sealMode, t.wall, s.o.Hook)
}
