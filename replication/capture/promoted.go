package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// Promoted clones the large files of trees that were applied to be base, and not captured, as far as index says that
// they still are: then the first capture compares extents, too, where it would have to read these files and
// what the store has of them. It takes a time for each of their extents, and the containers may start meanwhile: a
// file that was written to before its clone was made shows that in its ctime, and is left to the capture. Until at
// nobody but the apply wrote. The files that changed last come first, as they are those that will.
// Capture, Close and this exclude each other.
func (c *Capturer) Promoted(ctx context.Context, at time.Time, vs []Volume, base *replication.Manifest, index *tree.Index) (clones int, err error) {
	j := &job{c: c, r: Request{Volumes: vs, Base: base, Index: index}, at: at.UnixNano()}
	defer func() { err = errors.Join(err, j.close()) }()
	if err := j.open(); err != nil {
		return 0, err
	}
	for _, v := range j.vols {
		n, err := j.cloneApplied(ctx, v)
		clones += n
		if err != nil {
			return clones, fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return clones, nil
}

// promotedClones is how many files of a volume are cloned at a promotion: some of those that a capture finds busy have
// to find room beside them.
const promotedClones = maxClones / 2

// cloneApplied is Promoted of one volume.
func (j *job) cloneApplied(ctx context.Context, v *volume) (clones int, err error) {
	if !v.indexed() {
		return 0, nil
	}
	var large []*replication.Entry
	for e := range v.base.All() {
		if e.Type == replication.TypeFile && e.Link == "" && e.Size >= largeFile && v.shadows.of[e] == nil {
			large = append(large, e)
		}
	}
	slices.SortStableFunc(large, func(a, b *replication.Entry) int { return cmp.Compare(b.MtimeNs, a.MtimeNs) })
	for _, e := range large[:min(len(large), promotedClones)] {
		// In the clock tick in which the apply wrote to it, which the index counts as unsure, nobody but the apply did:
		// from the next one on a write shows.
		if st, ok := v.index.Get(e.Path); !ok || st.Unsure(j.at) {
			continue
		}
		kept, err := j.cloneOne(ctx, v, e)
		if err != nil {
			return clones, err
		}
		if kept {
			clones++
		}
	}
	return clones, nil
}

// cloneOne is Promoted of one file.
func (j *job) cloneOne(ctx context.Context, v *volume, e *replication.Entry) (kept bool, err error) {
	f, err := v.root.Open(e.Path)
	if tree.Vanished(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	was, _ := v.index.Get(e.Path)
	if is, err := tree.FileStat(f); err != nil || is != was {
		return false, err
	}
	if can, err := v.canClone(f); err != nil || !can {
		return false, err
	}
	c, err := j.newClone(ctx, v, f, e.Size)
	if err != nil || c == nil {
		return false, err
	}
	s := c.shadow()
	if err := j.c.hook.At("cloned " + e.Path); err != nil {
		return false, errors.Join(err, s.close())
	}
	if is, err := tree.FileStat(f); err != nil || is != was {
		return false, errors.Join(err, s.close())
	}
	return true, v.shadows.put(e, s)
}
