package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// Each generation makes a pack of its own, however little changed, and a pack stays as long as
// one of its chunks is needed. So packs that are small, once there are many, and packs of which
// less than half is needed, are written anew together: what packs take, on the disk, in memory and
// at each look at their directory, stays in proportion to what is needed of them.
const (
	smallShare = 64 // a pack below this part of PackSize is small: at 64 MiB, 1 MiB

	// In one round.
	repackPacks  = 4096
	repackChunks = 1 << 18
	dropAtOnce   = 256                  // packs, for which commits wait
	betweenDrops = 5 * time.Millisecond // so that whoever waits for a lock gets it

	repackRounds = 256 // in one Repack
)

// repackBytes are read in one round at most.
var repackBytes int64 = 64 << 20 // only tests change it

// Repacked is what a Repack did.
type Repacked struct {
	Packs int   // that went
	Made  int   // that came instead
	Freed int64 // bytes less than before; negative: more, until the old ones go
}

// repacking is a Repack under way.
type repacking struct {
	ctx    context.Context //nolint:containedctx // it lives as long as the call
	pace   Pace
	out    Repacked
	budget int64 // bytes still to be read in the round
	room   int64 // and to be written
	read   int   // chunks, so far
	refs   marks
	seen   map[string]fs.FileInfo    // manifests that refs is of
	bases  map[string]replication.ID // of those that are deltas
	chosen []*pack                   // of the round
	among  map[replication.Hash]struct{}
	// keeper is the pack in which a chunk was read, or into which it was copied.
	keeper map[replication.Hash]replication.Hash
}

// errEnough: there is no room for more in this round.
var errEnough = errors.New("enough for a round")

// errGone: a manifest was pruned while all were looked at.
var errGone = errors.New("what is kept has changed meanwhile")

// errDoubtful: something that was committed cannot be read, so what it needs is not known.
var errDoubtful = errors.New("not all that was committed can be read")

// Repack copies what is needed of small and of sparse packs, older than the grace period, into new
// ones, and removes those of which nothing is needed any more, until there are no such packs or ctx
// ends. A kill leaves chunks in two packs; a later call drops the older. While something is lacking it does nothing.
// alone must run its argument while no capture is under way: a capture may count on content that
// no manifest names yet.
func (s *Store) Repack(ctx context.Context, pace Pace, alone func(func() error) error) (Repacked, error) {
	r := &repacking{
		ctx: ctx, pace: pace, refs: marks{}, seen: map[string]fs.FileInfo{}, bases: map[string]replication.ID{},
		keeper: map[replication.Hash]replication.Hash{},
	}
	err := s.tryLockedAs("repack.lock", func() error {
		for range repackRounds {
			if more, err := s.repackRound(r, alone); err != nil || !more {
				return err
			}
		}
		return nil
	})
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, errLocked), errors.Is(err, errDoubtful), errors.Is(err, errGone):
		s.log.Debug("packs are not written anew for now", "reason", err)
		err = nil
	}
	return r.out, err
}

func (s *Store) repackRound(r *repacking, alone func(func() error) error) (more bool, err error) {
	if r.ctx.Err() != nil {
		return false, context.Cause(r.ctx)
	}
	if err := r.pace(0); err != nil {
		return false, err
	}
	r.forgetPruned()
	if err := s.refer(r); err != nil {
		return false, err
	}
	if err := s.choose(r); err != nil || len(r.chosen) == 0 {
		return false, err
	}
	r.budget = repackBytes
	if r.room, err = s.repackRoom(); err != nil {
		return false, err
	}
	known, gone := r.read, r.out.Packs
	missing, err := s.findKeepers(r)
	if err != nil {
		return false, err
	}
	err = s.copyChunks(r, missing)
	full := replication.NoSpace(err) // what was copied may do, and what was copied before a kill
	if err != nil && !full {
		return false, err
	}
	for batch := range slices.Chunk(r.chosen, dropAtOnce) {
		if r.ctx.Err() != nil {
			return false, context.Cause(r.ctx)
		}
		if err := errors.Join(r.pace(0), s.refer(r)); err != nil { // so that there is little to be read under the locks
			return false, err
		}
		err := alone(func() error {
			return errors.Join(s.tryLockedAs("prune.lock", func() error {
				return s.locked(func() error { return s.dropKeptLocked(r, batch) })
			}), s.index.look()) // what goes must not count as there in the next capture
		})
		if err != nil {
			return false, err
		}
		time.Sleep(betweenDrops)
	}
	return !full && (r.read > known || r.out.Packs > gone), nil
}

// repackRoom: what is copied must not make history give way, nor, where that does already, replication.
func (s *Store) repackRoom() (int64, error) {
	room, err := s.Room()
	if err != nil {
		return 0, err
	}
	left := room.Free - room.Spare
	if room.Short() {
		left = room.Free - room.Least
	}
	if left = min(repackBytes, left/2); left < s.smallPack() {
		return 0, nil // what came of it would be small itself
	}
	return left, nil
}

// refer adds to refs what manifests name that are not seen yet. errDoubtful, where that may not be all.
func (s *Store) refer(r *repacking) error {
	lacks, err := s.recordedLacks()
	if err != nil {
		return err
	}
	if !lacks.None() || lacks.Unsure {
		return errDoubtful
	}
	if err := s.headIsThere(); err != nil {
		return err
	}
	err = s.eachManifest(func(path string) error {
		fi, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return errGone
		}
		if err != nil {
			return err
		}
		if was, ok := r.seen[path]; ok && os.SameFile(was, fi) && was.ModTime().Equal(fi.ModTime()) && was.Size() == fi.Size() {
			return nil
		}
		err = s.peek(path, func(h header, dec *cbor.Decoder) error {
			delete(r.bases, path)
			if h.Delta != nil && filepath.Dir(path) == s.path("generations") {
				r.bases[path] = h.Delta.Base
			}
			return eachNamed(h, dec, func(c replication.Chunk) { r.refs.add(c.Hash) })
		})
		if errors.Is(err, fs.ErrNotExist) {
			return errGone
		}
		if err == nil {
			r.seen[path] = fi
		}
		return err
	})
	if err != nil {
		return err
	}
	// A delta names only what its base does not.
	for path, base := range r.bases {
		_, err := os.Lstat(s.manifestFile(base))
		if _, gone := os.Lstat(path); errors.Is(err, fs.ErrNotExist) && gone == nil {
			return errDoubtful
		}
	}
	return nil
}

// headIsThere, and so are those that are pinned: their manifests, or it is errDoubtful what is needed.
func (s *Store) headIsThere() error {
	head, err := s.Head()
	if err != nil {
		return err
	}
	pins, err := s.Pins()
	if err != nil {
		return err
	}
	must := make([]replication.ID, 0, len(pins)+1)
	if !head.IsZero() {
		must = append(must, head)
	}
	for _, p := range pins {
		must = append(must, p.ID)
	}
	for _, id := range must {
		if _, err := os.Lstat(s.manifestFile(id)); errors.Is(err, fs.ErrNotExist) {
			return errDoubtful
		}
	}
	return nil
}

// forgetPruned begins anew where a manifest has gone: what it needed need not be copied any more.
func (r *repacking) forgetPruned() {
	for path := range r.seen {
		if _, err := os.Lstat(path); err != nil {
			r.refs, r.seen, r.bases = marks{}, map[string]fs.FileInfo{}, map[string]replication.ID{}
			return
		}
	}
}

// choose chooses packs, the oldest first. What is younger than the grace period may be on its way.
func (s *Store) choose(r *repacking) error {
	all, err := s.index.all()
	if err != nil {
		return err
	}
	made := map[*pack]time.Time{}
	season := func(packs []*pack) (seasoned []*pack, err error) {
		for _, p := range packs {
			if made[p], err = s.madeAt(p); err != nil {
				return nil, err
			}
			if !s.young(made[p]) {
				seasoned = append(seasoned, p)
			}
		}
		return seasoned, nil
	}
	var small, sparse []*pack
	for _, p := range all {
		if s.isUnfit(p) || len(p.chunks) > repackChunks {
			continue
		}
		// What nobody needs is swept; what cannot be read is a scrub's, or a person's.
		switch needed, held := p.needed(r.refs); {
		case needed == 0:
		case p.size < s.smallPack():
			small = append(small, p)
		case needed < held/2:
			sparse = append(sparse, p)
		}
	}
	chosen, err := season(sparse)
	if err != nil {
		return err
	}
	if len(small) >= s.o.ManySmall {
		if small, err = season(small); err != nil {
			return err
		}
		if len(small) >= s.o.ManySmall {
			chosen = append(chosen, small...)
		}
	}
	slices.SortFunc(chosen, func(a, b *pack) int {
		return cmp.Or(made[a].Compare(made[b]), bytes.Compare(a.hash[:], b.hash[:]))
	})
	r.among = map[replication.Hash]struct{}{}
	chunks := 0
	for i, p := range chosen {
		if chunks += len(p.chunks); i == repackPacks || i > 0 && chunks > repackChunks {
			chosen = chosen[:i]
			break
		}
		r.among[p.hash] = struct{}{}
	}
	r.chosen = chosen
	return nil
}

// smallPack is the size, in bytes, below which a pack is small.
func (s *Store) smallPack() int64 { return s.o.PackSize / smallShare }

// needed is what the pack's chunks take, those of refs and all, bytes.
func (p *pack) needed(refs marks) (needed, held int64) {
	for _, c := range p.chunks {
		n := int64(c.stored) + packEntry
		held += n
		if refs.has(c.hash) {
			needed += n
		}
	}
	return needed, held
}

// kept says whether a chunk has a keeper that stays.
func (r *repacking) kept(h replication.Hash) bool {
	by, ok := r.keeper[h]
	_, goes := r.among[by]
	return ok && !goes
}

// findKeepers reads, in packs that stay, what is needed of the chosen ones, and says what it did not find.
func (s *Store) findKeepers(r *repacking) (missing map[replication.Hash]struct{}, err error) {
	all, err := s.index.all()
	if err != nil {
		return nil, err
	}
	there := make(map[replication.Hash]struct{}, len(all))
	for _, p := range all {
		there[p.hash] = struct{}{}
	}
	for h, by := range r.keeper {
		if _, is := there[by]; !is {
			delete(r.keeper, h)
		}
	}
	missing = map[replication.Hash]struct{}{}
	for _, p := range r.chosen {
		for _, c := range p.chunks {
			if r.refs.has(c.hash) && !r.kept(c.hash) {
				missing[c.hash] = struct{}{}
			}
		}
	}
	for _, p := range all {
		if _, goes := r.among[p.hash]; goes || s.isUnfit(p) {
			continue
		}
		var here []packChunk
		for _, c := range p.chunks {
			if _, is := missing[c.hash]; is {
				here = append(here, c)
			}
		}
		if len(here) == 0 {
			continue
		}
		err := s.eachChunk(r, p, here, func(_ *os.File, c packChunk, _ []byte) error {
			r.keeper[c.hash] = p.hash
			delete(missing, c.hash)
			return nil
		})
		if err == nil {
			continue
		}
		if !isDamage(err) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// No keeper any more, of anything.
		s.unfit.Store(p.hash, struct{}{})
		maps.DeleteFunc(r.keeper, func(_, by replication.Hash) bool { return by == p.hash })
		for _, c := range here {
			missing[c.hash] = struct{}{}
		}
	}
	return missing, nil
}

// eachChunk reads chunks of a pack from the disk and verifies them, as far as the round's budget goes. DamagedPack.
func (s *Store) eachChunk(r *repacking, p *pack, chunks []packChunk, do func(f *os.File, c packChunk, stored []byte) error) error {
	if r.budget <= 0 || len(chunks) == 0 {
		return nil
	}
	f, err := os.Open(p.path())
	if err != nil {
		return err
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // what is in memory says nothing of the disk
	if err := stillNamed(f, p); err != nil {
		return &DamagedPack{p.hash, err}
	}
	for i, c := range chunks {
		if r.budget -= int64(c.stored); r.budget < 0 {
			return nil // the next round goes on with it
		}
		if err := r.pace(int(c.stored)); err != nil {
			return err
		}
		stored := make([]byte, c.stored)
		if _, err := f.ReadAt(stored, c.offset()); err != nil {
			return where{p, i}.damaged(err)
		}
		if _, err := s.codec.unpack(stored, c); err != nil {
			return &DamagedPack{p.hash, err}
		}
		if err := do(f, c, stored); err != nil {
			return err
		}
		r.read++
	}
	return nil
}

// stillNamed says whether a pack's index on the disk is the one that names it.
func stillNamed(f *os.File, p *pack) error {
	if _, err := readPackIndex(f, p.size); err != nil {
		return err
	}
	name, err := readPackName(f, p.size)
	if err == nil && name != p.hash {
		err = replication.ErrBadHash
	}
	return err
}

func (s *Store) isUnfit(p *pack) bool {
	_, bad := s.unfit.Load(p.hash)
	return bad
}

func isDamage(err error) bool {
	damaged := new(DamagedPack)
	return errors.As(err, &damaged)
}

// copyChunks puts what is missing into new packs of the store. What is damaged is left to a scrub.
func (s *Store) copyChunks(r *repacking, missing map[replication.Hash]struct{}) error {
	w := s.NewPack()
	err := s.copyPacks(r, w, missing)
	if err == nil {
		_, err = w.Seal()
	}
	w.Abort()
	for _, pf := range w.sealed {
		hs, cerr := pf.Contents()
		if cerr != nil {
			return errors.Join(err, cerr)
		}
		n := len(r.chosen)
		// From the same content in the same order the same pack comes out.
		r.chosen = slices.DeleteFunc(r.chosen, func(p *pack) bool { return p.hash == pf.Hash })
		delete(r.among, pf.Hash)
		if len(r.chosen) == n {
			r.out.Made++
			r.out.Freed -= pf.Size
		}
		for _, h := range hs {
			r.keeper[h] = pf.Hash
		}
	}
	return err
}

func (s *Store) copyPacks(r *repacking, w *PackWriter, missing map[replication.Hash]struct{}) error {
	for _, p := range r.chosen {
		var chunks []packChunk
		for _, c := range p.chunks {
			if _, is := missing[c.hash]; is {
				chunks = append(chunks, c)
			}
		}
		err := s.eachChunk(r, p, chunks, func(f *os.File, c packChunk, stored []byte) error {
			if r.room -= int64(c.stored); r.room < 0 {
				return errEnough
			}
			delete(missing, c.hash) // once is enough
			// Blocks that live files share are shared by the new pack as well.
			return w.put(c, stored, &tree.Twin{Clone: f}, c.offset())
		})
		switch {
		case errors.Is(err, errEnough):
			return nil
		case err == nil, errors.Is(err, fs.ErrNotExist) && w.failed == nil: // a scrub set it aside
		case isDamage(err) && w.failed == nil:
			s.unfit.Store(p.hash, struct{}{})
			s.log.Error("a pack is not written anew with others; understudy scrub mends it", "pack", p.path(), "error", err)
		default:
			return err
		}
	}
	return nil
}

// dropKeptLocked removes those of the packs of which all that is needed, also by what was committed
// since, has a keeper that is there. No capture is under way.
func (s *Store) dropKeptLocked(r *repacking, packs []*pack) error {
	if err := s.refer(r); err != nil {
		return err
	}
	there := map[replication.Hash]bool{}
	holds := func(p *pack, c packChunk) bool {
		if !r.refs.has(c.hash) {
			return false
		}
		by := r.keeper[c.hash]
		is, looked := there[by]
		if !looked {
			_, err := os.Lstat(s.path("packs", packName(by)))
			is = err == nil
			there[by] = is
		}
		return !is || by == p.hash || !r.kept(c.hash)
	}
	var gone []*pack
	for _, p := range packs {
		if !slices.ContainsFunc(p.chunks, func(c packChunk) bool { return holds(p, c) }) {
			gone = append(gone, p)
		}
	}
	if err := s.removePacksLocked(gone); err != nil {
		return err
	}
	r.out.Packs += len(gone)
	for _, p := range gone {
		r.out.Freed += p.size
	}
	return nil
}
