package service

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// Restore takes the service's data back to a kept or archived generation, in place.
//
// On the active node that is a generation more: the containers end, what they wrote
// is sealed and pinned, the old content becomes the term's next generation, the live
// tree is brought there, and the containers start again. The address stays, Pacemaker
// sees a healthy service, and the standbys follow as always.
//
// Elsewhere it is armed: the node is held at that generation, and when it is promoted
// its term begins with that content, on top of what was committed last, which is pinned.
func (s *Service) Restore(ctx context.Context, name string) (api.RestoreResult, error) {
	res := api.RestoreResult{Service: s.name, Generation: name}
	if name == "" {
		return res, s.disarm()
	}
	// Whatever cannot be read is found out before anything stands still.
	if err := s.Replica.CheckRestore(ctx, name); err != nil {
		return res, s.noRestore(name, err)
	}
	s.operations.Add(1)
	defer s.operations.Add(-1)
	if err := s.acquire(ctx, false); err != nil {
		return res, err
	}
	defer s.op.Unlock()
	s.heedEvictionLocked()
	s.tidy.Wait()
	rec := s.snapshot()
	if rec.Step != stepNone {
		return res, api.Errorf(api.KindBusy, "see understudy log", "service %s is %s on %s", s.name, rec.Step, s.Node)
	}
	if rec.Role != api.RoleActive {
		return res, s.arm(name, &res)
	}
	// A demotion or a stop cuts it short; an operator who has gone away does not.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.opCancel.Lock()
	s.opCancel.cancel = cancel
	s.opCancel.Unlock()
	began := s.Now()
	err := s.restoreActive(ctx, rec, &res)
	d := api.Decision{At: s.Now(), Node: s.Node, Service: s.name, Event: api.EventRestore, Term: rec.Term, Took: api.Duration(s.Now().Sub(began))}
	if err != nil {
		d.Reason = fmt.Sprintf("the data could not be taken back to generation %s: %v", name, err)
	} else {
		d.Reason = fmt.Sprintf("the data was taken back to generation %s, as generation %s; what was there is generation %s, pinned here", name, res.As, res.Before)
	}
	s.Journal.Record(d)
	s.Gossip.Publish()
	return res, err
}

func (s *Service) noRestore(name string, err error) error {
	if errors.Is(err, replication.ErrNotFound) {
		return api.Errorf(api.KindNotFound, "understudy history lists them", "service %s cannot be taken back to generation %s on %s: %v", s.name, name, s.Node, err)
	}
	return api.Errorf(api.KindGeneric, "understudy scrub repairs what another node still has", "service %s cannot be taken back to generation %s on %s: %v", s.name, name, s.Node, err)
}

// restoreActive does it on the active node. Each step is such that a kill after it
// leaves something that Pacemaker's recovery, a demotion and a promotion, takes up:
//
//  1. "restoring" is durable, then the containers end;
//  2. what they wrote is sealed: the tree is at that generation, clean, and this node
//     has the newest data until the standby has it as well;
//  3. the old content is committed as the head: from here on the restore is a fact,
//     and whoever applies the head completes it;
//  4. the tree is brought to the head;
//  5. the mark "dirty", then the containers start.
func (s *Service) restoreActive(ctx context.Context, rec record, res *api.RestoreResult) error {
	s.Replica.EndPromoted()
	s.loop.finish(finishTime)
	if err := s.persist(func(r *record) { r.Step = stepRestoring }); err != nil {
		s.loop.start(s.runActive)
		return err
	}
	s.Crash("restore:persisted")
	committed, err := s.takeBack(ctx, rec, res)
	if err != nil && (committed || ctx.Err() != nil) {
		return err // the monitor says that it failed, and Pacemaker recovers the service
	}
	// Where it failed before it was a fact, the service goes on as it was.
	if aerr := s.goOn(ctx, rec.Spec); aerr != nil {
		return errors.Join(err, aerr)
	}
	s.loop.start(s.runActive)
	return err
}

// takeBack does steps 1 to 4; committed: the old content is the head.
func (s *Service) takeBack(ctx context.Context, rec record, res *api.RestoreResult) (committed bool, err error) {
	req, _, err := s.toSeal(ctx, rec.Term)
	if err != nil {
		return false, err
	}
	if err := s.stopContainers(ctx, rec.Spec); err != nil {
		return false, err
	}
	s.Crash("restore:stopped")
	sealed, archived, err := s.Replica.SealDirty(ctx, req)
	if err != nil {
		return false, err
	}
	if archived != "" {
		return false, api.Errorf(api.KindRefused, "Pacemaker demotes this node", "a newer term's data is here already; what the service wrote is archived as %s", archived)
	}
	if err := s.persist(func(r *record) { r.Dirty, r.Newest, r.Quiesced = false, true, nil }); err != nil {
		return false, err
	}
	s.Crash("restore:sealed")
	res.Before = sealed.ID.String()
	if err := s.Replica.Keep(res.Before, "before "+s.name+" was taken back to "+res.Generation); err != nil {
		return false, err
	}
	if err := s.revert(res, req); err != nil {
		return false, err
	}
	s.Crash("restore:committed")
	if err := s.applyHead(ctx); err != nil {
		return true, err
	}
	s.Crash("restore:applied")
	return true, nil
}

// revert commits the content of res.Generation on top of the head.
func (s *Service) revert(res *api.RestoreResult, req replication.SealRequest) error {
	as, notes, err := s.Replica.Revert(res.Generation, req)
	if err != nil {
		return err
	}
	res.As, res.Warnings = as.String(), notes
	return nil
}

// goOn starts the containers again, on the tree as it is.
func (s *Service) goOn(ctx context.Context, spec api.Spec) error {
	if err := s.persist(func(r *record) { r.Dirty = true }); err != nil {
		return err
	}
	if err := s.Replica.Recheck(); err != nil {
		return err
	}
	if err := s.startContainers(ctx, spec); err != nil {
		return err
	}
	s.Crash("restore:started")
	err := s.persist(func(r *record) { r.Step, r.Newest = stepNone, false })
	s.saveLocal()
	return err
}

// arm notes what this node goes back to when it is promoted.
func (s *Service) arm(name string, res *api.RestoreResult) error {
	if err := s.Replica.Keep(name, "this node is to go back to it when it is promoted"); err != nil {
		return err
	}
	if err := s.persist(func(r *record) { r.Restore = name }); err != nil {
		return err
	}
	res.Armed = true
	s.decide(api.EventRestore, s.snapshot().Term, "this node is held at generation %s and goes on from it when it is promoted (understudy restore %s --cancel: it does not)", name, s.name)
	s.Poke()
	return nil
}

// disarm forgets that.
func (s *Service) disarm() error {
	rec := s.snapshot()
	if rec.Restore == "" {
		return api.Errorf(api.KindNotFound, "", "no restore of service %s is armed on %s", s.name, s.Node)
	}
	if err := s.persist(func(r *record) { r.Restore = "" }); err != nil {
		return err
	}
	s.decide(api.EventRestore, rec.Term, "this node follows the newest generation again; %s stays pinned", rec.Restore)
	s.Poke()
	return nil
}

// goBack begins the term of a promotion with the generation that was armed, or that the
// node was held at because what followed is suspect.
func (s *Service) goBack(def Definition, head replication.ID) error {
	rec := s.snapshot()
	why := ""
	if held := s.held(); rec.Restore == "" && !held.IsZero() {
		rec.Restore = held.String()
		why = fmt.Sprintf("What followed looks like an attack on the data (on-suspect=hold); understudy restore %s --generation %s --in-place takes it after all. ", s.name, head)
	}
	if rec.Restore == "" || head.IsZero() {
		return nil
	}
	m, err := s.Replica.HeadManifest()
	if err != nil {
		return err
	}
	res := api.RestoreResult{Generation: rec.Restore}
	if head.Term != rec.Term { // else it was killed here before
		if err := s.Replica.Keep(head.String(), "before "+s.name+" was taken back to "+rec.Restore); err != nil {
			return err
		}
	}
	if err := s.revert(&res, replication.SealRequest{Term: rec.Term, Definition: def.Bytes, Images: m.Images}); err != nil {
		return err
	}
	s.decide(api.EventRestore, rec.Term, "this node goes on from generation %s, as generation %s; what was committed last is generation %s, pinned here. %s%s", rec.Restore, res.As, head, why, strings.Join(res.Warnings, "; "))
	return nil
}

// target is the generation that a standby's live tree is to be at: the head, unless
// it is held at another, by an operator or because what follows is suspect.
func (s *Service) target() (replication.ID, error) {
	if rec := s.snapshot(); rec.Restore != "" {
		if id, err := replication.ParseID(rec.Restore); err == nil {
			return id, nil
		}
		return s.Replica.Applied(), nil // an archived one: the tree waits where it is
	}
	if held := s.held(); !held.IsZero() {
		return held, nil
	}
	return s.Replica.Head()
}
