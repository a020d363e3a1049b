package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/probe"
)

// round is a rehearsal under way.
type round struct {
	*Options
	Round
	session  Session
	readied  api.ServiceStatus // the survivor's, as late as possible before its promotion
	offset   time.Duration     // the survivor's clock minus that of the agent that was asked: none, where that is its own
	activeAt time.Time
	term     uint64   // of the victim, before the harm
	returned bool     // the victim is active again, by a promotion after the harm
	archived []string // on the victim before the harm: of former losses
}

// For a prober to end and read back its writes; shorter when a person waits for an interrupt to be heeded.
const (
	stopWait      = time.Minute
	interruptWait = 3 * time.Second
)

func (r *round) run(ctx context.Context) (err error) {
	if r.Before != nil {
		if err := r.Before(ctx, r.Round.Round); err != nil {
			return err
		}
	}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	if err := r.measure(ctx); err != nil {
		return err
	}
	defer r.stopSession(ctx) // in case of an early return; the second stop is a no-op
	r.Progress(fmt.Sprintf("%s: harm to %s (the active node) now; %s should take over", r.Method.Name(), r.Victim, r.Survivor))
	defer func() { err = errors.Join(err, r.restore(ctx)) }()
	if err := r.harm(ctx); err != nil {
		return err
	}
	r.Progress(fmt.Sprintf("%s is active and answers; reading back", r.Survivor))
	r.stopSession(ctx)
	r.collectJournals(ctx)
	return nil
}

func (r *round) prepare(ctx context.Context) error {
	r.Progress("waiting until a failover would succeed")
	var last error
	err := poll(ctx, r.ReadyWait, 250*time.Millisecond, func(ctx context.Context) (string, error) {
		ready, err := r.Cluster.Ready(ctx, "", r.Service)
		if err != nil {
			last = err
			return err.Error(), nil
		}
		r.Victim, r.Survivor, last = Pair(ready)
		if last != nil {
			return last.Error(), nil
		}
		return "", nil
	})
	if err != nil {
		if errors.Is(last, ErrNotReady) {
			return last
		}
		return err
	}
	if r.Check != nil {
		return r.Check(r.Victim, r.Survivor)
	}
	return nil
}

// measure starts the client and waits until it has steady answers; then it waits a
// random while, so that the harm does not always meet the same moment of a replication cycle.
func (r *round) measure(ctx context.Context) error {
	s, err := r.Prober.Start(ctx, r.Round.Round)
	if err != nil {
		return fmt.Errorf("the probe does not start: %w", err)
	}
	r.session = s
	r.Progress("measuring; waiting for steady answers")
	since := time.Now()
	err = poll(ctx, r.ReadyWait, 50*time.Millisecond, func(context.Context) (string, error) {
		if err := r.alive(); err != nil {
			return "", err
		}
		snap := s.Snapshot()
		if !snap.Answering {
			since = time.Now()
			return "the service does not answer the probe", nil
		}
		if time.Since(since) < r.Warmup {
			return "the answers are not steady", nil
		}
		return "", nil
	})
	if err != nil {
		r.stopSession(ctx)
		return err
	}
	return sleep(ctx, rand.N(r.Jitter)) // no secret: it only spreads the harm over time
}

func (r *round) alive() error {
	select {
	case <-r.session.Done():
		_, err := r.session.Stop(context.Background())
		return errors.Join(errors.New("the probe ended before the drill did"), err)
	default:
		return nil
	}
}

// harm does it and watches the survivor until it serves, however long the method
// itself takes to return.
func (r *round) harm(ctx context.Context) error {
	r.look(ctx)
	r.archived = r.diverged(ctx)
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	r.HarmAt = time.Now()
	go func() { done <- r.Method.Harm(hctx, r.Victim) }()
	harmErr := errors.New("under way")
	wait := done
	err := poll(ctx, r.RecoverWait, 50*time.Millisecond, func(ctx context.Context) (string, error) {
		select {
		case harmErr = <-wait:
			wait = nil
			if harmErr != nil {
				return "", fmt.Errorf("%s of %s failed: %w", r.Method.Name(), r.Victim, harmErr)
			}
			r.phase(PhaseHarmDone, time.Now(), "drill", "")
		default:
		}
		if err := r.alive(); err != nil {
			return "", err
		}
		r.look(ctx)
		if r.returned {
			return "", fmt.Errorf("%s came back and went on with %s before %s took over: what was rehearsed is a restart; see understudy log %s", r.Victim, r.Service, r.Survivor, r.Service)
		}
		return r.recovered(wait == nil), nil
	})
	cancel()
	if wait != nil {
		<-done // the method's goroutine is ours
	}
	return err
}

// look asks the survivor's agent. Until it is promoted its status says what it will
// go on with: nothing new can reach it from a dead node.
func (r *round) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st, err := r.Cluster.Status(ctx, r.Survivor)
	if err != nil {
		return
	}
	for _, n := range st.Nodes {
		if n.Node == r.Survivor {
			r.offset = time.Duration(n.ClockOffset)
		}
		for _, s := range n.Services {
			switch {
			case s.Service != r.Service:
			case n.Node == r.Victim:
				r.lookAtVictim(s)
			case n.Node != r.Survivor:
			case s.Role == api.RoleStandby && r.activeAt.IsZero():
				r.readied = s
			case s.Role == api.RoleActive && r.activeAt.IsZero():
				r.activeAt = time.Now()
			}
		}
	}
}

// lookAtVictim notices that it is active by a later promotion than before the harm.
func (r *round) lookAtVictim(s api.ServiceStatus) {
	switch {
	case s.Role != api.RoleActive:
	case r.HarmAt.IsZero():
		r.term = s.Term
	case r.term != 0 && s.Term > r.term:
		r.returned = true
	}
}

// recovered says what is still missing; empty when the client has had steady answers from the new active.
func (r *round) recovered(harmDone bool) string {
	snap := r.session.Snapshot()
	switch {
	case r.activeAt.IsZero():
		return r.Survivor + " is not active"
	case !snap.Answering:
		return "the service does not answer the probe"
	case time.Since(r.activeAt) < r.Settle || !snap.LastOK.After(r.HarmAt):
		return "the answers are not steady"
	case !harmDone:
		return r.Method.Name() + " has not returned"
	}
	return ""
}

// stopSession keeps the probe's result, once.
func (r *round) stopSession(ctx context.Context) {
	if r.session == nil || r.Probe != nil {
		return
	}
	wait := stopWait
	if ctx.Err() != nil {
		wait = interruptWait
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	res, err := r.session.Stop(ctx)
	if err != nil {
		r.note("the probe's result is missing: %v", err)
		return
	}
	r.Probe = &res
}

// restore runs also when the drill is interrupted: a node must not be left in the
// state that the drill put it in. Waiting for protection is given up on interrupt.
func (r *round) restore(ctx context.Context) error {
	r.Progress("bringing " + r.Victim + " back")
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.RestoreWait)
	err := r.Method.Restore(rctx, r.Victim)
	cancel()
	if err != nil {
		return fmt.Errorf("%s could not be brought back: %w; it needs a person", r.Victim, err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.Progress("waiting until " + r.Service + " is protected again")
	err = poll(ctx, r.RestoreWait, 250*time.Millisecond, func(ctx context.Context) (string, error) {
		ready, err := r.Cluster.Ready(ctx, r.Survivor, r.Service)
		if err == nil {
			_, _, err = Pair(ready)
		}
		if err != nil {
			return err.Error(), nil
		}
		return "", nil
	})
	if err != nil {
		return fmt.Errorf("%s is not protected again: %w", r.Service, err)
	}
	now := time.Now()
	r.phase(PhaseProtected, now, "agent", r.Victim+" is a ready standby")
	r.RestoreMS = millis(now.Sub(r.HarmAt))
	r.Diverged = slices.DeleteFunc(r.diverged(ctx), func(name string) bool { return slices.Contains(r.archived, name) })
	return nil
}

// diverged are the generations that are archived on the victim, as the survivor hears.
func (r *round) diverged(ctx context.Context) []string {
	st, err := r.Cluster.Status(ctx, r.Survivor)
	if err != nil {
		return nil
	}
	for _, n := range st.Nodes {
		for _, s := range n.Services {
			if n.Node == r.Victim && s.Service == r.Service {
				return slices.Clone(s.Diverged)
			}
		}
	}
	return nil
}

func (r *round) phase(name string, at time.Time, source, detail string) {
	r.Phases = append(r.Phases, Phase{Name: name, At: at, Source: source, Detail: detail})
}

func (r *round) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

var _ Session = (*probe.Run)(nil)
