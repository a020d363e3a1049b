package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
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
	if err := s.keepStray(ctx, outside); err != nil {
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

// sealDirty commits what the containers of an earlier life wrote and nobody
// sealed. It does nothing on a clean node. On a node with data of its own but no history it
// does nothing either: that is the origin, whose data becomes generation one
// when it is promoted, or is archived when another node's data arrives.
func (s *Service) sealDirty(ctx context.Context) error {
	rec := s.snapshot()
	if !rec.Dirty {
		return nil
	}
	req, err := s.sealRequest(ctx, rec.Term)
	if err != nil {
		return err
	}
	if len(req.Missing) > 0 && len(req.Roots) == 0 {
		missing, err := s.missingContainers(ctx, rec.Spec)
		if err != nil {
			return err
		}
		if len(missing) == len(rec.Spec.Containers)+len(rec.Spec.Absent) {
			return api.Errorf(api.KindInstalled,
				"mount what Podman keeps them on; if they were removed on purpose, make an empty volume (podman volume create) and take the service back with understudy restore",
				"service %s wrote on %s what is not captured, and Podman knows none of its containers and volumes any more", s.name, s.Node)
		}
	}
	res, archived, err := s.Replica.SealDirty(ctx, req)
	switch {
	case err != nil:
		return fmt.Errorf("service %s: what it wrote on %s before it went down cannot be sealed: %w", s.name, s.Node, err)
	case len(req.Missing) > 0:
		s.wentWithout(req, archived)
	case archived != "":
		s.decide(api.EventDiverged, rec.Term, "what the service wrote here in term %d and nobody had received is archived as %[2]s: understudy restore %[3]s %[2]s --to DIR", rec.Term, archived, s.name)
	case !res.ID.IsZero():
		s.decide(api.EventRecover, rec.Term, "sealed what the service wrote here before it went down, as generation %s", res.ID)
	default:
		s.decide(api.EventRecover, rec.Term, "nothing was written here in term %d beyond what is sealed or archived", rec.Term)
	}
	return s.persist(func(r *record) { r.Dirty = false })
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

// keepStray keeps what was written to a clean node's tree while the service was
// out of the cluster's hands: a resource that was deleted and made again, a
// container started by hand on a standby.
func (s *Service) keepStray(ctx context.Context, outside bool) error {
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

// sealRequest asks for the live tree as it is, with the containers stopped.
func (s *Service) sealRequest(ctx context.Context, term uint64) (replication.SealRequest, error) {
	def, err := s.activeDefinition(ctx)
	if err != nil {
		return replication.SealRequest{}, err
	}
	r, _, err := s.sealRequestOf(ctx, term, def)
	return r, err
}

// sealRequestOf also gives the directories that it is of.
func (s *Service) sealRequestOf(ctx context.Context, term uint64, def Definition) (r replication.SealRequest, at map[string]string, err error) {
	paths, err := s.Runtime.VolumePaths(ctx, def.Volumes)
	r = replication.SealRequest{Term: term, Roots: paths, Definition: def.Bytes, Images: def.Images}
	if err != nil {
		return r, nil, err
	}
	at = rootsAt(paths)
	if err := s.noteAstray(def, paths, at); err != nil {
		return r, nil, err
	}
	rec := s.snapshot()
	replaced := rec.replaced(at)
	for _, v := range def.Volumes {
		_, ok := paths[v]
		was, known := rec.Roots[v]
		// What is at its path is none of this (wentWithout, keepReplaced), or was made and not filled yet.
		if slices.Contains(rec.Astray, v) || !rec.Dirty && (slices.Contains(replaced, v) || known && (was == rootNone || was == rootForeign)) {
			delete(r.Roots, v)
			delete(at, v)
			r.Missing = append(r.Missing, v)
			continue
		}
		if !ok && slices.Contains(def.Binds, v) { // its file system may not be mounted, and hold what nobody has
			return r, nil, api.Errorf(api.KindGeneric, "mount what it is on, or put it back as it was", "the directory of bind mount %s of service %s is not there on %s", v, s.name, s.Node)
		}
		if !ok {
			r.Missing = append(r.Missing, v)
		}
	}
	r.Still = func() error {
		if maps.Equal(at, rootsAt(r.Roots)) {
			return nil
		}
		return api.Errorf(api.KindGeneric, "put it back as it was", "a directory of service %s was replaced on %s while it was captured", s.name, s.Node)
	}
	return r, at, nil
}

// gone says that the service's definition names volumes that are not here.
func (s *Service) gone(r replication.SealRequest) error {
	if len(r.Missing) == 0 {
		return nil
	}
	s.mu.Lock()
	undefined := s.undefined
	s.mu.Unlock()
	if undefined != nil { // it may be none of the service's any more
		return fmt.Errorf("service %s: nothing is captured, as volume %s of the last generation is not on %s any more, and what it has in its place is not known: %w", s.name, strings.Join(r.Missing, ", "), s.Node, undefined)
	}
	astray := s.snapshot().Astray
	if away := slices.DeleteFunc(slices.Clone(r.Missing), func(v string) bool { return !slices.Contains(astray, v) }); len(away) > 0 {
		return api.Errorf(api.KindGeneric,
			"put it back as it was, or mount it again; or save what the containers have there (podman cp, to another directory), and pcs resource restart "+s.name+", which goes on from the last generation",
			"volume %s of service %s on %s: what is at its path is not what its containers have or had; it was moved, removed or unmounted since they were started, and nothing is captured", strings.Join(away, ", "), s.name, s.Node)
	}
	return api.Errorf(api.KindGeneric, "pcs resource restart "+s.name+" makes it again as it was in the last generation; what all volumes were given since is then archived",
		"volume %s of service %s is not on %s any more, and nothing is captured without it", strings.Join(r.Missing, ", "), s.name, s.Node)
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

// wentWithout notes that the live tree is brought back to a generation because volumes of
// it are gone, and where what was left of it is.
func (s *Service) wentWithout(req replication.SealRequest, archived string) {
	s.mu.Lock()
	s.prepared, s.complete = "", false // it is made again
	astray := s.rec.Astray
	s.mu.Unlock()
	// Also of what is not there: where it comes back, it is not what the node went on from.
	if err := s.persist(func(r *record) { r.Astray = slices.Sorted(slices.Values(req.Missing)) }); err != nil {
		s.log.Warn("if the directories that were lost come back, what is in them will not be archived", "error", err)
	}
	event, left := api.EventRecover, "nothing that was not captured is left of the others"
	if archived != "" {
		event, left = api.EventDiverged, fmt.Sprintf("what is left of the others is archived as %[1]s: understudy restore %[2]s %[1]s --to DIR", archived, s.name)
	}
	if len(astray) > 0 {
		left += "; what the containers had in the place of " + strings.Join(astray, ", ") + " is where it was moved to, and is archived if it is put back"
	}
	s.decide(event, req.Term, "volume %s is not here any more, or not what the containers had: this node goes on from the last generation; %s", strings.Join(req.Missing, ", "), left)
}
