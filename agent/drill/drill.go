package drill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// NodeLoss rehearses the loss of the active node. The report is valid, as far as the
// drill came, also when an error is returned; a round that failed ends the drill.
func NodeLoss(ctx context.Context, o Options) (*Report, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	rep := &Report{Kind: "node-loss", Service: o.Service, Method: o.Method.Name(), Started: time.Now()}
	var err error
	for n := 1; n <= o.Rounds && err == nil; n++ {
		o.Progress(fmt.Sprintf("round %d of %d", n, o.Rounds))
		r := &round{Options: &o, Round: Round{Round: n, Phases: []Phase{}}}
		if err = r.run(ctx); err != nil {
			r.Error = err.Error()
		}
		r.analyze()
		rep.Rounds = append(rep.Rounds, r.Round)
	}
	rep.Ended = time.Now()
	rep.Figures = figures(rep.Rounds)
	return rep, err
}

// Pair names the active node of a service and the one that would take over, from an
// agent's readiness; not being ready is an error that says why.
func Pair(r api.Readiness) (active, standby string, err error) {
	if !r.Ready || r.Active == "" || r.Standby == "" {
		return "", "", notReady(r)
	}
	return r.Active, r.Standby, nil
}

// ErrNotReady is in the chain when a failover would not succeed.
var ErrNotReady = errors.New("not ready")

func notReady(r api.Readiness) error {
	why := "no reason is given"
	for i, b := range r.Blockers {
		if i == 0 {
			why = b
		} else {
			why += "; " + b
		}
	}
	return fmt.Errorf("%w: a failover of %s would not succeed now: %s", ErrNotReady, r.Service, why)
}

// poll calls f until it is done, fails, or limit is over. f tells what is still missing,
// and the last such reason is in the error.
func poll(ctx context.Context, limit, every time.Duration, f func(ctx context.Context) (missing string, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := "nothing was heard"
	for {
		missing, err := f(ctx)
		if err != nil {
			return err
		}
		if missing == "" {
			return nil
		}
		if ctx.Err() == nil {
			last = missing
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not within %s: %s", limit, last)
			}
			return ctx.Err()
		case <-time.After(every):
		}
	}
}
