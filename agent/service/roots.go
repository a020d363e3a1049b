package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// What is captured and applied goes by the paths of the trees. What is at a path can be another
// directory than before: moved, removed and made again, or a mount point whose file system is not mounted.
// So the record keeps which directories the service's data was in (Roots), and as long as the containers
// run it is looked which ones they have: they keep those that were there when they were set up.

// What Roots says of a tree that is in no directory that is known.
const (
	rootNone    = ""        // there was none: the one that is made is to be filled
	rootForeign = "another" // what is at the path is not the service's: it is archived before it is replaced
)

// rootOf tells a directory from another at the same path, also after a boot; "" where there is none. Roots
// of file systems have the same inode number everywhere, so the time of birth is part of it, and the file
// system's identity where that does not come from its device. Where numbers do not outlast a mount, directories
// are told apart by the kind of their file system alone.
func rootOf(path string) string {
	var st unix.Statx_t
	var fs unix.Statfs_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st) != nil || unix.Statfs(path, &fs) != nil {
		return ""
	}
	id := fmt.Sprintf("%d born %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec)
	switch hasID, lasts := lasting[int64(fs.Type)]; {
	case !lasts:
		return fmt.Sprintf("of type %x", fs.Type)
	case hasID:
		id += fmt.Sprintf(" in %x", fs.Fsid.Val)
	}
	return id
}

// lasting are the file systems whose inode numbers outlast a mount, by the type that statfs(2) gives, and
// whether its ID does: it is of their UUID then.
var lasting = map[int64]bool{unix.XFS_SUPER_MAGIC: false, unix.EXT4_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true}

// rootsAt are those of the paths at which there is a directory.
func rootsAt(paths map[string]string) map[string]string {
	out := make(map[string]string, len(paths))
	for name, path := range paths {
		if id := rootOf(path); id != "" {
			out[name] = id
		}
	}
	return out
}

// replaced are the trees that are in another directory than the service's data was; those that
// were made to be filled are not among them.
func (r record) replaced(now map[string]string) (trees []string) {
	for name, id := range now {
		if was, known := r.Roots[name]; known && was != rootNone && was != id {
			trees = append(trees, name)
		}
	}
	slices.Sort(trees)
	return trees
}

// noteRoots makes durable in which directories the trees are from now on.
func (s *Service) noteRoots(now map[string]string) error {
	next := maps.Clone(s.snapshot().Roots)
	if next == nil {
		next = map[string]string{}
	}
	maps.Copy(next, now)
	if maps.Equal(next, s.snapshot().Roots) || s.evicted() {
		return nil
	}
	return s.persist(func(r *record) { r.Roots = next })
}

// noteFound makes durable, before anything is made at their paths, which trees have no directory, and gives
// these. What another was at, and may come back, stays archived before it is replaced, and what a tree that is new to
// the service finds there is, too: it is none of the service's.
func (s *Service) noteFound(def Definition, paths map[string]string) (absent []string, err error) {
	rec, found := s.snapshot(), map[string]string{}
	for _, name := range def.Volumes {
		path, ok := paths[name]
		was, known := rec.Roots[name]
		if _, err := os.Stat(path); ok && !errors.Is(err, fs.ErrNotExist) {
			if !known && len(rec.Roots) > 0 && !isEmpty(path) { // before the first, archiveOwn sees to it
				found[name] = rootForeign
			}
			continue
		}
		if slices.Contains(def.Binds, name) && was != rootNone && was != rootForeign {
			return nil, api.Errorf(api.KindGeneric, "mount what it is on; if it is gone for good, make it again with a file in it: that is archived, and the directory filled as in the last generation",
				"the directory of bind mount %s of service %s is not there on %s any more", name, s.name, s.Node)
		}
		absent = append(absent, name)
		if was != rootForeign {
			found[name] = rootNone
		}
	}
	return absent, s.noteRoots(found)
}

// noteMade makes durable that what was absent and is there now was made to be filled.
func (s *Service) noteMade(ctx context.Context, def Definition, absent []string) error {
	paths, err := s.Runtime.VolumePaths(ctx, def.Volumes)
	if err != nil {
		return err
	}
	made := map[string]string{}
	for name := range rootsAt(paths) {
		if slices.Contains(absent, name) {
			made[name] = rootNone
		}
	}
	return s.noteRoots(made)
}

// checkEmpty refuses an empty directory in the place of one that had data, before it is taken for what
// the service has left, or filled: it is what a file system that is not mounted looks like. Where the
// service went on without its directory already, that was said. beginEmpty is how it is taken nevertheless.
func (s *Service) checkEmpty(paths map[string]string, beginEmpty string) error {
	m, err := s.Replica.HeadManifest()
	if err != nil {
		return err
	}
	rec := s.snapshot()
	for _, name := range rec.replaced(rootsAt(paths)) {
		v := m.Volume(name)
		if v == nil || v.Entries.Len() < 2 || rec.Roots[name] == rootForeign { // one is the root
			continue
		}
		if !isEmpty(paths[name]) {
			continue
		}
		return api.Errorf(api.KindInstalled, "mount its file system, then pcs resource cleanup "+s.name+"; "+beginEmpty,
			"%s, which holds volume %s of service %s, is an empty directory on %s, and another than the one that its data was in", paths[name], name, s.name, s.Node)
	}
	return nil
}

// isEmpty: of a directory that cannot be read, whoever reads it says what is wrong.
func isEmpty(dir string) bool {
	in, err := os.ReadDir(dir)
	return err == nil && len(in) == 0
}

// fillAgain is what to do about an empty directory where the last generation is to be in.
const fillAgain = "if that is gone for good, put a file into the directory: it is archived, and the directory filled as in the last generation"

// checkMounted does so at a start.
func (s *Service) checkMounted(ctx context.Context) error {
	if head, err := s.Replica.Head(); err != nil || head.IsZero() {
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
	return s.checkEmpty(paths, fillAgain)
}

// archiveAgain is how long it takes until an archive that found no room is tried again.
const archiveAgain = time.Minute

// keepReplaced archives what is in the place of the service's directories on a standby, before it is
// made what the generation says.
func (s *Service) keepReplaced(ctx context.Context, m *replication.Manifest, paths map[string]string) error {
	rec := s.snapshot()
	trees := rec.replaced(rootsAt(paths))
	if len(trees) == 0 {
		return nil
	}
	if err := s.checkEmpty(paths, fillAgain); err != nil {
		return err
	}
	req := replication.SealRequest{Term: rec.Term, Roots: map[string]string{}, Definition: m.Definition, Images: m.Images}
	for _, v := range m.Volumes {
		if slices.Contains(trees, v.Name) && !isEmpty(paths[v.Name]) {
			req.Roots[v.Name] = paths[v.Name]
		} else {
			req.Missing = append(req.Missing, v.Name)
		}
	}
	if len(req.Roots) > 0 {
		if time.Now().Before(s.noArchive) {
			return s.noArchiveErr
		}
		of := strings.Join(slices.Sorted(maps.Keys(req.Roots)), ", ")
		name, err := s.Replica.ArchiveReplaced(ctx, req)
		if replication.NoSpace(err) { // all of it was read for that
			s.noArchive, s.noArchiveErr = time.Now().Add(archiveAgain), api.Errorf(api.KindGeneric, "take it away from "+strings.Join(slices.Sorted(maps.Values(req.Roots)), ", ")+", or make room for it in the store; it is tried again each minute",
				"what is in the place of volume %s of service %s on %s is another directory than the one that its data was in, and cannot be archived before it is replaced: %v", of, s.name, s.Node, err)
			return s.noArchiveErr
		}
		if err != nil {
			return err
		}
		if name != "" {
			s.decide(api.EventDiverged, rec.Term, "another directory than the one that its data was in is at the path of volume %[1]s; it is archived as %[2]s: understudy restore %[3]s %[2]s --to DIR. It is made what the generation says", of, name, s.name)
		}
	}
	none := map[string]string{} // to be filled: not archived again where that fails
	for _, tree := range trees {
		none[tree] = rootNone
	}
	return errors.Join(s.Replica.Recheck(), s.noteRoots(none))
}

// accept takes another directory, which is what was at the paths when that was looked at, for the active service's: its
// containers have it too, or it were not in q. Somebody has put it there while they did not run. What it was before stays.
func (s *Service) accept(q replication.SealRequest, at map[string]string) error {
	now := maps.Clone(at)
	maps.DeleteFunc(now, func(tree, _ string) bool { return q.Roots[tree] == "" })
	trees := s.snapshot().replaced(now)
	if len(trees) == 0 {
		return nil
	}
	if err := s.checkEmpty(q.Roots, "if it is meant to begin empty, put a file into it"); err != nil {
		return err
	}
	head, err := s.Replica.Head()
	if err != nil {
		return err
	}
	why := fmt.Sprintf("another directory was put in the place of volume %s", strings.Join(trees, ", "))
	if !head.IsZero() {
		if err := s.Replica.Keep(head.String(), "before "+why); err != nil {
			return err
		}
	}
	s.decide(api.EventReplication, q.Term, "%s, and the containers were started with it: it is captured from now on. Generation %s, from before, is pinned", why, head)
	return s.noteRoots(now)
}

// astray says of the trees that a container has which is set up or runs, whether it has another directory
// in their place; containers are those that do. A tree that has no path is not where it was. What cannot be told is not in the answer.
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
// looked at, or have ended, it is what was found last, and all that are in another directory than before.
// at are the directories from before the look.
func (s *Service) noteAstray(def Definition, paths, at map[string]string) error {
	rec := s.snapshot()
	if !rec.Dirty {
		return nil
	}
	trees, _ := s.astray(def, paths)
	replaced := rec.replaced(at)
	var now []string
	for _, tree := range def.Volumes {
		is, looked := trees[tree]
		if !looked {
			is = slices.Contains(replaced, tree) || slices.Contains(rec.Astray, tree) && (rec.Roots[tree] == rootNone || rec.Roots[tree] != at[tree])
		}
		if is {
			now = append(now, tree)
		}
	}
	slices.Sort(now)
	if slices.Equal(now, rec.Astray) || s.evicted() {
		return nil
	}
	if len(now) > 0 {
		s.decide(api.EventReplication, rec.Term, "what is at the path of volume %s is not what the containers have or had; nothing is captured", strings.Join(now, ", "))
	}
	return s.persist(func(r *record) { r.Astray = now })
}

// lastLookTime bounds it: the containers wait to be stopped.
const lastLookTime = 300 * time.Millisecond

// lastLook is before the containers are stopped: what they have at the paths is the service's. Podman need not
// answer: the definition is the one read last.
func (s *Service) lastLook(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastLookTime)
	defer cancel()
	s.mu.Lock()
	def := s.defined
	s.mu.Unlock()
	var err error
	if len(def.Bytes) == 0 {
		def, _, err = s.headDefinition()
	}
	for _, name := range s.snapshot().Spec.Containers {
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
			if err = s.noteAstray(def, paths, at); err == nil && s.snapshot().Dirty {
				for _, tree := range s.snapshot().Astray {
					delete(paths, tree)
				}
				err = s.accept(replication.SealRequest{Term: s.snapshot().Term, Roots: paths}, at)
			}
		}
	}
	if err != nil {
		s.log.Warn("it is not known whether the containers had what is at the paths of their volumes", "error", err)
	}
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
	_, containers := s.astray(def, paths)
	for _, name := range containers {
		if err := s.Runtime.Stop(ctx, name, 0); err != nil {
			return false, fmt.Errorf("container %s on %s was set up with a directory that is not at its path any more, and cannot be taken down: %w", name, s.Node, err)
		}
		s.log.Warn("a directory was moved, removed or unmounted since a container was set up; it is set up again", "container", name)
	}
	return len(containers) > 0, nil
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
	return len(astray) == 0 && len(rootsAt(paths)) == len(def.Volumes), nil
}
