package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// How long what nobody names any more stays.
const (
	incomingMaxAge   = 24 * time.Hour
	supersededMinAge = 24 * time.Hour // in the store's own time
)

// Pruned is what a Prune removed, or would.
type Pruned struct {
	Generations []replication.ID
	Packs       int
	Bytes       int64 // of packs and manifests
}

// ErrBusy says that nothing was pruned, as others are at it.
var ErrBusy = errors.New("the store is being looked at or pruned by others")

// Prune applies the policy, removes unreferenced packs older than the grace
// period, and sweeps incoming files older than a day. Manifests go before the
// packs that only they name, so a kill in between leaves packs too many, never
// too few. Commits wait only while it removes, not while it thinks. While a
// scrub looks for what is lost, it does nothing: a hand-over may be waiting for the caller. ErrBusy.
func (s *Store) Prune(p Policy) (out Pruned, err error) {
	err = s.tryLockedAs("prune.lock", func() error {
		if err := s.locked(s.pruneSupersededLocked); err != nil {
			return err
		}
		pl, err := s.plan(p)
		if err != nil {
			return err
		}
		return s.locked(func() error { return s.carryOutLocked(pl, &out) })
	})
	if errors.Is(err, errLocked) {
		return out, ErrBusy
	}
	return out, errors.Join(err, s.sweepIncoming(), durable.SweepTemp(s.dir, s.o.Now().Add(-incomingMaxAge)))
}

// PlanPrune is what Prune would remove, the packs among it once their grace is over.
func (s *Store) PlanPrune(p Policy) (out Pruned, err error) {
	err = s.lockedAs("prune.lock", func() error {
		pl, err := s.plan(p)
		if err != nil {
			return err
		}
		for _, id := range pl.gone() {
			out.Generations = append(out.Generations, id)
			out.Bytes += pl.seen[s.manifestFile(id)].Size()
		}
		idle, err := s.idlePacks(pl.refs)
		for _, p := range idle {
			out.Packs++
			out.Bytes += p.size
		}
		return err
	})
	return out, err
}

func (s *Store) carryOutLocked(pl *plan, out *Pruned) error {
	if ok, err := s.stillTrueLocked(pl); err != nil || !ok {
		return err
	}
	if err := s.notLost(pl.gone()); err != nil { // before: or what goes would count as lost for good
		return err
	}
	if err := s.pruneGenerationsLocked(pl, out); err != nil {
		return err
	}
	if err := s.compactTimesLocked(pl.stamps()); err != nil {
		return err
	}
	// What was committed or archived since the plan was made.
	if err := s.reference(pl.refs, pl.seen, nil); err != nil {
		return err
	}
	idle, err := s.idlePacks(pl.refs)
	if err != nil {
		return err
	}
	return s.prunePacksLocked(pl, idle, out)
}

func (s *Store) pruneGenerationsLocked(pl *plan, out *Pruned) error {
	for path, b := range pl.encoded {
		if err := durable.WriteFileTimes(path, b, sealMode, pl.seen[path].ModTime(), s.o.Hook); err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		pl.seen[path] = fi
	}
	// The newest first: a kill leaves deltas whose base is there.
	for _, id := range slices.Backward(pl.gone()) {
		path := s.manifestFile(id)
		if err := durable.Remove(path, s.o.Hook); err != nil {
			return err
		}
		out.Generations = append(out.Generations, id)
		out.Bytes += pl.seen[path].Size()
	}
	slices.Reverse(out.Generations)
	return nil
}

// pruneSupersededLocked removes what a Reset set aside, a day after it did.
func (s *Store) pruneSupersededLocked() error {
	entries, err := os.ReadDir(s.path("superseded"))
	if err != nil || len(entries) == 0 {
		return err
	}
	known, last, err := s.stamps()
	if err != nil {
		return err
	}
	now := s.now(last).at
	for _, e := range entries {
		name := filepath.Join("superseded", e.Name())
		t, ok := known[name]
		if !ok { // killed before it was noted: its day begins now
			err = s.stampLocked(stamp{name: name})
		} else if now-t.at > supersededMinAge {
			err = durable.Remove(s.path(name), s.o.Hook)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// idlePacks are those that hold nothing of refs.
func (s *Store) idlePacks(refs marks) (idle []*pack, err error) {
	packs, err := s.index.all()
	if err != nil {
		return nil, err
	}
	for _, p := range packs {
		// One whose index cannot be read stays for a person to look at.
		used := len(p.chunks) == 0 || slices.ContainsFunc(p.chunks, func(c packChunk) bool { return refs.has(c.hash) })
		if !used {
			idle = append(idle, p)
		}
	}
	return idle, nil
}

// inHaste says whether a pack that nothing needs goes whatever its age.
func (p *plan) inHaste(of *pack) bool {
	if len(p.atOnce) == 0 {
		return false
	}
	_, ok := p.atOnce[of.hash]
	return ok || slices.ContainsFunc(of.chunks, func(c packChunk) bool { _, ok := p.atOnce[c.hash]; return ok })
}

func (s *Store) prunePacksLocked(pl *plan, idle []*pack, out *Pruned) error {
	var gone []*pack
	for _, p := range idle {
		made, err := s.madeAt(p)
		if err != nil {
			return err
		}
		if !s.young(made) || pl.inHaste(p) {
			gone = append(gone, p)
		}
	}
	err := s.removePacksLocked(gone)
	if err == nil {
		for _, p := range gone {
			out.Packs++
			out.Bytes += p.size
		}
	}
	return err
}

// madeAt is when a pack was made or came, by this node's clock; long ago for one that is gone.
func (s *Store) madeAt(p *pack) (time.Time, error) {
	fi, err := os.Stat(p.path())
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return fi.ModTime(), nil
}

// young: within the grace period. What is from the future was made before the clock was set back.
func (s *Store) young(made time.Time) bool {
	age := s.o.Now().Sub(made)
	return age > -time.Minute && age <= s.o.PackGrace
}

// removePacksLocked removes packs, durably once all are gone: a power cut may bring some back.
func (s *Store) removePacksLocked(packs []*pack) error {
	if len(packs) == 0 {
		return nil
	}
	paths := make([]string, len(packs))
	for i, p := range packs {
		paths[i] = p.path()
	}
	defer s.reading.forget() // or what goes keeps its room
	return durable.RemoveAll(paths, s.o.Hook)
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
