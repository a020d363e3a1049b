package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

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
	dropAtOnce   = 1024 // packs, for which commits wait
	repackRounds = 256  // in one Repack
)

// repackBytes are copied in one round at most.
var repackBytes int64 = 64 << 20 // only tests change it

// Repacked is what a Repack did.
type Repacked struct {
	Packs int   // that went
	Made  int   // that came instead
	Freed int64 // bytes less than before; negative: more, until the next
}

// repacking is a round of a Repack.
type repacking struct {
	old    []*pack
	budget int64 // still to be copied, bytes
	refs   marks
	seen   map[string]fs.FileInfo // manifests that refs is of
	// safe are chunks that were found whole in a pack that stays, or copied into a new one.
	safe map[replication.Hash]struct{}
}

// Repack copies what is needed of small and of sparse packs, older than the grace period, into new
// ones, and removes those of which nothing is needed any more, until there are no such packs or ctx
// ends. Killed anywhere, chunks are in two packs, and the next one finds that out. alone runs what
// removes packs: content that nobody needs goes with them, and nobody may be counting on that.
func (s *Store) Repack(ctx context.Context, alone func(func() error) error) (out Repacked, err error) {
	for round := 0; round < repackRounds && ctx.Err() == nil; round++ {
		var r *repacking
		made := 0
		err := s.tryLockedAs("prune.lock", func() (err error) {
			r, made, err = s.repackRound(ctx, &out)
			return err
		})
		if errors.Is(err, errLocked) || err == nil && r == nil {
			return out, nil
		}
		if err != nil && (r == nil || !replication.NoSpace(err)) {
			return out, err
		}
		full := err != nil // what was copied may do, and what was copied before a kill
		gone := out.Packs
		for at := 0; at < len(r.old); at += dropAtOnce {
			batch := r.old[at:min(at+dropAtOnce, len(r.old))]
			err := alone(func() error {
				return s.tryLockedAs("prune.lock", func() error {
					return s.locked(func() error { return s.dropCoveredLocked(r, batch, &out) })
				})
			})
			if errors.Is(err, errLocked) {
				return out, nil
			}
			if err != nil {
				return out, err
			}
		}
		if full || gone == out.Packs && made == 0 {
			return out, nil
		}
	}
	return out, context.Cause(ctx)
}

// repackRound chooses packs and copies; nil: there is nothing to do. With NoSpace it has copied what there was room for.
func (s *Store) repackRound(ctx context.Context, out *Repacked) (*repacking, int, error) {
	r := &repacking{refs: marks{}, seen: map[string]fs.FileInfo{}, safe: map[replication.Hash]struct{}{}}
	if err := s.reference(r.refs, r.seen, nil); err != nil {
		return nil, 0, err
	}
	room, err := s.Room()
	if err != nil {
		return nil, 0, err
	}
	if r.budget = min(repackBytes, (room.Free-room.Least)/2); r.budget < s.smallPack() {
		r.budget = 0 // what came of it would be small itself
	}
	if r.old, err = s.toRepack(r.refs); err != nil || len(r.old) == 0 {
		return nil, 0, err
	}
	only, elsewhere, err := s.places(r.old, r.refs)
	if err != nil {
		return nil, 0, err
	}
	for h, w := range elsewhere {
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
		if _, err := s.getFrom(w, readStored); err != nil {
			only[h] = struct{}{}
			continue
		}
		r.safe[h] = struct{}{}
	}
	sealed, err := s.copyChunks(ctx, r, only)
	made := 0
	for _, pf := range sealed {
		n := len(r.old)
		// From the same content in the same order the same pack comes out.
		if r.old = slices.DeleteFunc(r.old, func(p *pack) bool { return p.hash == pf.Hash }); len(r.old) == n {
			made++
			out.Freed -= pf.Size
		}
	}
	out.Made += made
	return r, made, err
}

// toRepack chooses packs, the oldest first. What is younger than the grace period may be on its way.
func (s *Store) toRepack(refs marks) (old []*pack, err error) {
	all, err := s.index.all()
	if err != nil {
		return nil, err
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
		// What nobody needs is swept; what cannot be read is a scrub's, or a person's.
		switch needed, held := p.needed(refs); {
		case needed == 0 || p.unfit.Load():
		case p.size < s.smallPack():
			small = append(small, p)
		case needed < held/2:
			sparse = append(sparse, p)
		}
	}
	if old, err = season(sparse); err != nil {
		return nil, err
	}
	if len(small) >= s.o.ManySmall {
		if small, err = season(small); err != nil {
			return nil, err
		}
		if len(small) >= s.o.ManySmall {
			old = append(old, small...)
		}
	}
	slices.SortFunc(old, func(a, b *pack) int {
		if c := made[a].Compare(made[b]); c != 0 {
			return c
		}
		return bytes.Compare(a.hash[:], b.hash[:])
	})
	chunks := 0
	for i, p := range old {
		if chunks += len(p.chunks); i == repackPacks || i > 0 && chunks > repackChunks {
			return old[:i], nil
		}
	}
	return old, nil
}

// smallPack is below which size a pack is small, bytes.
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

// places are where the chunks of refs in those packs are: in no other pack of the store, or elsewhere as well.
func (s *Store) places(packs []*pack, refs marks) (only map[replication.Hash]struct{}, elsewhere map[replication.Hash]where, err error) {
	all, err := s.index.all()
	if err != nil {
		return nil, nil, err
	}
	only, elsewhere = map[replication.Hash]struct{}{}, map[replication.Hash]where{}
	among := map[replication.Hash]struct{}{}
	for _, p := range packs {
		among[p.hash] = struct{}{}
		for _, c := range p.chunks {
			if refs.has(c.hash) {
				only[c.hash] = struct{}{}
			}
		}
	}
	for _, p := range all {
		if _, is := among[p.hash]; is {
			continue
		}
		for i, c := range p.chunks {
			if _, is := only[c.hash]; is {
				delete(only, c.hash)
				elsewhere[c.hash] = where{p, i}
			}
		}
	}
	return only, elsewhere, nil
}

// copyChunks puts the chunks of only into new packs of the store, each verified, as far as the
// budget goes. What is damaged is left to a scrub.
func (s *Store) copyChunks(ctx context.Context, r *repacking, only map[replication.Hash]struct{}) ([]PackFile, error) {
	w := s.NewPack()
	defer w.Abort()
	for _, p := range r.old {
		err := s.copyPack(ctx, w, r, p, only)
		if err == nil || errors.Is(err, fs.ErrNotExist) { // a scrub set it aside
			continue
		}
		full, over := replication.NoSpace(err), ctx.Err() != nil
		if !full && !over {
			p.unfit.Store(true)
		}
		if full || over || w.failed != nil {
			w.Abort()
			return w.sealed, err
		}
		s.log.Error("a pack is not written anew with others; understudy scrub mends it", "pack", p.path(), "error", err)
	}
	_, err := w.Seal()
	return w.sealed, err
}

func (s *Store) copyPack(ctx context.Context, w *PackWriter, r *repacking, p *pack, only map[replication.Hash]struct{}) error {
	if r.budget <= 0 {
		return nil
	}
	f, err := os.Open(p.path())
	if err != nil {
		return err
	}
	defer f.Close()
	twin := &tree.Twin{Clone: f} // blocks that live files share are shared by the new pack as well
	for _, c := range p.chunks {
		if _, is := only[c.hash]; !is {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.budget -= int64(c.stored); r.budget < 0 {
			return nil // the next round goes on with it
		}
		stored := make([]byte, c.stored)
		if _, err := f.ReadAt(stored, c.offset()); err != nil {
			return &DamagedPack{p.hash, err}
		}
		if _, err := s.codec.unpack(stored, c); err != nil {
			return &DamagedPack{p.hash, err}
		}
		if err := w.put(c, stored, twin, c.offset()); err != nil {
			return err
		}
		delete(only, c.hash) // once is enough
		r.safe[c.hash] = struct{}{}
	}
	return nil
}

// dropCoveredLocked removes those of the packs of which all that is needed, also by what was committed since,
// is safe, and in a pack that is not one of the round's.
func (s *Store) dropCoveredLocked(r *repacking, packs []*pack, out *Repacked) error {
	if err := s.reference(r.refs, r.seen, nil); err != nil {
		return err
	}
	only, _, err := s.places(r.old, r.refs)
	if err != nil {
		return err
	}
	var gone []*pack
	for _, p := range packs {
		stays := slices.ContainsFunc(p.chunks, func(c packChunk) bool {
			_, last := only[c.hash]
			_, safe := r.safe[c.hash]
			return last || !safe && r.refs.has(c.hash)
		})
		if !stays {
			gone = append(gone, p)
		}
	}
	if err := s.removePacksLocked(gone); err != nil {
		return err
	}
	out.Packs += len(gone)
	for _, p := range gone {
		out.Freed += p.size
	}
	return s.index.look()
}
