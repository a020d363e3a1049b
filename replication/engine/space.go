package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// Pruning looks at every manifest: it may take a hundredth of the time.
const (
	pruneEvery = time.Minute
	pruneShort = 5 * time.Second // where the disk is short
	pruneShare = 100

	repackEvery = 10 * time.Minute
)

// space is how far history has given way to keep the disk from filling up.
type space struct {
	short   bool               // it does, until there is a quarter more room than it takes
	thinned int                // how often it was halved
	orphans []replication.Hash // packs of captures that found no room
}

// Room is what the store's disk has left; the history that is kept instead of what is
// configured where that is less, else the zero Policy.
func (e *Engine) Room() (store.Room, store.Policy, error) {
	room, err := e.store.Room()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.space.thinned == 0 {
		return room, store.Policy{}, err
	}
	return room, e.policy.Thinned(e.space.thinned), err
}

// Prune applies the retention policy, at most once a minute, or more often and less
// history where the disk is short. History gives way step by step, down to the floor.
func (e *Engine) Prune() error {
	began := time.Now()
	room, rerr := e.store.Room()
	e.mu.Lock()
	thinned := e.space.thinned
	e.mu.Unlock()
	policy, due := e.policyNow(began, room, rerr == nil)
	if !due {
		return rerr
	}
	policy.Applied = e.liveAt()
	out, err := e.store.Prune(policy)
	if errors.Is(err, store.ErrBusy) { // it was not: history has not given way, and what is to go has not gone
		e.mu.Lock()
		e.space.thinned, e.nextPrune = thinned, began.Add(pruneShort)
		e.mu.Unlock()
		return rerr
	}
	took := time.Since(began)
	e.log.Debug("pruned", "generations", len(out.Generations), "packs", out.Packs, "bytes", out.Bytes, "took", took, "free", room.Free)
	every := pruneEvery
	if policy.Short {
		every = pruneShort
	}
	e.mu.Lock()
	e.nextPrune = began.Add(max(every, pruneShare*took))
	if err == nil {
		e.space.orphans = nil
	}
	e.mu.Unlock()
	return errors.Join(rerr, err)
}

// policyNow is what to keep, and whether it is time to see to it.
func (e *Engine) policyNow(now time.Time, room store.Room, known bool) (store.Policy, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := e.space.short
	if known {
		e.space.short = room.Short() || was && room.Free < room.Spare+room.Spare/4
	}
	if !now.After(e.nextPrune) && (was || !e.space.short) {
		return store.Policy{}, false
	}
	switch {
	case !e.space.short:
		e.space.thinned = 0
	case room.Short() && e.policy.Thins(e.space.thinned+1):
		e.space.thinned++
	}
	policy := e.policy.Thinned(e.space.thinned)
	policy.Short, policy.Orphans = e.space.short, slices.Clone(e.space.orphans)
	e.nextPrune = now.Add(pruneEvery)
	return policy, true
}

// noRoom notes the packs of a capture that ended for want of room: they are what filled
// the disk, and nothing needs them.
func (e *Engine) noRoom(err error) {
	if !replication.NoSpace(err) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.ahead {
		e.space.orphans = append(e.space.orphans, p.Hash)
	}
	e.nextPrune = time.Time{}
}

// Repack writes small and sparse packs anew, at its pace, until ctx ends; ten minutes after it ended it may begin again. It is for
// whoever nobody waits for.
func (e *Engine) Repack(ctx context.Context, pace store.Pace) error {
	began := time.Now()
	e.mu.Lock()
	due := began.After(e.nextRepack)
	if due {
		e.nextRepack = began.Add(repackEvery)
	}
	e.mu.Unlock()
	if !due {
		return nil
	}
	// A capture that has found its content in a pack must find it there when it commits.
	out, err := e.store.Repack(ctx, pace, func(remove func() error) error {
		for !e.work.TryLock() {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(20 * time.Millisecond):
			}
		}
		defer e.work.Unlock()
		return remove()
	})
	took := time.Since(began)
	e.mu.Lock()
	e.nextRepack = began.Add(took + repackEvery)
	e.mu.Unlock()
	if out != (store.Repacked{}) {
		e.log.Info("packs were written anew", "packs", out.Packs, "into", out.Made, "freed", out.Freed, "took", took.Round(time.Millisecond))
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}
