package service

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

const (
	// undoTime bounds taking back a failed promotion: a graceful stop and a seal.
	undoTime = 30 * time.Second
	// finishTime is how long a cycle under way may take to end by itself, with its
	// connection, before it is cut short.
	finishTime = time.Second
	// shipReserve is what a demotion keeps of its time for the record and the answer
	// when the final generation does not get across.
	shipReserve = 2 * time.Second
)

// demote hands over cleanly: containers stopped, what they wrote sealed as the
// term's final generation and shipped, address gone. It succeeds also where
// the standby cannot be reached: the answer to Pacemaker is about this node. What
// did not get across is reported, and this node deserves the higher score.
func (s *Service) demote(ctx context.Context) error {
	rec := s.snapshot()
	if rec.Role == api.RoleStandby && rec.Step == stepNone {
		return nil
	}
	if rec.Role == api.RoleStopped && rec.Step == stepNone {
		return api.Errorf(api.KindNotRunning, "Pacemaker orders start first", "service %s is stopped on %s", s.name, s.Node)
	}
	s.Replica.EndPromoted()
	s.loop.finish(finishTime)
	if err := s.persist(func(r *record) { r.Step = stepDemoting }); err != nil {
		return err
	}
	s.saveLocal()
	s.Crash("demote:persisted")
	if rec.Role == api.RoleActive && rec.Step == stepNone {
		s.mu.Lock()
		s.complete = true // it all is in use
		s.mu.Unlock()
	}
	if err := s.leaveActive(ctx, true); err != nil {
		return err
	}
	s.handedOver = time.Now()
	s.loop.start(s.runStandby)
	return nil
}

// leaveActive takes the node from active, or from a promotion half done, to
// standby. The promotion score stays as it is until the hand-over is done (stop
// and undo clear it themselves): a change now would make Pacemaker plan anew in the
// middle of the move, and if the other node fails, this one has the newest data.
func (s *Service) leaveActive(ctx context.Context, final bool) error {
	rec := s.snapshot()
	s.lastLook(ctx)
	began := s.Now()
	gone, err := s.quiesce(ctx, rec.Spec)
	if err != nil {
		return err
	}
	s.stepDone("stop-containers", rec.Term, began)
	s.Crash("demote:containers")
	if err := s.VIP.Remove(ctx, rec.Spec); err != nil {
		return errors.Join(err, gone())
	}
	s.Crash("demote:address")
	clean, err := s.sealAndShip(ctx, rec, final)
	if err != nil {
		return errors.Join(err, gone())
	}
	// No process of the containers is left: that is what a demotion answers for.
	// Podman's tidying up goes on; the next operation and the standby's preparation wait for it.
	s.tidy.Go(func() {
		if err := gone(); err != nil {
			s.log.Error("after the demotion", "error", err)
		}
	})
	err = s.persist(func(r *record) {
		r.Role, r.Step, r.Dirty, r.Clean = api.RoleStandby, stepNone, false, clean
		r.Newest = !clean && (rec.Dirty || r.Newest)
	})
	s.saveLocal()
	return err
}

// sealAndShip seals what the containers wrote, which no longer run, and says
// whether a standby has it.
func (s *Service) sealAndShip(ctx context.Context, rec record, final bool) (clean bool, err error) {
	if !rec.Dirty {
		return false, nil
	}
	began := s.Now()
	// The definition as it was read last: Podman is busy ending the containers.
	req, err := s.sealRequest(ctx, rec.Term)
	if err != nil {
		return false, err
	}
	req.Final = final
	res, archived, err := s.Replica.SealDirty(ctx, req)
	if err != nil {
		return false, err
	}
	if len(req.Missing) > 0 {
		s.wentWithout(req, archived)
		if res.ID, err = s.Replica.Head(); err != nil || res.ID.IsZero() { // the last that is whole
			return false, err
		}
	} else if archived != "" {
		s.decide(api.EventDiverged, rec.Term, "a newer term's data is here already; what the service wrote in term %[1]d is archived as %[2]s: understudy restore %[3]s %[2]s --to DIR", rec.Term, archived, s.name)
	}
	s.stepDone("seal", rec.Term, began)
	if res.ID.IsZero() {
		return true, nil // nothing of this term is left to send
	}
	s.Crash("demote:sealed")
	began = s.Now()
	clean = s.shipFinal(ctx, res.ID.String())
	s.stepDone("ship", rec.Term, began)
	return clean, nil
}

// shipFinal sends the final generation and says whether a standby has it.
func (s *Service) shipFinal(ctx context.Context, id string) bool {
	if d, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, d.Add(-shipReserve))
		defer cancel()
	}
	shipped := false
	for peer, err := range s.Peers.ShipFinal(ctx, s.name) {
		if err == nil {
			shipped = true
			continue
		}
		s.decide(api.EventDemote, s.snapshot().Term, "final generation %s did not reach %s: %v; this node keeps the newest data and the higher promotion score", id, peer, err)
	}
	return shipped
}

// stopContainers ends the service's containers and proves it.
func (s *Service) stopContainers(ctx context.Context, spec api.Spec) error {
	gone, err := s.quiesce(ctx, spec)
	if err != nil {
		return err
	}
	return gone()
}

// quiesce asks the containers to end, last started first, and returns when no
// process of theirs writes any more. Podman may still be tidying up: gone waits
// for it, ends by force what is left, and proves without Podman that nothing is.
func (s *Service) quiesce(ctx context.Context, spec api.Spec) (gone func() error, err error) {
	polite, cancel := politeTime(ctx, time.Duration(spec.StopTimeout))
	var tidy sync.WaitGroup
	for _, name := range slices.Backward(spec.Containers) {
		grace := time.Duration(spec.StopTimeout)
		if d, ok := polite.Deadline(); ok {
			grace = min(grace, time.Until(d)-time.Second)
		}
		stopped := make(chan struct{})
		s.askToEnd(name)
		tidy.Go(func() {
			defer close(stopped)
			if err := s.Runtime.Stop(polite, name, max(grace, 0)); err != nil {
				s.log.Warn("Podman did not stop a container; its processes are ended without it", "container", name, "error", err)
			}
		})
		began := s.Now()
		s.awaitEnd(name, stopped)
		s.log.Debug("container ended", "container", name, "took", s.Now().Sub(began))
	}
	finish := func() error {
		tidy.Wait()
		cancel()
		ectx, done := outlast(ctx)
		defer done()
		err := s.Procs.Evict(ectx, spec.Containers)
		s.mu.Lock()
		clear(s.seen)
		s.health = api.HealthUnknown
		s.prepared = ""
		s.mu.Unlock()
		if err != nil {
			return api.Errorf(api.KindGeneric, "the node must be fenced if they cannot be ended", "service %s: processes of its containers are left on %s: %v", s.name, s.Node, err)
		}
		return nil
	}
	if s.anyRuns(spec) {
		// Podman is done and a process may still be there: the proof comes before anything else.
		if err := finish(); err != nil {
			return nil, err
		}
		return func() error { return nil }, nil
	}
	return finish, nil
}

// askToEnd sends the stop signal at once; Podman, which is asked as well, takes
// tens of milliseconds to send it, and sees to those that do not heed it.
func (s *Service) askToEnd(name string) {
	s.mu.Lock()
	c, ok := s.seen[name]
	s.mu.Unlock()
	if !ok || !c.Running {
		return
	}
	if err := s.Procs.AskToEnd(c); err != nil {
		s.log.Warn("a container could not be signalled; Podman is asked", "container", name, "error", err)
	}
}

// awaitEnd returns when the container's process has ended, or Podman has nothing
// more to do about it.
func (s *Service) awaitEnd(name string, stopped <-chan struct{}) {
	s.mu.Lock()
	c, ok := s.seen[name]
	s.mu.Unlock()
	for ok && !s.Procs.Ended(c) {
		select {
		case <-stopped:
			return
		case <-time.After(time.Millisecond):
		}
	}
	if !ok { // not known: only Podman can say
		<-stopped
	}
}

// anyRuns says whether a process of the containers may be left. One that was not
// seen counts: only the proof can tell.
func (s *Service) anyRuns(spec api.Spec) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range spec.Containers {
		if c, ok := s.seen[name]; !ok || !s.Procs.Ended(c) {
			return true
		}
	}
	return false
}

// politeTime bounds the part of a stop in which Podman is asked: a hung Podman
// must leave time for the kill.
func politeTime(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	budget := grace + 3*time.Second
	if d, ok := ctx.Deadline(); ok {
		budget = min(budget, time.Until(d)/2)
	}
	// Podman's tidying up outlasts a demotion: it must not be cut short by its end.
	return context.WithTimeout(context.WithoutCancel(ctx), budget)
}

// outlast keeps the operation's deadline but not its end.
func outlast(ctx context.Context) (context.Context, context.CancelFunc) {
	d, ok := ctx.Deadline()
	if !ok {
		d = time.Now().Add(undoTime)
	}
	return context.WithDeadline(context.WithoutCancel(ctx), d)
}
