package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// CheckManifests reads every manifest from the disk, and names those that are not what
// was written, relative to the store.
func (s *Store) CheckManifests(pace Pace) (damaged []string, err error) {
	for _, dir := range []string{"generations", "diverged"} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			return damaged, err
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if filepath.Ext(name) != manifestSuffix || e.Name()[0] == '.' {
				continue
			}
			fi, err := e.Info()
			if err != nil {
				continue // pruned meanwhile
			}
			if err := pace(int(fi.Size())); err != nil {
				return damaged, err
			}
			if s.manifestDamaged(name) {
				damaged = append(damaged, name)
			}
		}
	}
	return damaged, nil
}

func (s *Store) manifestDamaged(name string) bool {
	f, err := os.OpenFile(s.path(name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		return true
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	b, err := io.ReadAll(io.LimitReader(f, maxEncoded+1))
	if err == nil {
		_, err = openManifest(b)
	}
	return err != nil
}

// SetAsideManifest takes the damaged manifest of a committed generation out of use:
// the file is kept in the folder "damaged". Where the generation is still known in
// memory, by the record of its commit, it is written anew, and mended is true; else it
// counts as lost, with all that hangs on it.
func (s *Store) SetAsideManifest(id replication.ID) (mended bool, err error) {
	name := generationName(id)
	err = s.lockedAs("prune.lock", func() error {
		was, err := os.Lstat(s.path(name))
		if err != nil || !s.manifestDamaged(name) {
			mended = true // somebody was faster
			return nil    //nolint:nilerr // one that is gone is not damaged
		}
		b, at, err := s.rewritten(id) // what takes time is done before the lock, which a takeover needs
		if err != nil {
			return err
		}
		return s.locked(func() error {
			if is, err := os.Lstat(s.path(name)); err != nil || !os.SameFile(was, is) {
				mended = true
				return nil //nolint:nilerr // as above
			}
			if _, err := s.linkDamaged(name); err != nil {
				return err
			}
			if b != nil {
				mended = true
				return durable.WriteFileTimes(s.manifestFile(id), b, sealMode, at, s.o.Hook)
			}
			return s.loseLocked(id)
		})
	})
	return mended, err
}

// loseLocked notes that a generation is lost, and takes its manifest away.
func (s *Store) loseLocked(id replication.ID) error {
	lost, err := s.recordedLacks()
	if err != nil {
		return err
	}
	if !slices.Contains(lost.Generations, id) {
		lost.Generations = append(lost.Generations, id)
	}
	if err := s.writeLacks(lost); err != nil {
		return err
	}
	return durable.Remove(s.manifestFile(id), s.o.Hook)
}

// rewritten is a generation's manifest made anew from memory, and its time; nil: it is
// not known, or not by the record of its commit.
func (s *Store) rewritten(id replication.ID) (b []byte, at time.Time, err error) {
	m := s.loaded.remembered(s.manifestFile(id))
	known, _, err := s.stamps()
	if err != nil || m == nil {
		return nil, at, err
	}
	is, err := identity(m)
	t, ok := known[generationName(id)]
	if err != nil || !ok || t.whole != is {
		return nil, at, err
	}
	whole := *m
	whole.Delta = nil
	b, err = EncodeManifest(&whole)
	return b, t.wall, err
}
