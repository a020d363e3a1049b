package service

import (
	"context"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// inspectEvery is how often containers are looked at without an event: events
// can be lost with Podman's socket.
const inspectEvery = 5 * time.Second

// runActive captures every interval and ships what was captured, side by side: the next generation is captured while
// the last one travels. Where that takes longer, captures keep its pace (see shipping.pace), but never stop: a slow
// link costs freshness on the standby, not sealed history here.
func (s *Service) runActive(ctx context.Context, quit, wake <-chan struct{}) {
	ship := s.startShipping(ctx, quit)
	defer ship.wait()
	defer s.startSettling(ctx)()
	s.forgetStandbyTimes()
	s.assertScore(ctx)
	_, _, _ = s.headDefinition() // the bind mounts that it names are known from here on
	inspected := time.Time{}
	for ctx.Err() == nil {
		began := time.Now()
		changed := s.containersChanged.Swap(false)
		if changed {
			s.forgetDefinition()
			s.remake(ctx)
			// One that was made anew may have a restart policy again.
			if err := s.neutralise(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("it cannot be seen to that nobody but Pacemaker starts the containers", "error", err)
			}
		}
		if changed || time.Since(inspected) > inspectEvery {
			_ = s.refresh(ctx) // it has said so; processes are judged by the kernel
			inspected = time.Now()
		}
		res, err := s.cycle(ctx, ship.now)
		if res.New { // also where the command after the capture failed
			ship.isNew()
		}
		if err != nil && ctx.Err() == nil {
			s.replicationProblem(err)
		} else if err == nil {
			s.replicationProblem(nil)
			s.Gossip.Publish() // how fresh the data is: the standby's RPO hangs on it
		}
		ship.now()
		s.noteLacks()
		s.noteSuspects()
		s.noteSpace()
		if err := s.Replica.Prune(); err != nil {
			s.log.Warn("old generations cannot be pruned", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-quit:
			return
		case <-wake:
		case <-time.After(max(0, time.Duration(s.interval())-time.Since(began))):
		}
		if !ship.pace(ctx, quit) {
			return
		}
	}
}

// forgetStandbyTimes drops what was held against this node, and against the active of that
// time, while this one was a standby.
func (s *Service) forgetStandbyTimes() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = ""
	clear(s.unready)
}

func (s *Service) interval() api.Duration {
	if d := s.snapshot().Spec.Interval; d > 0 {
		return d
	}
	return api.DefaultInterval
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// cycle seals what the containers have written by now. Nothing changed: nothing
// is frozen and nothing written, but the data is known to be fresh. packed is told of
// content that can be sent while the rest is read.
func (s *Service) cycle(ctx context.Context, packed func()) (replication.SealResult, error) {
	rec := s.snapshot()
	q, at, err := s.toSeal(ctx, rec.Term)
	if err != nil {
		return replication.SealResult{}, err
	}
	q.FreezeMax = time.Duration(rec.Spec.FreezeMax)
	q.Processes = func() ([]int, error) { return s.Procs.Members(rec.Spec.Containers) }
	q.Packed = packed
	s.consistently(&q, rec.Spec)
	res, err := s.Replica.Seal(ctx, q)
	if err == nil {
		s.mu.Lock()
		s.sockets = res.Sockets
		s.mu.Unlock()
		err = res.Resume
	}
	if err != nil {
		return res, err
	}
	s.mu.Lock()
	s.freshAt = res.AsOf
	s.mu.Unlock()
	return res, s.noteRoots(at)
}

// definition is the one read last, else read from Podman (localDefinition); containers' events make it forgotten.
func (s *Service) definition(ctx context.Context) (Definition, error) {
	s.mu.Lock()
	def := s.defined
	s.mu.Unlock()
	if len(def.Bytes) > 0 {
		return def, nil
	}
	return s.localDefinition(ctx)
}

// remake makes a container again whose unit the operator has changed: it was removed for that.
func (s *Service) remake(ctx context.Context) {
	spec := s.snapshot().Spec
	if len(spec.Quadlet) == 0 {
		return
	}
	if missing, err := s.missingContainers(ctx, spec); err != nil || len(missing) == 0 {
		return
	}
	if err := s.adoptUnits(ctx, spec); err != nil && ctx.Err() == nil {
		s.log.Warn("a container that was removed cannot be made of its unit", "error", err)
	}
}

func (s *Service) forgetDefinition() {
	s.mu.Lock()
	s.defined = Definition{}
	s.mu.Unlock()
}

// Replicate runs a cycle now and ships it; it answers the generation that at
// least one standby has.
func (s *Service) Replicate(ctx context.Context) (string, error) {
	if rec := s.snapshot(); rec.Role != api.RoleActive || rec.Step != stepNone {
		return "", api.Errorf(api.KindRefused, "ask the active node; understudy status names it", "service %s is %s on %s: only the active node replicates", s.name, orStep(rec), s.Node)
	}
	// Not beside an operation: a demotion's final generation is the last one.
	if !s.op.TryLock() {
		return "", api.Errorf(api.KindBusy, "try again when it is done", "service %s: an operation is under way on %s", s.name, s.Node)
	}
	defer s.op.Unlock()
	res, err := s.cycle(ctx, nil)
	if err != nil {
		return "", err
	}
	peer, results := s.shipFirst(ctx)
	if peer != "" {
		return res.ID.String(), nil
	}
	failed := api.Errorf(api.KindGeneric, "add a [[peer]] to the agent's configuration", "service %s has nobody to replicate to", s.name)
	for peer, err := range results {
		failed = api.Errorf(api.KindGeneric, "see understudy status", "generation %s of service %s did not reach %s: %v", res.ID, s.name, peer, err)
	}
	return res.ID.String(), failed
}
