package capture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// frozen runs work while the containers stand still, at most for limit (0: no
// bound). The thaw does not wait for work: a timer thaws on time even when work
// hangs in the kernel, and what work did is then dropped. It returns how long
// the containers stood still, also with an error.
func frozen(ctx context.Context, f Freezer, limit time.Duration, hook durable.Hook, work func(context.Context) error) (took time.Duration, err error) {
	if f == nil {
		return 0, work(ctx)
	}
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	tooLong := fmt.Errorf("%w: the containers run again after %s, this capture is dropped; if that goes on, raise freeze-max", ErrFreezeTooLong, limit)
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, tooLong)
		defer cancel()
	}
	if err := hook.At("freeze"); err != nil {
		return 0, err
	}
	start := time.Now()
	thaw, err := f.Freeze(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		if still, ok := errors.AsType[*replication.StoodStill](err); ok {
			took = still.For
		}
		return took, fmt.Errorf("freeze: %w", err)
	}
	var (
		once    sync.Once
		stood   time.Duration
		thawErr error
		done    = make(chan struct{})
		waiter  sync.WaitGroup
	)
	thawOnce := func() {
		once.Do(func() {
			thawErr = errors.Join(hook.At("thaw"), thaw()) // whatever happens before, it is thawed
			stood = time.Since(start)
		})
	}
	waiter.Go(func() {
		select {
		case <-ctx.Done():
			thawOnce()
		case <-done:
		}
	})
	defer func() { // also when work panics
		thawOnce()
		close(done)
		waiter.Wait()
		took = stood
		if thawErr != nil {
			err = errors.Join(err, fmt.Errorf("thaw: %w", thawErr))
		}
	}()
	err = work(ctx)
	if ctx.Err() != nil { // thawed under work's hands, or about to be
		err = context.Cause(ctx)
	}
	return 0, err
}
