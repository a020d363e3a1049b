package engine

import (
	"context"
	"errors"
	"fmt"
	"github.com/understudy-ha/understudy/replication/capture"
	"time"

	"github.com/understudy-ha/understudy/replication"
)

// Realign turns a former active's history round. Another node was promoted with
// a newer term from base; what this store has beyond base was received by
// nobody. It is archived as diverged, content and all, then the head is set back
// to base (to none where the store has not got it, so that the next
// generation that arrives starts the history anew). Killed in between, it is done again: archiving the
// same content twice is archiving it once.
//
// The live trees were sealed before: the caller starts no container in between.
func (e *Engine) Realign(ctx context.Context, base replication.ID) (archived []string, err error) {
	e.work.Lock()
	defer e.work.Unlock()
	generations, err := e.store.Generations()
	if err != nil {
		return nil, err
	}
	to := replication.ID{}
	var newest replication.ID
	for _, id := range generations {
		if id == base {
			to = base
		}
		if id.Compare(base) > 0 {
			newest = id
		}
	}
	if !newest.IsZero() {
		// The newest holds everything: a generation is a full state. The ones
		// between stay in the store, moved aside by Reset.
		m, err := e.store.Load(newest)
		if err != nil {
			return nil, err
		}
		copied := *m
		name, err := e.store.Diverge(&copied)
		if err != nil {
			return nil, fmt.Errorf("archiving the diverged generation %s: %w", newest, err)
		}
		archived = append(archived, name)
	}
	if ctx.Err() != nil {
		return archived, ctx.Err()
	}
	if err := e.store.Reset(to); err != nil {
		return archived, err
	}
	e.mu.Lock()
	e.head = nil
	e.mu.Unlock()
	return archived, nil
}

// ArchiveTree archives what the live trees are now as a diverged generation: data
// that was on this node before it first took part.
func (e *Engine) ArchiveTree(ctx context.Context, r replication.SealRequest) (string, error) {
	e.work.Lock()
	defer e.work.Unlock()
	pack := e.store.NewPack()
	defer pack.Abort()
	m, err := e.captureAll(ctx, r, pack)
	if err != nil {
		return "", err
	}
	if _, err := pack.Seal(); err != nil {
		return "", err
	}
	return e.store.Diverge(m)
}

// Diverged names the archived diverged generations.
func (e *Engine) Diverged() []string {
	list, err := e.store.Diverged()
	if err != nil {
		if !errors.Is(err, replication.ErrNotFound) {
			e.log.Warn("the archive of diverged generations cannot be listed", "error", err)
		}
		return nil
	}
	var names []string
	for _, d := range list {
		names = append(names, d.Name)
	}
	return names
}

// captureAll reads the trees whole, as a manifest that belongs to no chain.
func (e *Engine) captureAll(ctx context.Context, r replication.SealRequest, sink capture.Sink) (*replication.Manifest, error) {
	asOf := time.Now()
	res, err := e.capturer.Capture(ctx, capture.Request{Volumes: volumes(r.Roots), Sink: sink})
	if err != nil {
		return nil, err
	}
	m := next(nil, r, res, e.store.Service(), asOf)
	return m, nil
}
