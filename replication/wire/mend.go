package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// Mend sends what the peer says that it has lost of what was committed, as far as
// we have it, and nothing else. It may be asked of any node, whatever its role: what
// it sends is content by its hash, and generations that the peer knows by its own
// record. It answers how many packs and manifests it sent.
func (s *Shipper) Mend(ctx context.Context, p Peer) (sent int, err error) {
	state, err := p.State(ctx, s.o.Source.Service())
	if err != nil {
		return 0, err
	}
	return s.mend(ctx, p, state.Lacks)
}

func (s *Shipper) mend(ctx context.Context, p Peer, lacks *replication.Lacks) (sent int, err error) {
	if lacks == nil {
		return 0, nil
	}
	var r Report
	var wanted []replication.Hash
	for _, text := range lacks.Chunks {
		h, err := store.ParseHash(text)
		if err != nil {
			return 0, err
		}
		wanted = append(wanted, h)
	}
	if err := s.mendChunks(ctx, p, wanted, &r); err != nil {
		return r.Packs, fmt.Errorf("mend the peer's content: %w", err)
	}
	var errs []error
	for _, id := range lacks.Generations {
		done, err := s.mendGeneration(ctx, p, id, &r)
		if done {
			return r.Packs + 1, nil // what hangs on it may be whole again: the peer says so the next time
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("mend the peer's generation %s: %w", id, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return r.Packs, errors.Join(errs...)
}

// mendChunks sends those of wanted that we have.
func (s *Shipper) mendChunks(ctx context.Context, p Peer, wanted []replication.Hash, r *Report) error {
	ours, err := s.o.Source.Missing(wanted)
	if err != nil {
		return err
	}
	lost := map[replication.Hash]bool{}
	for _, h := range ours {
		lost[h] = true
	}
	var have []replication.Hash
	for _, h := range wanted {
		if !lost[h] {
			have = append(have, h)
		}
	}
	return s.chunks(ctx, p, replication.ID{}, slices.Values(have), r)
}

// mendGeneration sends a generation whole. One that we have not is not done, and no error.
func (s *Shipper) mendGeneration(ctx context.Context, p Peer, id replication.ID, r *Report) (done bool, err error) {
	m, err := s.o.Source.Load(id)
	if errors.Is(err, replication.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	whole := *m
	whole.Delta = nil
	encoded, err := store.EncodeManifest(&whole)
	if err != nil {
		return false, err
	}
	if err := s.chunks(ctx, p, id, store.Added(&whole), r); err != nil {
		return false, err
	}
	err = p.Commit(ctx, s.o.Source.Service(), id, encoded)
	return err == nil, err
}
