package engine

import (
	"context"
	"time"
)

// Promoted is called when the live trees are what the head says and containers are about to write to them. It begins to
// clone their large files, and the first Seal waits for that: see capture.Capturer.Promoted. Whatever else needs
// the trees, a Seal with the containers stopped for one, ends it.
func (e *Engine) Promoted() {
	at := time.Now()
	e.lockWork()
	ctx, cancel := context.WithTimeout(context.Background(), promotedMost)
	e.mu.Lock()
	e.hurry = cancel
	roots := e.roots
	e.mu.Unlock()
	go func() {
		defer e.work.Unlock()
		defer cancel()
		e.cloneApplied(ctx, at, roots)
	}()
}

// promotedMost is how long the first Seal waits at most for what Promoted began: then what it did not come to is
// compared with the store.
const promotedMost = 3 * time.Second

// cloneApplied saves time only: its errors do not matter.
func (e *Engine) cloneApplied(ctx context.Context, at time.Time, roots map[string]string) {
	base, err := e.HeadManifest()
	if err != nil || base == nil {
		return
	}
	index := e.indexOf(base)
	if index == nil {
		return
	}
	began := time.Now()
	n, err := e.capturer.Promoted(ctx, at, volumes(roots), base, index)
	e.log.Debug("large files cloned for the first capture", "files", n, "took", time.Since(began), "error", err)
}

// lockWork takes work from what Promoted began, if that is still going on.
func (e *Engine) lockWork() {
	e.EndPromoted()
	e.work.Lock()
}

// EndPromoted ends what Promoted began, if that is still going on.
func (e *Engine) EndPromoted() {
	e.mu.Lock()
	hurry := e.hurry
	e.mu.Unlock()
	if hurry != nil {
		hurry()
	}
}
