package service

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-ha/understudy/agent/api"
)

// promote makes this node active. This is the takeover; the order is what keeps
// the invariants:
//
//  1. refuse what must not be promoted, before anything is touched;
//  2. the term: reserved ahead, checked against the CIB (invariant 1);
//  3. "promoting with this term" is durable;
//  4. the store is fenced with the term: stale senders are refused from here (2);
//  5. the live tree is brought to exactly the committed head (3), then "dirty" is durable;
//  6. containers start;
//  7. addresses, announced; the role is durable.
//
// The network is asked for a duplicate of the address from the begin on, beside
// steps 2 to 6; the answer is awaited before 7. Nothing before 7 can be seen from
// outside. Where a container publishes a port on the address alone, 7 comes before 6.
//
// A failure after 3 undoes: addresses off, containers stopped, what they wrote sealed.
func (s *Service) promote(ctx context.Context, spec api.Spec) error {
	if err := s.adopt(spec); err != nil {
		return err
	}
	rec := s.snapshot()
	if rec.Role == api.RoleActive && rec.Step == stepNone {
		if h, _ := s.look(ctx); h != api.HealthFailed {
			return nil
		}
		return api.Errorf(api.KindFailedActive, "Pacemaker demotes and promotes again", "service %s is active on %s but a container or address is gone", s.name, s.Node)
	}
	if rec.Role != api.RoleStandby {
		return api.Errorf(api.KindGeneric, "Pacemaker orders start before promote", "service %s is %s on %s and cannot be promoted", s.name, rec.Role, s.Node)
	}
	if why := s.blockers(); len(why) > 0 && rec.Step != stepPromoting {
		return api.Errorf(api.KindRefused, "understudy status shows both nodes", "service %s is not promoted on %s: %s", s.name, s.Node, strings.Join(why, "; "))
	}
	unique := s.probeAddresses(ctx)
	s.loop.stop() // an apply under way is taken up below, from its journal
	term, err := s.takeTerm(ctx)
	if err != nil {
		s.loop.start(s.runStandby)
		return err
	}
	if err := s.activate(ctx, term, unique); err != nil {
		s.undo(term, err)
		return err
	}
	s.loop.start(s.runActive)
	return nil
}

// takeTerm makes the promotion's term and step durable.
func (s *Service) takeTerm(ctx context.Context) (uint64, error) {
	began := s.Now()
	if rec := s.snapshot(); rec.Step == stepPromoting {
		return rec.Term, nil // killed in the middle: go on with the same term
	}
	if err := s.reserve(ctx); err != nil {
		return 0, err
	}
	head, err := s.Replica.Head()
	if err != nil {
		return 0, err
	}
	err = s.persist(func(r *record) {
		r.Step, r.Term, r.Reserved, r.Clean, r.Newest, r.Origin, r.Base = stepPromoting, r.Reserved, 0, false, false, false, head.String()
	})
	s.saveLocal() // what the resource agent must look for, should we die from here on
	term := s.snapshot().Term
	s.stepDone("term", term, began)
	s.Crash("promote:term")
	return term, err
}

// probeAddresses starts to ask the network for duplicates; its result waits for the answer.
func (s *Service) probeAddresses(ctx context.Context) (unique func() error) {
	done := make(chan error, 1)
	spec := s.snapshot().Spec
	go func() { done <- s.VIP.Probe(ctx, spec) }() // ends with ctx, which ends with the operation
	return func() error { return <-done }
}

// activate does steps 4 to 7.
func (s *Service) activate(ctx context.Context, term uint64, unique func() error) error {
	began := s.Now()
	if err := s.Replica.Fence(term); err != nil {
		return err
	}
	s.Crash("promote:fenced")
	settled, err := s.settleTree(ctx)
	if err != nil {
		return err
	}
	s.stepDone("tree", term, began)
	s.Crash("promote:tree")
	if settled {
		s.Replica.Promoted()
	}
	began = s.Now()
	spec := s.snapshot().Spec
	err = s.startContainers(ctx, spec)
	if errors.Is(err, ErrNeedsAddress) {
		// Then the address comes first; nobody is served until the container runs.
		if err = unique(); err == nil {
			err = s.VIP.Add(ctx, spec)
		}
		if err == nil {
			err = s.startContainers(ctx, spec)
		}
		unique = func() error { return nil }
	}
	if err != nil {
		return err
	}
	s.stepDone("containers", term, began)
	s.Crash("promote:containers")
	began = s.Now()
	if err := unique(); err != nil {
		return err
	}
	if err := s.VIP.Add(ctx, spec); err != nil {
		return err
	}
	s.stepDone("address", term, began)
	s.Crash("promote:address")
	if err := s.persist(func(r *record) { r.Role, r.Step = api.RoleActive, stepNone }); err != nil {
		return err
	}
	s.mu.Lock()
	s.health = api.HealthHealthy
	s.mu.Unlock()
	s.saveLocal()
	return nil
}

// settleTree brings the live tree to exactly the committed head. Where there is
// no head, the tree is the origin's own. It ends with the durable mark "dirty": from
// then on containers may write, so a promotion that is taken up after a kill must
// not apply again, and a demotion must seal. Before, the tree may be between two
// generations, and nothing may be sealed. False: containers may have written already.
func (s *Service) settleTree(ctx context.Context) (settled bool, err error) {
	if s.snapshot().Dirty {
		return false, nil
	}
	def, head, err := s.headDefinition()
	if err != nil {
		return false, err
	}
	if !head.IsZero() {
		if err := s.prepare(ctx, def); err != nil {
			return false, err
		}
		if err := s.goBack(def, head); err != nil {
			return false, err
		}
		if err := s.applyHead(ctx); err != nil {
			return false, err
		}
	}
	if err := s.persist(func(r *record) { r.Dirty, r.Adopted, r.Restore = true, true, "" }); err != nil {
		return false, err
	}
	// The trees are at no generation from here on.
	return true, s.Replica.Recheck()
}

// startContainers starts the containers in the order in which they are named, then
// makes sure that all of them run.
func (s *Service) startContainers(ctx context.Context, spec api.Spec) error {
	for _, name := range spec.Containers {
		if err := s.Runtime.Start(ctx, name); err != nil {
			return fmt.Errorf("container %s of service %s does not start on %s: %w", name, s.name, s.Node, err)
		}
	}
	all, ctx := errgroup.WithContext(ctx)
	for _, name := range spec.Containers {
		all.Go(func() error { return s.sawStarted(ctx, name) })
	}
	return all.Wait()
}

func (s *Service) sawStarted(ctx context.Context, name string) error {
	c, err := s.Runtime.Inspect(ctx, name)
	if err != nil {
		return err
	}
	if !c.Running {
		return api.Errorf(api.KindGeneric, "see podman logs "+name, "container %s of service %s ended as soon as it was started on %s", name, s.name, s.Node)
	}
	s.mu.Lock()
	s.seen[name] = c
	s.mu.Unlock()
	return nil
}

// undo takes back a promotion that failed half-way. It has its own time: the
// operation's may be what ran out.
func (s *Service) undo(term uint64, cause error) {
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	s.decide(api.EventPromote, term, "the promotion failed and is undone: %v", cause)
	if err := s.clearScore(ctx); err != nil {
		s.log.Warn("the promotion score could not be cleared", "error", err)
	}
	if err := s.leaveActive(ctx, false); err != nil {
		s.log.Error("a failed promotion could not be undone; Pacemaker's stop will finish it", "error", err)
		return
	}
	s.loop.start(s.runStandby)
}
