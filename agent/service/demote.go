package service

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

const (
	// undoTime bounds taking back a failed promotion: a graceful stop and a seal.
	undoTime = 30 * time.Second
	// shipReserve is what a demotion keeps of its time for the record and the answer
	// when the final generation does not get across.
	shipReserve = 2 * time.Second
)

// demote hands over cleanly: containers stopped, what they wrote sealed as the
// term's final generation and shipped, address gone. It succeeds also where
// the standby cannot be reached: the answer to Pacemaker is about this node. What
// did not get across is reported, and this node stays the better candidate.
func (s *Service) demote(ctx context.Context) error {
	rec := s.snapshot()
	if rec.Role == api.RoleStandby && rec.Step == stepNone {
		return nil
	}
	if rec.Role == api.RoleStopped && rec.Step == stepNone {
		return api.Errorf(api.KindNotRunning, "", "service %s is stopped on %s", s.name, s.Node)
	}
	s.loop.stop()
	if err := s.persist(func(r *record) { r.Step = stepDemoting }); err != nil {
		return err
	}
	s.Crash("demote:persisted")
	if err := s.leaveActive(ctx, true); err != nil {
		return err
	}
	s.loop.start(s.runStandby)
	return nil
}

// leaveActive takes the node from active, or from a promotion half done, to standby.
func (s *Service) leaveActive(ctx context.Context, final bool) error {
	rec := s.snapshot()
	var score sync.WaitGroup
	score.Go(func() {
		// No candidate while it hands over: Pacemaker must not promote it at once.
		if err := s.clearScore(ctx); err != nil {
			s.log.Warn("the promotion score could not be cleared", "error", err)
		}
	})
	defer score.Wait()
	began := s.Now()
	if err := s.stopContainers(ctx, rec.Spec); err != nil {
		return err
	}
	s.stepDone("stop-containers", rec.Term, began)
	s.Crash("demote:containers")
	if err := s.VIP.Remove(ctx, rec.Spec); err != nil {
		return err
	}
	s.Crash("demote:address")
	clean := false
	if rec.Dirty {
		began = s.Now()
		req, err := s.sealRequest(ctx, rec.Term)
		if err != nil {
			return err
		}
		req.Final = final
		res, err := s.Replica.Seal(ctx, req)
		if err != nil {
			return err
		}
		s.stepDone("seal", rec.Term, began)
		s.Crash("demote:sealed")
		began = s.Now()
		clean = s.shipFinal(ctx, res.ID.String())
		s.stepDone("ship", rec.Term, began)
	}
	err := s.persist(func(r *record) {
		r.Role, r.Step, r.Dirty, r.Clean, r.FreshAt = api.RoleStandby, stepNone, false, clean, s.Now().UnixNano()
	})
	s.saveLocal()
	return err
}

// shipFinal sends the final generation and says whether a standby has it.
func (s *Service) shipFinal(ctx context.Context, id string) bool {
	if d, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, d.Add(-shipReserve))
		defer cancel()
	}
	shipped := false
	for peer, err := range s.Peers.Ship(ctx, s.name) {
		if err == nil {
			shipped = true
			continue
		}
		s.decide(api.EventDemote, s.snapshot().Term, "final generation %s did not reach %s: %v; this node keeps the newest data and stays the better candidate", id, peer, err)
	}
	return shipped
}

// stopContainers ends the service's containers, last started first: asked
// politely through Podman, and proved (and forced) without it.
func (s *Service) stopContainers(ctx context.Context, spec api.Spec) error {
	polite, cancel := politeTime(ctx, time.Duration(spec.StopTimeout))
	defer cancel()
	for _, name := range slices.Backward(spec.Containers) {
		grace := time.Duration(spec.StopTimeout)
		if d, ok := polite.Deadline(); ok {
			grace = min(grace, time.Until(d)-time.Second)
		}
		if err := s.Runtime.Stop(polite, name, max(grace, 0)); err != nil {
			s.log.Warn("Podman did not stop a container; its processes are ended without it", "container", name, "error", err)
		}
	}
	if err := s.Procs.Evict(ctx, spec.Containers); err != nil {
		return api.Errorf(api.KindGeneric, "the node must be fenced if they cannot be ended", "service %s: processes of its containers are left on %s: %v", s.name, s.Node, err)
	}
	s.mu.Lock()
	clear(s.seen)
	s.health = api.HealthUnknown
	s.prepared = ""
	s.mu.Unlock()
	return nil
}

// politeTime bounds the part of a stop in which Podman is asked: a hung Podman
// must leave time for the kill.
func politeTime(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	budget := grace + 3*time.Second
	if d, ok := ctx.Deadline(); ok {
		budget = min(budget, time.Until(d)*2/3)
	}
	return context.WithTimeout(ctx, budget)
}
