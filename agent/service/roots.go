package service

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/agent/api"
)

// What is captured and applied goes by the paths of the trees. What is at a path can be another
// directory than before: moved, removed and made again, or a mount point whose file system is not mounted.

// A container keeps the directory that was there when it was set up. So on a standby it is set up again;
// on the active node nothing is captured while it has another one, and what the path shows then is not
// taken for the service's.

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

// inodes are the inode numbers of the directories at the paths: of those that are there.
func inodes(paths map[string]string) map[string]uint64 {
	out := make(map[string]uint64, len(paths))
	for name, path := range paths {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			out[name] = st.Ino
		}
	}
	return out
}

// replaced says whether one of the trees is in another directory than when the record was written.
func (r record) replaced(now map[string]uint64) bool {
	for name, was := range r.Roots {
		if ino, ok := now[name]; ok && ino != was {
			return true
		}
	}
	return false
}

// noteRoots makes durable in which directories the trees are.
func (s *Service) noteRoots(now map[string]uint64) error {
	if maps.Equal(now, s.snapshot().Roots) {
		return nil
	}
	return s.persist(func(r *record) { r.Roots = now })
}

// checkMounted refuses an empty directory in the place of one that had data, before what is there is
// taken for what the service has left: it is what a file system that is not mounted looks like.
func (s *Service) checkMounted(ctx context.Context) error {
	m, err := s.Replica.HeadManifest()
	if err != nil || m == nil {
		return err
	}
	def, err := s.activeDefinition(ctx)
	if err != nil {
		return err
	}
	paths, err := s.Runtime.VolumePaths(ctx, def.Volumes)
	if err != nil {
		return err
	}
	rec, now := s.snapshot(), inodes(paths)
	for _, name := range slices.Sorted(maps.Keys(now)) {
		was, known := rec.Roots[name]
		v := m.Volume(name)
		if !known || was == now[name] || v == nil || v.Entries == nil || v.Entries.Len() < 2 || slices.Contains(rec.Astray, name) { // one is the root
			continue
		}
		if in, err := os.ReadDir(paths[name]); err != nil || len(in) > 0 {
			continue // whoever reads the tree says what is wrong with it
		}
		return api.Errorf(api.KindInstalled, "mount its file system; if it is meant to begin empty, put a file into it",
			"%s, which holds volume %s of service %s, is an empty directory on %s, and another than the one in which generation %s was: nothing is done with it", paths[name], name, s.name, s.Node, m.ID)
	}
	return nil
}
