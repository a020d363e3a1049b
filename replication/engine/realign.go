package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/capture"
	"github.com/understudy-ha/understudy/replication/store"
)

// Realign turns a former active's history round. Another node was promoted with
// a newer term from base; what this store has beyond base was received by
// nobody. It is archived as diverged, content and all, then the head is set back
// to base (to none where the store has not got it, so that the next
// generation that arrives starts the history anew). Killed in between, it is done again: archiving the
// same content twice is archiving it once.
//
// What the live trees hold beyond that may not be sealed yet: it is archived after it (lastOwn). The caller starts
// no container in between.
func (e *Engine) Realign(ctx context.Context, base replication.ID) (archived []string, err error) {
	e.lockWork()
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
		// between stay in the store for a day, moved aside by Reset; pinned ones for good.
		pins, err := e.store.Pins()
		if err != nil {
			return nil, err
		}
		for _, id := range generations {
			pinned := slices.ContainsFunc(pins, func(p store.Pin) bool { return p.ID == id })
			if id != newest && (!pinned || id.Compare(base) <= 0) {
				continue
			}
			m, err := e.store.Load(id)
			if err != nil {
				return archived, err
			}
			copied := *m
			name, err := e.store.Diverge(&copied)
			if err != nil {
				return archived, fmt.Errorf("archiving the diverged generation %s: %w", id, err)
			}
			archived = append(archived, name)
		}
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

// mostEnds is how many terms other nodes are told of.
const mostEnds = 16

// Ends are the sequences with which the newest terms before the head's ended in its history: a
// former active finds in it where its own history parts from this one.
func (e *Engine) Ends() map[uint64]uint64 {
	ends, err := e.store.Ends()
	if err != nil {
		e.log.Warn("where earlier terms ended cannot be read", "error", err)
	}
	terms := slices.Sorted(maps.Keys(ends))
	for _, term := range terms[:max(0, len(terms)-mostEnds)] {
		delete(ends, term)
	}
	return ends
}

// SealDirty takes care of what containers wrote on this node in a term that
// ended without a final capture: the node went down. Where nobody has been
// promoted since, as far as the store knows, it is sealed as the term's next
// generation, and archived is empty. Where the store knows of a newer term, and be it since
// the trees began to be read, it belongs to no chain any more, and where a volume is missing, it is no
// generation: it is archived as diverged, or it is nothing (ErrUnchanged is not returned: both results are empty).
func (e *Engine) SealDirty(ctx context.Context, r replication.SealRequest) (res replication.SealResult, archived string, err error) {
	newest, err := e.store.Term()
	if err != nil {
		return res, "", err
	}
	if newest <= r.Term && len(r.Missing) == 0 {
		if res, err = e.Seal(ctx, r); !errors.Is(err, replication.ErrStaleTerm) {
			return res, "", err
		}
	}
	archived, err = e.ArchiveTree(ctx, r)
	return replication.SealResult{}, archived, err
}

// CheckTree looks, by stat alone where it can, whether the live trees are still at
// the generation that was applied last. Changes made while the service was out of
// the cluster's hands are kept: sealed where this node's term is the newest and no volume is missing, else
// archived as diverged. sure: look also where that means to read everything.
// Both results are empty when there is nothing, or nothing to compare with.
func (e *Engine) CheckTree(ctx context.Context, r replication.SealRequest, sure bool) (res replication.SealResult, archived string, err error) {
	head, err := e.store.Head()
	at := e.Applied()
	if err != nil || at.IsZero() {
		return res, "", err
	}
	newest, err := e.store.Term()
	if err != nil {
		return res, "", err
	}
	base, err := e.store.Load(at)
	if errors.Is(err, replication.ErrNotFound) {
		return res, "", nil
	}
	if err != nil || !sure && e.indexOf(base) == nil {
		return res, "", err
	}
	if at == head && newest <= r.Term && len(r.Missing) == 0 {
		res, err = e.Seal(ctx, r)
		if err == nil && res.New {
			return res, "", nil
		}
		if !errors.Is(err, replication.ErrStaleTerm) { // the term may become known while the trees are read
			return replication.SealResult{}, "", err
		}
	}
	archived, err = e.archive(ctx, r, base)
	return replication.SealResult{}, archived, err
}

// ArchiveForeign archives what somebody wrote to a standby's live trees, beside the
// generation that they are at: never sealed, or this node would have a history that no
// other has. "": there is nothing of that kind. The next Apply looks at the whole trees.
func (e *Engine) ArchiveForeign(ctx context.Context, r replication.SealRequest) (string, error) {
	at := e.Applied()
	if at.IsZero() {
		return "", nil // they are at no generation: what is foreign in them cannot be told
	}
	base, err := e.store.Load(at)
	if err != nil {
		return "", err
	}
	name, err := e.archive(ctx, r, base)
	if err != nil {
		return "", err
	}
	return name, e.Recheck()
}

// ArchiveOther archives what lies in other directories than the trees were in; "": all
// of it is as in the head. The next Apply looks at the whole trees.
func (e *Engine) ArchiveOther(ctx context.Context, r replication.SealRequest) (string, error) {
	head, err := e.HeadManifest()
	if err != nil {
		return "", err
	}
	name, err := e.archive(ctx, r, head)
	if err != nil {
		return "", err
	}
	return name, e.Recheck()
}

// ArchiveTree archives what the live trees are now as a diverged generation, and
// names it; "" when they hold nothing that this node's own last generation does
// not. What was archived already is named again. The next Apply looks at the whole trees.
func (e *Engine) ArchiveTree(ctx context.Context, r replication.SealRequest) (string, error) {
	base, archived, err := e.lastOwn(r.Term)
	if err != nil {
		return "", err
	}
	name, err := e.archive(ctx, r, base)
	if err != nil {
		return "", err
	}
	return cmp.Or(name, archived), e.Recheck()
}

// archive archives how the live trees differ from base, if they do. Where they do,
// the next Apply looks at the whole trees.
func (e *Engine) archive(ctx context.Context, r replication.SealRequest, base *replication.Manifest) (name string, err error) {
	e.lockWork()
	defer e.work.Unlock()
	pack := e.newPack(replication.SealRequest{})
	defer e.sentAhead()
	defer func() { e.noRoom(err) }()
	defer pack.Abort()
	asOf := time.Now()
	res, err := e.capturer.Capture(ctx, capture.Request{Volumes: volumes(r.Roots), Base: base, Index: e.indexOf(base), Sink: pack, Content: e.store.Get})
	if errors.Is(err, replication.ErrUnchanged) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if _, err := pack.Seal(); err != nil {
		return "", err
	}
	m := next(base, r, res, e.store.Service(), asOf)
	if base != nil && base.ID.Term > r.Term { // a standby's tree was touched: it goes on from what was applied
		m.ID = replication.ID{Term: base.ID.Term, Seq: base.ID.Seq + 1}
	}
	m.ID.Term = max(m.ID.Term, 1) // what a node had before it was ever promoted

	if len(r.Missing) > 0 && base != nil && len(m.DeltaFrom(base).Volumes) == 0 { // base has what is here
		return "", e.applier.SetApplied(replication.ID{})
	}
	if name, err = e.store.Diverge(m); err != nil {
		return "", err
	}
	return name, e.applier.SetApplied(replication.ID{})
}

// lastOwn is the newest generation that is not of a later term than term: what
// the live trees of a former active went on from. Nil where there is none. What
// Realign has archived of that term counts, as archived: what goes on from it is numbered after it.
func (e *Engine) lastOwn(term uint64) (m *replication.Manifest, archived string, err error) {
	list, err := e.store.Generations()
	if err != nil {
		return nil, "", err
	}
	var own replication.ID
	for _, id := range list {
		if id.Term <= term {
			own = id
		}
	}
	diverged, err := e.store.Diverged()
	if err != nil {
		return nil, "", err
	}
	for _, d := range slices.Backward(diverged) {
		if d.ID.Term != term || d.ID.Compare(own) <= 0 {
			continue
		}
		m, err := e.store.LoadDiverged(d.Name)
		if err == nil {
			return m, d.Name, nil
		}
		e.log.Warn("an archived generation cannot be read", "generation", d.Name, "error", err) // a scrub says more
	}
	if own.IsZero() {
		return nil, "", nil
	}
	m, err = e.store.Load(own)
	return m, "", err
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
