package service

import (
	"context"
	"fmt"
	"slices"
)

// A container keeps the directory that was at a volume's path when it was set up, also when that is
// moved, removed or unmounted and something else stands there since. What is captured and applied goes
// by the path, so both have to be the same: on a standby the container is set up again, on the active
// node nothing is captured while they differ, and what the path shows then is not taken for the service's.

// astray says of the trees that a container has which is set up or runs, whether it has another directory
// in their place; containers are those that do. A tree that has no path is not where it was.
func (s *Service) astray(def Definition, paths map[string]string) (trees map[string]bool, containers []string) {
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
		elsewhere := s.Procs.Elsewhere(c, roots)
		for tree := range c.Trees {
			trees[tree] = trees[tree] || slices.Contains(elsewhere, tree)
		}
		if len(elsewhere) > 0 {
			containers = append(containers, c.Name)
		}
	}
	return trees, containers
}

// noteAstray keeps what astray finds of the active node's containers, across a kill, too. When they
// have ended nobody can tell any more: then it is what was found last.
func (s *Service) noteAstray(def Definition, paths map[string]string) error {
	trees, _ := s.astray(def, paths)
	rec := s.snapshot()
	now := slices.DeleteFunc(slices.Clone(rec.Astray), func(tree string) bool { is, looked := trees[tree]; return looked && !is })
	for tree, is := range trees {
		if is && !slices.Contains(now, tree) {
			now = append(now, tree)
		}
	}
	slices.Sort(now)
	if !rec.Dirty || slices.Equal(now, rec.Astray) {
		return nil
	}
	return s.persist(func(r *record) { r.Astray = now })
}

// lastLook is before the containers are stopped. Podman need not answer: the definition is the one read last.
func (s *Service) lastLook(ctx context.Context) {
	s.mu.Lock()
	def := s.defined
	s.mu.Unlock()
	if len(def.Bytes) == 0 {
		def, _, _ = s.headDefinition() // nothing was captured before: nothing to look for
	}
	paths, err := s.Runtime.VolumePaths(ctx, def.Volumes)
	if err == nil {
		err = s.noteAstray(def, paths)
	}
	if err != nil {
		s.log.Warn("it is not known whether the containers had what is at the paths of their volumes", "error", err)
	}
}

// setUpAgain takes down what was set up with a directory that is not at its path any more; initialise
// sets it up again.
func (s *Service) setUpAgain(ctx context.Context, def Definition) error {
	paths, err := s.Runtime.VolumePaths(ctx, def.Volumes)
	if err != nil {
		return err
	}
	for _, name := range s.snapshot().Spec.Containers {
		if _, err := s.inspect(ctx, name); err != nil {
			return fmt.Errorf("container %s on %s: %w", name, s.Node, err)
		}
	}
	_, containers := s.astray(def, paths)
	for _, name := range containers {
		if err := s.Runtime.Stop(ctx, name, 0); err != nil {
			return fmt.Errorf("container %s on %s was set up with a directory that is not at its path any more, and cannot be taken down: %w", name, s.Node, err)
		}
		s.log.Warn("a directory was moved, removed or unmounted since a container was set up; it is set up again", "container", name)
	}
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
	_, astray := s.astray(def, paths)
	return len(astray) == 0 && len(paths) == len(def.Volumes), nil
}
