package service

import (
	"context"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// stop leaves: no container, no address, no score. It never validates, and it
// succeeds when there is nothing (a failed stop gets the node fenced).
func (s *Service) stop(ctx context.Context, spec api.Spec) error {
	// What was started under earlier parameters is taken down as well.
	all := union(s.snapshot().Spec, spec)
	if err := s.adopt(all); err != nil {
		s.log.Warn("parameters could not be recorded", "error", err)
	}
	s.loop.stop()
	rec := s.snapshot()
	if rec.Role != api.RoleStopped || rec.Step != stepNone {
		if err := s.persist(func(r *record) { r.Step = stepStopping }); err != nil {
			s.log.Error("the record could not be written", "error", err) // stop goes on: see below
		}
		s.saveLocal()
	}
	podmanAsked := rec.Role == api.RoleActive || rec.Step == stepPromoting || rec.Step == stepDemoting
	if podmanAsked {
		hctx, cancel := handOverTime(ctx)
		err := s.leaveActive(hctx, true)
		cancel()
		if err != nil {
			s.log.Warn("no clean hand-over before the stop; what was written is sealed at the next start", "error", err)
		}
	}
	if err := s.clearScore(ctx); err != nil {
		s.log.Warn("the promotion score could not be cleared", "error", err)
	}
	spec = s.snapshot().Spec
	if podmanAsked {
		// Podman had its chance: what is left is ended, and proved, without it.
		s.tidy.Wait()
		if err := s.Procs.Evict(ctx, spec.Containers); err != nil {
			return err
		}
	} else if err := s.stopContainers(ctx, spec); err != nil {
		return err
	}
	if err := s.VIP.Remove(ctx, spec); err != nil {
		return err
	}
	if err := s.persist(func(r *record) { r.Role, r.Step = api.RoleStopped, stepNone }); err != nil {
		// Nothing runs and no address is held: that is what stop answers for.
		s.log.Error("the record could not be written", "error", err)
	}
	s.removeLocal()
	if s.snapshot().Newest {
		s.loop.start(s.runNewest)
	}
	return nil
}

// handOverTime is what a clean hand-over gets of a stop's time: with a hung Podman
// the rest must be enough to end the processes without it.
func handOverTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if d, ok := ctx.Deadline(); ok {
		return context.WithTimeout(ctx, time.Until(d)*2/3)
	}
	return context.WithCancel(ctx)
}

// union is the service as it is and was: every container and address of both.
func union(old, spec api.Spec) api.Spec {
	if spec.Empty() {
		return old
	}
	spec.Containers = append(slices.Clone(spec.Containers), without(old.Containers, spec.Containers)...)
	spec.VIPs = append(slices.Clone(spec.VIPs), without(old.VIPs, spec.VIPs)...)
	return spec
}
