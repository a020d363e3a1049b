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
// So the record says of each tree (record.Roots):
//
//	not known   no generation was captured or applied in it here: what is there is for archiveOwn, or noteAbsent
//	rootToFill  nothing at its path counts: it is filled with the generation
//	rootOther   what is at its path, or comes to be, is archived and then filled
//	an identity that directory is the service's; another is archived first, and an empty one refused (checkEmpty)
//
// While the node is dirty, what the containers have decides (seal.go), and record.Astray has the trees that are not sealed.

// What Roots says of a tree that is in no directory that is known.
const (
	rootToFill = ""        // also what a tree that is not known reads as: where that matters, ask whether it is
	rootOther  = "another" // what is at the path is not the service's
)

// rootOf tells a directory from another at the same path, also after a boot; "" where there is none, or it cannot be looked at. Roots
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

// lasting are the file systems whose inode numbers outlast a mount, by the type that statfs(2) gives. The value says
// whether its ID does as well, being made of the UUID; else it is the device's.
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

// others are the trees that are in another directory than the service's data was; those that
// were made to be filled are not among them.
func (r record) others(now map[string]string) (trees []string) {
	for name, id := range now {
		if was, known := r.Roots[name]; known && was != rootToFill && was != id {
			trees = append(trees, name)
		}
	}
	slices.Sort(trees)
	return trees
}

// settleAstray: when dirty ends, the service goes on without what was astray (wentWithout). Whatever is at
// such a path then, or comes back to it, is another's: it is archived before it is replaced.
func (r *record) settleAstray() {
	if r.Dirty || len(r.Astray) == 0 {
		return
	}
	r.Roots = maps.Clone(r.Roots)
	if r.Roots == nil {
		r.Roots = map[string]string{}
	}
	for _, tree := range r.Astray {
		r.Roots[tree] = rootOther
	}
	r.Astray = nil
}

// noteRoots makes durable in which directories the trees are from now on.
func (s *Service) noteRoots(now map[string]string) error {
	next := maps.Clone(s.snapshot().Roots)
	if next == nil {
		next = map[string]string{}
	}
	maps.Copy(next, now)
	if maps.Equal(next, s.snapshot().Roots) {
		return nil
	}
	return s.persist(func(r *record) { r.Roots = next })
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
	for _, name := range rec.others(rootsAt(paths)) {
		v := m.Volume(name)
		if v == nil || v.Entries.Len() < 2 || rec.Roots[name] == rootOther { // one is the root
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

// isGone: of what cannot be looked at, whoever goes there says what is wrong.
func isGone(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// isEmpty: of a directory that cannot be read, whoever reads it says what is wrong.
func isEmpty(dir string) bool {
	in, err := os.ReadDir(dir)
	return err == nil && len(in) == 0
}

// fillAgain is what to do about an empty directory where the last generation is to be in.
const fillAgain = "if that is gone for good, put a file into the directory: it is archived, and the directory filled as in the last generation"

// checkMounted refuses, at a start, an empty directory in the place of one that had data.
func (s *Service) checkMounted(ctx context.Context) error {
	if head, err := s.Replica.Head(); err != nil || head.IsZero() {
		return err
	}
	def, err := s.definition(ctx)
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

// keepOther archives what is in the place of the service's directories on a standby, before it is
// made what the generation says.
func (s *Service) keepOther(ctx context.Context, m *replication.Manifest, paths, at map[string]string) error {
	rec := s.snapshot()
	trees := rec.others(at)
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
		name, err := s.Replica.ArchiveOther(ctx, req)
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
		none[tree] = rootToFill
	}
	return s.noteRoots(none)
}
