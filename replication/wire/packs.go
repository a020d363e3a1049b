package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// put sends packs, several at a time. After a failure none is begun, and those under
// way are waited for: what of them arrives need not be sent again.
func (s *Shipper) put(ctx context.Context, p Peer, id replication.ID, packs []store.PackFile, r *Report) error {
	var total int64
	for _, f := range packs {
		total += f.Size
	}
	var (
		g      errgroup.Group
		sent   atomic.Int64
		failed atomic.Bool
		mu     sync.Mutex // guards r
	)
	g.SetLimit(s.o.Parallel)
	for _, f := range packs {
		g.Go(func() error {
			if failed.Load() {
				return nil
			}
			var of atomic.Int64
			tell := func(n int64) { s.o.Progress(id, sent.Add(n-of.Swap(n)), total) }
			file := File{Path: f.Path, Hash: f.Hash, Size: f.Size}
			if f.Live() {
				file.Open = func() (Content, error) { return f.Open() }
			}
			err := p.PutPack(ctx, s.o.Source.Service(), file, tell)
			if err != nil {
				failed.Store(true)
				if errors.Is(err, replication.ErrBadHash) || errors.Is(err, replication.ErrTruncated) || errors.Is(err, replication.ErrFormat) {
					err = &store.DamagedPack{Pack: f.Hash, Err: err} // on our disk, unless it was on the way
				}
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			r.Packs++
			r.Bytes += f.Size
			return nil
		})
	}
	return g.Wait()
}

// Ahead sends packs of a generation that is still being made, so that most of a large
// one has travelled when it is committed at home. A pack changes nothing by itself and
// nothing needs it: where the generation never comes, the peer sweeps it. A pack that
// the peer has in part is left to Ship. The Report is of packs only.
func (s *Shipper) Ahead(ctx context.Context, p Peer, packs []store.PackFile) (r Report, err error) {
	if len(packs) == 0 {
		return r, nil
	}
	ours, err := s.o.Source.State()
	if err != nil {
		return r, err
	}
	if r.Peer, err = p.State(ctx, ours.Service); err != nil {
		return r, err
	}
	if r.Peer.Term > ours.Term {
		return r, fmt.Errorf("%w: the peer knows term %d, this node %d", replication.ErrStaleTerm, r.Peer.Term, ours.Term)
	}
	var unread error
	asked := make([][]replication.Hash, len(packs))
	for i, f := range packs {
		if asked[i], err = f.Contents(); err != nil {
			var damaged *store.DamagedPack
			if errors.As(err, &damaged) {
				unread = errors.Join(unread, err) // whoever called has it mended
			}
			s.o.Logger.Warn("a pack cannot be read, and is not sent ahead of its generation", "service", ours.Service, "pack", f.Path, "error", err)
			continue
		}
		if r.Peer.Head.IsZero() && len(asked[i]) > 0 {
			// It has none of it, but for packs that arrived before a cut: it is not asked for each chunk.
			asked[i] = []replication.Hash{asked[i][0]}
		}
	}
	missing, err := p.Missing(ctx, ours.Service, slices.Concat(asked...))
	if err != nil {
		return r, err
	}
	lacks := make(map[replication.Hash]struct{}, len(missing))
	for _, h := range missing {
		lacks[h] = struct{}{}
	}
	var whole []store.PackFile
	for i, f := range packs {
		if len(asked[i]) > 0 && !slices.ContainsFunc(asked[i], func(h replication.Hash) bool {
			_, lacked := lacks[h]
			return !lacked
		}) {
			whole = append(whole, f)
		}
	}
	return r, errors.Join(s.put(ctx, p, replication.ID{}, whole, &r), unread)
}
