package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// Floors that no policy goes below.
const (
	minKeepLast      = 2
	incomingMaxAge   = 24 * time.Hour
	supersededMinAge = 24 * time.Hour
)

// Policy is a receiver's retention. Head, applied generations and diverged ones are always kept.
type Policy struct {
	KeepLast int              // at least this many generations, the head included; never less than 2
	MinAge   time.Duration    // and all younger than this, by this node's clock since the commit
	Applied  []replication.ID // what live trees are at, or are being brought to or from
}

// Pruned is what a Prune removed.
type Pruned struct {
	Generations, Packs int
	Bytes              int64 // of packs
}

// Prune applies the policy, removes unreferenced packs older than the grace
// period, and sweeps incoming files older than a day. Manifests go before the
// packs that only they name, so a kill in between leaves packs too many, never
// too few.
func (s *Store) Prune(p Policy) (Pruned, error) {
	var out Pruned
	err := s.locked(func() error {
		if err := s.pruneGenerationsLocked(p, &out); err != nil {
			return err
		}
		if err := s.pruneSupersededLocked(p); err != nil {
			return err
		}
		return s.prunePacksLocked(&out)
	})
	return out, errors.Join(err, s.sweepIncoming(), durable.SweepTemp(s.dir, s.o.Now().Add(-incomingMaxAge)))
}

func (s *Store) pruneGenerationsLocked(p Policy, out *Pruned) error {
	ids, err := s.Generations()
	if err != nil {
		return err
	}
	young := s.o.Now().Add(-p.MinAge)
	keep := map[replication.ID]bool{}
	for i, id := range ids {
		fi, err := os.Stat(s.manifestFile(id))
		if err != nil {
			return err
		}
		keep[id] = i >= len(ids)-max(p.KeepLast, minKeepLast) || slices.Contains(p.Applied, id) || fi.ModTime().After(young)
	}
	if err := s.rebaseLocked(ids, keep); err != nil {
		return err
	}
	// The newest first: a kill leaves deltas whose base is there.
	for _, id := range slices.Backward(ids) {
		if keep[id] {
			continue
		}
		if err := durable.Remove(s.manifestFile(id), s.o.Hook); err != nil {
			return err
		}
		out.Generations++
	}
	return nil
}

// rebaseLocked makes what is kept independent of what goes: a delta from a generation
// that goes becomes one from the next older that stays, the oldest whole. The
// content and the time of the commit stay as they are.
func (s *Store) rebaseLocked(ids []replication.ID, keep map[replication.ID]bool) error {
	var before replication.ID
	for _, id := range ids {
		if !keep[id] {
			continue
		}
		if err := s.rebaseOnLocked(id, before, keep); err != nil {
			return err
		}
		before = id
	}
	return nil
}

func (s *Store) rebaseOnLocked(id, onto replication.ID, keep map[replication.ID]bool) error {
	path := s.manifestFile(id)
	m, err := s.peek(path)
	if err != nil || m.Delta == nil || keep[m.Delta.Base] {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if m, err = s.load(path, id); err != nil {
		return err
	}
	copied := *m
	copied.Delta = nil
	if !onto.IsZero() {
		base, err := s.load(s.manifestFile(onto), onto)
		if err != nil {
			return err
		}
		copied.Delta = m.DeltaFrom(base)
	}
	b, err := EncodeManifest(&copied)
	if err != nil {
		return err
	}
	return durable.WriteFileTimes(path, b, sealMode, fi.ModTime(), s.o.Hook)
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

// pruneSupersededLocked removes what a Reset set aside, a day or MinAge after it did.
func (s *Store) pruneSupersededLocked(p Policy) error {
	before := s.o.Now().Add(-max(p.MinAge, supersededMinAge))
	entries, err := os.ReadDir(s.path("superseded"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok || !time.Unix(st.Ctim.Unix()).Before(before) { // ctime: of the rename
			continue
		}
		if err := durable.Remove(s.path("superseded", e.Name()), s.o.Hook); err != nil {
			return err
		}
	}
	return nil
}

// referenced is every chunk that any manifest of the store names: what a delta does
// not name, a manifest it is from does. An
// unreadable manifest is an error: nothing may be removed then.
func (s *Store) referenced() (map[replication.Hash]struct{}, error) {
	refs := map[replication.Hash]struct{}{}
	for _, dir := range []string{"generations", "diverged", "superseded"} {
		paths, err := filepath.Glob(s.path(dir, "*"+manifestSuffix))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			if strings.HasPrefix(filepath.Base(path), ".") {
				continue
			}
			m, err := s.peek(path)
			if err != nil {
				return nil, err
			}
			newChunks(m, func(c replication.Chunk) { refs[c.Hash] = struct{}{} })
		}
	}
	return refs, nil
}

func (s *Store) prunePacksLocked(out *Pruned) error {
	refs, err := s.referenced()
	if err != nil {
		return err
	}
	packs, err := s.index.all()
	if err != nil {
		return err
	}
	before := s.o.Now().Add(-s.o.PackGrace)
	for _, p := range packs {
		// One whose index cannot be read stays for a person to look at.
		used := len(p.chunks) == 0 || slices.ContainsFunc(p.chunks, func(c packChunk) bool {
			_, ok := refs[c.hash]
			return ok
		})
		if used {
			continue
		}
		fi, err := os.Stat(p.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !fi.ModTime().Before(before) {
			continue
		}
		if err := durable.Remove(p.path, s.o.Hook); err != nil {
			return err
		}
		out.Packs++
		out.Bytes += p.size
	}
	return nil
}

// sweepIncoming removes what senders began and did not finish within a day.
func (s *Store) sweepIncoming() error {
	entries, err := os.ReadDir(s.IncomingDir())
	if err != nil {
		return err
	}
	before := s.o.Now().Add(-incomingMaxAge)
	for _, e := range entries {
		fi, err := e.Info()
		if err == nil && fi.Mode().IsRegular() && fi.ModTime().Before(before) {
			err = os.Remove(filepath.Join(s.IncomingDir(), e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
