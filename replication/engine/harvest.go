package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree"
)

// harvest looks in the live trees for content that the store has lost, where the head,
// or what the trees are at, says that it may be, and puts back what has the right
// hash. It answers how many chunks that were.
func (e *Engine) harvest(ctx context.Context, l replication.Lacks, rootsOf func(context.Context) (map[string]string, error)) (n int, err error) {
	roots, err := rootsOf(ctx)
	if err != nil {
		return 0, err
	}
	want := map[replication.Hash]bool{}
	for _, text := range l.Chunks {
		h, err := store.ParseHash(text)
		if err != nil {
			return 0, err
		}
		want[h] = true
	}
	m, err := e.HeadManifest()
	if at := e.Applied(); err != nil && !at.IsZero() {
		m, err = e.store.Load(at)
	}
	if err != nil || m == nil {
		return 0, nil //nolint:nilerr // without a manifest nobody can say where to look
	}
	pack := e.store.NewPack()
	pack.Final = true // it may take what is set aside
	defer pack.Abort()
	for i := range m.Volumes {
		v := &m.Volumes[i]
		if roots[v.Name] == "" {
			continue
		}
		got, err := harvestVolume(ctx, v, roots[v.Name], want, pack)
		n += got
		if err != nil {
			return n, err
		}
	}
	_, err = pack.Seal()
	return n, err
}

func harvestVolume(ctx context.Context, v *replication.Volume, path string, want map[replication.Hash]bool, pack *store.PackWriter) (n int, err error) {
	root, err := tree.OpenRoot(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for en := range v.Entries.All() {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		got, err := harvestFile(root, en, want, pack)
		n += got
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func harvestFile(root *tree.Root, en *replication.Entry, want map[replication.Hash]bool, pack *store.PackWriter) (n int, err error) {
	wanted := func(c replication.Chunk) bool { return c.Skip == 0 && want[c.Hash] }
	if !slices.ContainsFunc(en.Chunks, wanted) {
		return 0, nil
	}
	f, err := root.Open(en.Path)
	if err != nil {
		return 0, nil //nolint:nilerr // it is not there any more, and so not the content
	}
	defer f.Close()
	for _, c := range en.Chunks {
		if !wanted(c) {
			continue
		}
		b := make([]byte, c.Length)
		if _, err := f.ReadAt(b, c.Offset); err != nil || replication.Hash(blake3.Sum256(b)) != c.Hash {
			continue
		}
		if err := pack.Put(c.Hash, b, nil, 0); err != nil {
			return n, err
		}
		delete(want, c.Hash)
		n++
	}
	return n, nil
}
