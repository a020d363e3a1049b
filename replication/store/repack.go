package store

import (
	"bytes"
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

	// At most so much in one Prune: captures and applies wait for it.
	repackPacks = 4096
	repackBytes = 64 << 20
)

// repack is for whoever holds the prune lock and has carried out the plan. Killed anywhere,
// some chunks are in two packs, and the next finds that out. Where there is no room for it, it
// is left for later.
func (s *Store) repack(pl *plan, out *Pruned) error {
	old, err := s.toRepack(pl.refs)
	if err != nil || len(old) == 0 {
		return err
	}
	only, err := s.onlyIn(old, pl.refs)
	if err != nil {
		return err
	}
	made, err := s.copyChunks(old, only)
	if replication.NoSpace(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.locked(func() error { return s.dropRepackedLocked(pl, old, made, out) })
}

// toRepack chooses packs, the oldest first. What is younger than the grace period may be on its way.
func (s *Store) toRepack(refs marks) ([]*pack, error) {
	all, err := s.index.all()
	if err != nil {
		return nil, err
	}
	made := map[*pack]time.Time{}
	var small, old []*pack
	for _, p := range all {
		needed, held := p.needed(refs)
		if needed == 0 || !s.small(p) && needed >= held/2 { // needed by nobody, it is swept; unreadable, it is left to a person
			continue
		}
		if made[p], err = s.madeAt(p); err != nil {
			return nil, err
		}
		switch {
		case s.young(made[p]):
		case s.small(p):
			small = append(small, p)
		default:
			old = append(old, p)
		}
	}
	if len(small) >= s.o.ManySmall {
		old = append(old, small...)
	}
	slices.SortFunc(old, func(a, b *pack) int {
		if c := made[a].Compare(made[b]); c != 0 {
			return c
		}
		return bytes.Compare(a.hash[:], b.hash[:])
	})
	total := int64(0)
	for i, p := range old {
		needed, _ := p.needed(refs)
		if total += needed; i == repackPacks || i > 0 && total > repackBytes {
			return old[:i], nil
		}
	}
	return old, nil
}

func (s *Store) small(p *pack) bool { return p.size < s.o.PackSize/smallShare }

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

// onlyIn are the chunks of refs that are in those packs, and in no other pack of the store.
func (s *Store) onlyIn(packs []*pack, refs marks) (map[replication.Hash]struct{}, error) {
	only := map[replication.Hash]struct{}{}
	among := map[replication.Hash]struct{}{}
	for _, p := range packs {
		among[p.hash] = struct{}{}
		for _, c := range p.chunks {
			if refs.has(c.hash) {
				only[c.hash] = struct{}{}
			}
		}
	}
	all, err := s.index.all()
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if _, is := among[p.hash]; is {
			continue
		}
		for _, c := range p.chunks {
			delete(only, c.hash)
		}
	}
	return only, nil
}

// copyChunks puts the chunks of only into new packs of the store, each verified. A pack that is
// damaged is left for the scrub, with what could not be read of it.
func (s *Store) copyChunks(from []*pack, only map[replication.Hash]struct{}) ([]PackFile, error) {
	w := s.NewPack()
	defer w.Abort()
	for _, p := range from {
		err := s.copyPack(w, p, only)
		if errors.Is(err, fs.ErrNotExist) {
			continue // set aside by a scrub
		}
		if damaged := new(DamagedPack); errors.As(err, &damaged) {
			s.log.Error("a pack is not written anew with others; understudy scrub mends it", "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	return w.Seal()
}

func (s *Store) copyPack(w *PackWriter, p *pack, only map[replication.Hash]struct{}) error {
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
	}
	return nil
}

// dropRepackedLocked removes the packs of which all that is needed, also by what was committed
// since, is in packs that stay.
func (s *Store) dropRepackedLocked(pl *plan, old []*pack, made []PackFile, out *Pruned) error {
	if err := s.reference(pl.refs, pl.seen, nil); err != nil {
		return err
	}
	// From the same content in the same order the same pack comes out.
	old = slices.DeleteFunc(old, func(p *pack) bool {
		return slices.ContainsFunc(made, func(pf PackFile) bool { return pf.Hash == p.hash })
	})
	only, err := s.onlyIn(old, pl.refs)
	if err != nil {
		return err
	}
	old = slices.DeleteFunc(old, func(p *pack) bool {
		return slices.ContainsFunc(p.chunks, func(c packChunk) bool { _, is := only[c.hash]; return is })
	})
	if err := s.removePacksLocked(old); err != nil {
		return err
	}
	out.Repacked += len(old)
	for _, p := range old {
		out.Bytes += p.size
	}
	for _, pf := range made {
		out.Bytes -= pf.Size
	}
	return s.index.look()
}
