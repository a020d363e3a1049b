package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// A standby makes everything that the definition names, sets its containers up, and sees to it that they have
// what is at the paths of their trees.

// prepare makes everything that the definition names, and sets the containers
// up so that a takeover has only to start their processes.
func (s *Service) prepare(ctx context.Context, def Definition) error {
	if done, err := s.isPrepared(ctx, def); err != nil || done {
		return err
	}
	s.tidy.Wait()
	// A new container copies its image's files into a volume that was never mounted.
	// The tree is at no generation from before the container can be made.
	if missing, err := s.missingContainers(ctx, s.snapshot().Spec); err != nil {
		return err
	} else if len(missing) > 0 {
		if err := s.Replica.Recheck(); err != nil {
			return err
		}
	}
	paths, err := s.Runtime.VolumePaths(ctx, def.Volumes)
	if err != nil {
		return err
	}
	var changed []string
	absent, err := s.noteAbsent(def, paths)
	if err == nil && len(absent) > 0 { // what is made is empty, also where this is killed
		err = s.Replica.Recheck()
	}
	if err == nil {
		changed, err = s.Runtime.Realise(ctx, def.Bytes)
		if len(absent) > 0 {
			err = errors.Join(err, s.noteMade(ctx, absent))
		}
	}
	if len(changed) > 0 {
		s.log.Info("made as on the active node", "what", strings.Join(changed, ", "))
		if err := s.Replica.Recheck(); err != nil {
			return err
		}
	}
	down := false
	if err == nil {
		down, err = s.setUpAgain(ctx, def)
	}
	if down { // what is there is at no generation
		err = errors.Join(err, s.Replica.Recheck())
	}
	if err == nil {
		err = s.initialise(ctx)
		if def.Chowns { // also where it failed half-way
			err = errors.Join(err, s.Replica.Recheck())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err() // cut short: that says nothing of the next time
	}
	if err != nil {
		s.blocked = []string{err.Error()}
		return err
	}
	s.blocked, s.prepared = nil, string(def.Bytes)
	return nil
}

// isPrepared says whether what the definition names was made and set up, and the trees are still where they were then.
func (s *Service) isPrepared(ctx context.Context, def Definition) (bool, error) {
	s.mu.Lock()
	done := s.prepared == string(def.Bytes)
	s.mu.Unlock()
	if !done {
		return false, nil
	}
	paths, err := s.Runtime.VolumePaths(ctx, def.Volumes)
	if err != nil {
		return false, err
	}
	_, astray := s.lookAstray(def, paths)
	return len(astray) == 0 && len(rootsAt(paths)) == len(def.Volumes), nil
}

// noteAbsent is before anything is made at the paths of the trees. It gives those that have no directory, and makes
// durable that they are to be filled; one that is rootOther stays so, as what was there may come back. A tree that is
// new to the service and finds files at its path becomes rootOther. Where a bind mount's directory was that is gone,
// none is made: its file system may not be mounted.
func (s *Service) noteAbsent(def Definition, paths map[string]string) (absent []string, err error) {
	rec, found := s.snapshot(), map[string]string{}
	for _, name := range def.Volumes {
		path, ok := paths[name]
		was, known := rec.Roots[name]
		if ok && !isGone(path) {
			if !known && len(rec.Roots) > 0 && !isEmpty(path) { // before the first, archiveOwn sees to it
				found[name] = rootOther
			}
			continue
		}
		if slices.Contains(def.Binds, name) && was != rootToFill && was != rootOther {
			return nil, api.Errorf(api.KindGeneric, "mount what it is on; if it is gone for good, make it again with a file in it: that is archived, and the directory filled as in the last generation",
				"the directory of bind mount %s of service %s is not there on %s any more", name, s.name, s.Node)
		}
		absent = append(absent, name)
		if was != rootOther {
			found[name] = rootToFill
		}
	}
	return absent, s.noteRoots(found)
}

// noteMade makes durable that what was absent and is there now was made to be filled.
func (s *Service) noteMade(ctx context.Context, absent []string) error {
	paths, err := s.Runtime.VolumePaths(ctx, absent)
	if err != nil {
		return err
	}
	made := rootsAt(paths)
	for name := range made {
		made[name] = rootToFill
	}
	return s.noteRoots(made)
}

// setUpAgain takes down what was set up with a directory that is not at its path any more; initialise
// sets it up again.
func (s *Service) setUpAgain(ctx context.Context, def Definition) (down bool, err error) {
	paths, err := s.Runtime.VolumePaths(ctx, def.Volumes)
	if err != nil {
		return false, err
	}
	for _, name := range s.snapshot().Spec.Containers {
		if _, err := s.inspect(ctx, name); err != nil {
			return false, fmt.Errorf("container %s on %s: %w", name, s.Node, err)
		}
	}
	_, containers := s.lookAstray(def, paths)
	for _, name := range containers {
		if err := s.Runtime.Stop(ctx, name, 0); err != nil {
			return false, fmt.Errorf("container %s on %s was set up with a directory that is not at its path any more, and cannot be taken down: %w", name, s.Node, err)
		}
		s.log.Warn("a directory was moved, removed or unmounted since a container was set up; it is set up again", "container", name)
	}
	return len(containers) > 0, nil
}

func (s *Service) initialise(ctx context.Context) error {
	for _, name := range s.snapshot().Spec.Containers {
		err := s.Runtime.Init(ctx, name)
		if errors.Is(err, ErrNeedsAddress) {
			s.log.Warn("a container publishes a port on the virtual IP alone and cannot be set up ahead: its takeover takes longer", "container", name)
			continue
		}
		if err != nil {
			return fmt.Errorf("container %s cannot be set up on %s: %w", name, s.Node, err)
		}
	}
	return nil
}

// checkPrepared looks whether what was set up still is.
func (s *Service) checkPrepared(ctx context.Context) {
	err := s.refresh(ctx)
	if ctx.Err() == nil {
		s.unreadyBecause("Podman", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.rec.Spec.Containers {
		if c, ok := s.seen[name]; !ok || !c.Initialised {
			s.prepared = ""
		}
	}
}
