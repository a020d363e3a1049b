// Package durable is how a file appears so that a power cut leaves either the
// old or the new one, whole: written under a temporary name, synced, renamed,
// and the directory synced. What survives is decided by the rename alone.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Hook is called before each named step of something durable. Tests make it
// fail, or kill the process, at a chosen step. An error is returned as if the
// step had failed. A nil Hook does nothing.
type Hook func(step string) error

// At calls the hook.
func (h Hook) At(step string) error {
	if h == nil {
		return nil
	}
	return h(step)
}

// WriteFile replaces path by data, atomically and durably. Steps: write, sync,
// rename, syncdir, each followed by the base name. A leftover of a killed
// write is named ".<base>.tmp*" and swept by [SweepTemp].
func WriteFile(path string, data []byte, mode fs.FileMode, hook Hook) error {
	return WriteFileTimes(path, data, mode, time.Time{}, hook)
}

// WriteFileTimes is WriteFile of a file with that modification time; zero: now.
func WriteFileTimes(path string, data []byte, mode fs.FileMode, mtime time.Time, hook Hook) (err error) {
	base := filepath.Base(path)
	if err := hook.At("write " + base); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+base+".tmp*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && !mtime.IsZero() {
		err = os.Chtimes(f.Name(), time.Time{}, mtime)
	}
	if err == nil {
		err = hook.At("sync " + base)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return Rename(f.Name(), path, hook)
}

// Rename moves a file that is already synced and syncs the directory it
// arrives in, and the one it leaves where that is another.
func Rename(from, to string, hook Hook) error {
	return rename(from, to, 0, hook)
}

// RenameNoReplace is Rename that fails with fs.ErrExist when to exists.
func RenameNoReplace(from, to string, hook Hook) error {
	return rename(from, to, unix.RENAME_NOREPLACE, hook)
}

func rename(from, to string, flags uint, hook Hook) error {
	base := filepath.Base(to)
	if err := hook.At("rename " + base); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	if err := hook.At("syncdir " + base); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		return SyncDir(filepath.Dir(from))
	}
	return nil
}

// Remove unlinks a file durably; a file that is not there is a success.
func Remove(path string, hook Hook) error {
	if err := hook.At("remove " + filepath.Base(path)); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// RemoveAll is Remove of files of one directory, durable when all are gone: killed before, any of
// them may be left.
func RemoveAll(paths []string, hook Hook) error {
	for _, path := range paths {
		if err := hook.At("remove " + filepath.Base(path)); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(paths) == 0 {
		return nil
	}
	return SyncDir(filepath.Dir(paths[0]))
}

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// SweepTemp removes what killed WriteFiles left in dir before the given time;
// a write under way is younger.
func SweepTemp(dir string, before time.Time) error {
	left, err := filepath.Glob(filepath.Join(dir, ".*.tmp*"))
	if err != nil {
		return err
	}
	for _, p := range left {
		fi, err := os.Lstat(p)
		if err == nil && fi.ModTime().Before(before) {
			err = os.Remove(p)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
