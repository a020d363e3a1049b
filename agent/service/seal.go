package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// What of the live trees is the service's, and may be sealed: what a running container is seen to have at the
// path of a tree, and after its end what was found last.

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

// sealRequest asks for the live tree as it is, with the containers stopped.
func (s *Service) sealRequest(ctx context.Context, term uint64) (replication.SealRequest, error) {
	def, err := s.definition(ctx)
	if err != nil {
		return replication.SealRequest{}, err
	}
	r, _, err := s.sealRequestOf(ctx, term, def)
	return r, err
}

// toSeal is sealRequest while the containers run: refused where a tree is not here or not what they
// have. Another directory that they were started with is taken for the service's. at are the directories it is of.
func (s *Service) toSeal(ctx context.Context, term uint64) (r replication.SealRequest, at map[string]string, err error) {
	def, err := s.definition(ctx)
	if err != nil {
		return r, nil, err
	}
	r, at, err = s.sealRequestOf(ctx, term, def)
	if err = errors.Join(err, s.checkWhole(r)); err == nil {
		err = s.accept(r.Roots, at)
	}
	return r, at, err
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
	others := rec.others(at)
	for _, v := range def.Volumes {
		was, known := rec.Roots[v]
		path, there := paths[v]
		switch {
		case slices.Contains(rec.Astray, v), !rec.Dirty && (slices.Contains(others, v) || known && (was == rootToFill || was == rootOther)):
			// What is at its path is none of this (wentWithout, keepOther), or was made and not filled yet.
		case there && !isGone(path):
			continue
		case slices.Contains(def.Binds, v) && (rec.Dirty || known || len(rec.Roots) == 0), rec.Dirty && there: // its file system may not be mounted, and hold what nobody has
			return r, nil, api.Errorf(api.KindGeneric, "mount what it is on, or put it back as it was; if that is gone for good, make it again with a file in it: that is archived, and the directory filled as in the last generation",
				"the directory of volume %s of service %s is not there on %s", v, s.name, s.Node)
		}
		delete(r.Roots, v)
		delete(at, v)
		r.Missing = append(r.Missing, v)
	}
	r.Still = func() error {
		if maps.Equal(at, rootsAt(r.Roots)) {
			return nil
		}
		return api.Errorf(api.KindGeneric, "put it back as it was", "a directory of service %s was replaced on %s while it was captured", s.name, s.Node)
	}
	return r, at, nil
}

// checkWhole refuses what lacks a tree: one that is not here, or at whose path is not what the containers have.
func (s *Service) checkWhole(r replication.SealRequest) error {
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

// accept takes another directory that is at a path, and that the containers have, for the service's: somebody has put it
// there while they did not run. at are the directories that were looked at. The generation from before is pinned.
func (s *Service) accept(paths, at map[string]string) error {
	rec := s.snapshot()
	trees := rec.others(at)
	if len(trees) == 0 {
		return nil
	}
	if err := s.checkEmpty(paths, "if it is meant to begin empty, put a file into it"); err != nil {
		return err
	}
	head, err := s.Replica.Head()
	if err != nil {
		return err
	}
	why, pinned := fmt.Sprintf("another directory was put in the place of volume %s", strings.Join(trees, ", ")), ""
	if !head.IsZero() {
		if err := s.Replica.Keep(head.String(), "before "+why); err != nil {
			return err
		}
		pinned = fmt.Sprintf(". Generation %s, from before, is pinned", head)
	}
	s.decide(api.EventReplication, rec.Term, "%s, and the containers were started with it: it is captured from now on%s", why, pinned)
	return s.noteRoots(at)
}

// lookAstray says of the trees that a container has which is set up or runs, whether it has another directory
// in their place; containers are those that do. A tree that has no path is not where it was. What cannot be told is not in the answer.
func (s *Service) lookAstray(def Definition, paths map[string]string) (trees map[string]bool, containers []string) {
	s.mu.Lock()
	var look []Container
	for _, name := range s.rec.Spec.Containers {
		if c, ok := s.seen[name]; ok && !c.Infra && (c.Initialised || c.Running) {
			look = append(look, c)
		}
	}
	s.mu.Unlock()
	roots := make(map[string]string, len(def.Volumes))
	for _, v := range def.Volumes {
		roots[v] = paths[v]
	}
	trees = map[string]bool{}
	for _, c := range look {
		if c.Running && !s.Procs.Running(c) {
			continue // it has ended
		}
		is := false
		for tree, another := range s.Procs.Elsewhere(c, roots) {
			trees[tree] = trees[tree] || another
			is = is || another
		}
		if is {
			containers = append(containers, c.Name)
		}
	}
	return trees, containers
}

// noteAstray keeps which trees the active node's containers have elsewhere, across a kill, too. Where they cannot be
// looked at, or have ended, it is what was found last, but for what is in its known directory again, and all that are
// in another directory than before.
// at are the directories from before the look.
func (s *Service) noteAstray(def Definition, paths, at map[string]string) error {
	rec := s.snapshot()
	if !rec.Dirty {
		return nil
	}
	trees, _ := s.lookAstray(def, paths)
	others := rec.others(at)
	var now []string
	for _, tree := range def.Volumes {
		is, looked := trees[tree]
		if !looked {
			is = slices.Contains(others, tree) || slices.Contains(rec.Astray, tree) && (rec.Roots[tree] == rootToFill || rec.Roots[tree] != at[tree])
		}
		if is {
			now = append(now, tree)
		}
	}
	slices.Sort(now)
	if slices.Equal(now, rec.Astray) {
		return nil
	}
	if err := s.persist(func(r *record) { r.Astray = now }); err != nil {
		return err
	}
	if len(now) > 0 {
		s.decide(api.EventReplication, rec.Term, "what is at the path of volume %s is not what the containers have or had; nothing is captured", strings.Join(now, ", "))
	}
	return nil
}

// lastLookTime bounds it: the containers wait to be stopped.
const lastLookTime = 300 * time.Millisecond

// lastLook settles, before the containers are stopped, which trees they have at the paths and which not: afterwards
// that cannot be seen. It asks Podman for little, and not for long; what it cannot learn stays as it was noted.
func (s *Service) lastLook(ctx context.Context) {
	rec := s.snapshot()
	if !rec.Dirty {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastLookTime)
	defer cancel()
	s.mu.Lock()
	def := s.defined
	s.mu.Unlock()
	var err error
	if len(def.Bytes) == 0 {
		def, _, err = s.headDefinition()
	}
	for _, name := range rec.Spec.Containers {
		s.mu.Lock()
		_, seen := s.seen[name]
		s.mu.Unlock()
		if !seen && err == nil { // the agent was started just now
			_, _ = s.inspect(ctx, name)
		}
	}
	if err == nil {
		var paths map[string]string
		if paths, err = s.Runtime.VolumePaths(ctx, def.Volumes); err == nil {
			at := rootsAt(paths)
			if err = s.noteAstray(def, paths, at); err == nil {
				for _, tree := range s.snapshot().Astray {
					delete(paths, tree)
					delete(at, tree)
				}
				err = s.accept(paths, at)
			}
		}
	}
	if err != nil {
		s.log.Warn("it is not known whether the containers had what is at the paths of their volumes", "error", err)
	}
}

// wentWithout notes that the live tree is brought back to a generation because volumes of
// it are gone, and where what was left of it is.
func (s *Service) wentWithout(req replication.SealRequest, archived string) {
	s.mu.Lock()
	s.prepared, s.complete = "", false // it is made again
	astray := s.rec.Astray
	s.mu.Unlock()
	// All that is missing, also what is simply gone: when dirty ends, settleAstray has it archived should it come back.
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
