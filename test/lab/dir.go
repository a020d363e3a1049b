package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// labsDir holds one directory per lab. It must be on a real disk: nodes' disks live there.
const labsDir = "/var/lib/understudy-lab"

// errBusy says that a live process holds the lock.
var errBusy = errors.New("locked by a live process")

// dir is a lab's directory. Everything a lab owns is found from its name alone, so that a lab whose
// owner was killed at any point can be removed by somebody who knows nothing else about it.
type dir string

func labDir(name string) dir { return dir(filepath.Join(labsDir, name)) }

func (d dir) name() string { return filepath.Base(string(d)) }
func (d dir) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// lockPath is beside the directory: a lock inside it would vanish with it, and two processes could
// then hold "the" lock of one name on different files.
func (d dir) lockPath() string { return string(d) + ".lock" }

// share is what all nodes see as /lab.
func (d dir) share() string { return d.path("share") }

func (d dir) node(name string, elem ...string) string {
	return d.path(append([]string{"nodes", name}, elem...)...)
}

// state is what Attach needs to know; written once, before anything else is made.
type state struct {
	Options stateOptions `json:"options"`
	Root    string       `json:"root"` // the root file system nodes boot from
	Owner   process      `json:"owner"`
	Daemon  bool         `json:"daemon"` // the owner is `lab supervise`: it may be told to stop
	Created time.Time    `json:"created"`
}

type stateOptions struct {
	Name  string        `json:"name"`
	Nodes []string      `json:"nodes"`
	FS    string        `json:"fs"`
	Disk  int64         `json:"disk_bytes"`
	Token time.Duration `json:"token_ns"`

	KeepUnsynced bool `json:"keep_unsynced"`
}

func (d dir) writeState(s state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(d.path("state.json"), b, 0o644)
}

func (d dir) readState() (state, error) {
	var s state
	b, err := os.ReadFile(d.path("state.json"))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// writeFile replaces path in one step. It does not sync: a lab does not outlive its machine.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// flock is an exclusive lock on a file, released by unlock or by the end of the process.
type flock struct{ f *os.File }

// tryLock returns errBusy when somebody else has the lock.
func tryLock(path string) (*flock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errBusy
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The former holder may have removed the file meanwhile: such a lock keeps nobody out.
	if there, err := os.Stat(path); err != nil || !sameFile(f, there) {
		f.Close()
		return tryLock(path)
	}
	return &flock{f}, nil
}

func sameFile(f *os.File, there os.FileInfo) bool {
	mine, err := f.Stat()
	return err == nil && os.SameFile(mine, there)
}

// lock waits for the lock until ctx ends.
func lock(ctx context.Context, path string) (*flock, error) {
	for pause := time.Millisecond; ; pause = min(pause*2, 20*time.Millisecond) {
		l, err := tryLock(path)
		if !errors.Is(err, errBusy) {
			return l, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("waiting for %s: %w", path, err)
		}
	}
}

// discard removes the file and lets go of the lock.
func (l *flock) discard() {
	_ = os.Remove(l.f.Name())
	l.unlock()
}

func (l *flock) unlock() {
	if l != nil {
		l.f.Close()
	}
}

// sleep waits for d or for the end of ctx, whose cause it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
