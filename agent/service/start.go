package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-ha/understudy/agent/api"
)

// start makes the node a standby: nothing of the service runs, what an earlier
// life wrote is sealed, and the replica is kept warm from here on.
func (s *Service) start(ctx context.Context, spec api.Spec) error {
	if err := s.adopt(spec); err != nil {
		return err
	}
	rec := s.snapshot()
	if rec.Role == api.RoleStandby && rec.Step == stepNone {
		return s.offerScore(ctx)
	}
	if rec.Role == api.RoleActive {
		// start ends unpromoted, whatever was before (OCF 1.1).
		return s.demote(ctx)
	}
	if _, err := s.validate(ctx, spec); err != nil {
		return err
	}
	if err := s.persist(func(r *record) { r.Step = stepStarting }); err != nil {
		return err
	}
	s.Crash("start:persisted")
	outside := s.runsOutside(ctx)
	if err := s.stopContainers(ctx, rec.Spec); err != nil {
		return err
	}
	if err := s.VIP.Remove(ctx, rec.Spec); err != nil {
		return err
	}
	if err := s.checkMounted(ctx); err != nil {
		return err
	}
	s.makeWay(ctx)
	if err := s.sealDirty(ctx); err != nil {
		return err
	}
	if err := s.keepOutside(ctx, outside); err != nil {
		return err
	}
	s.Crash("start:sealed")
	if err := s.neutralise(ctx); err != nil {
		return err
	}
	origin, err := s.isOrigin(ctx)
	if err != nil {
		return err
	}
	if err := s.persist(func(r *record) {
		r.Role, r.Step, r.BootID, r.Origin = api.RoleStandby, stepNone, bootID(), origin
	}); err != nil {
		return err
	}
	s.saveLocal()
	if err := s.reserve(ctx); err != nil {
		s.log.Warn("no term is reserved yet; it is tried again", "error", err)
	}
	s.loop.start(s.runStandby)
	return s.offerScore(ctx)
}

// makeWay has the new active's history arrive here while sealDirty reads the live trees, which takes as long as
// they are large: what this node has beyond it is set aside before, where gossip knows it already. Else the
// node is sent nothing until it has started, and the only copy of what is written now is the active's.
func (s *Service) makeWay(ctx context.Context) {
	rec := s.snapshot()
	active, ok := s.activePeer()
	if !ok || !rec.Dirty || active.Term <= rec.Term {
		return
	}
	err := s.turnRound(ctx)
	if err == nil {
		err = s.Replica.Fence(active.Term) // what was written in the old term goes on from nothing here
	}
	if err != nil {
		s.log.Warn("the new active's history cannot arrive before the service has started here", "error", err)
	}
}

// runsOutside says whether a container of the service runs before Pacemaker had it
// started: somebody works with it by hand.
func (s *Service) runsOutside(ctx context.Context) bool {
	for _, name := range s.snapshot().Spec.Containers {
		if c, err := s.Runtime.Inspect(ctx, name); err == nil && c.Running && !c.Infra {
			return true
		}
	}
	return false
}

// keepOutside keeps what was written to a clean node's tree while the service was
// out of the cluster's hands: a resource that was deleted and made again, a
// container started by hand on a standby.
func (s *Service) keepOutside(ctx context.Context, outside bool) error {
	rec := s.snapshot()
	if head, err := s.Replica.Head(); err != nil || head.IsZero() {
		return err
	}
	req, err := s.sealRequest(ctx, rec.Term)
	if err != nil {
		return err
	}
	if len(req.Missing) > 0 { // it is made again, and what is in its place archived, before this node is offered
		s.mu.Lock()
		s.complete = false
		s.mu.Unlock()
	}
	res, archived, err := s.Replica.CheckTree(ctx, req, outside)
	switch {
	case err != nil:
		return fmt.Errorf("service %s: what was written on %s outside the cluster cannot be kept: %w", s.name, s.Node, err)
	case archived != "":
		s.decide(api.EventDiverged, rec.Term, "what was written here outside the cluster is archived as %[1]s: understudy restore %[2]s %[1]s --to DIR", archived, s.name)
	case !res.ID.IsZero():
		s.decide(api.EventRecover, rec.Term, "what was written here outside the cluster is sealed as generation %s", res.ID)
	}
	return nil
}

// localDefinition is the definition as Podman has it now; where Podman cannot
// say, the one read or sealed last.
func (s *Service) localDefinition(ctx context.Context) (Definition, error) {
	rec := s.snapshot()
	def, err := s.Runtime.Define(ctx, rec.Spec)
	s.mu.Lock()
	known := s.defined
	if err == nil {
		s.defined = def
	}
	s.undefined = err
	s.mu.Unlock()
	if err == nil {
		return def, s.takeMembers(def)
	}
	if len(known.Bytes) > 0 {
		return known, nil
	}
	if head, _, herr := s.headDefinition(); herr == nil && len(head.Bytes) > 0 {
		return head, nil
	}
	return Definition{}, err
}

// isOrigin says whether the containers exist here and no history does: the node
// where the service was set up, before its first promotion.
func (s *Service) isOrigin(ctx context.Context) (bool, error) {
	head, err := s.Replica.Head()
	if err != nil || !head.IsZero() {
		return false, err
	}
	spec := s.snapshot().Spec
	if len(spec.Containers) == 0 || len(spec.Absent) > 0 {
		return false, nil
	}
	for _, name := range spec.Containers {
		if _, err := s.Runtime.Inspect(ctx, name); errors.Is(err, ErrNoContainer) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}

// neutralise turns off what would start the containers at boot behind Pacemaker's back.
func (s *Service) neutralise(ctx context.Context) error {
	for _, name := range s.snapshot().Spec.Containers {
		_, err := s.Runtime.Inspect(ctx, name)
		if errors.Is(err, ErrNoContainer) {
			continue // a standby may not have it yet
		}
		if err != nil {
			return err
		}
		if err := s.Runtime.Neutralise(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// reserve makes sure that a term lies ready for the next promotion.
func (s *Service) reserve(ctx context.Context) error {
	rec := s.snapshot()
	known, err := s.Replica.Term()
	if err != nil {
		return err
	}
	above := max(rec.Term, known)
	if rec.Reserved > above && s.Cluster.Check(ctx, s.name, rec.Reserved) == nil {
		return nil
	}
	term, err := s.Cluster.Reserve(ctx, s.name, above)
	if err != nil {
		return fmt.Errorf("service %s: no term could be reserved in the CIB: %w", s.name, err)
	}
	return s.persist(func(r *record) { r.Reserved = term })
}
