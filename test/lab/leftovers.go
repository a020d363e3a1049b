package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Info is a lab as List sees it.
type Info struct {
	Name    string
	Alive   bool // its owner lives; otherwise it is a leftover of a killed run
	Daemon  bool // the owner is `lab supervise`
	Owner   int  // pid
	Created time.Time
	Running []string // nodes that have power
}

// List returns all labs of this machine, leftovers included.
func List() ([]Info, error) {
	names, err := labNames()
	if err != nil {
		return nil, err
	}
	var all []Info
	for _, name := range names {
		d := labDir(name)
		i := Info{Name: name}
		lk, err := tryLock(d.lockPath())
		i.Alive = errors.Is(err, errBusy) && !d.orphaned()
		lk.unlock()
		if st, err := d.readState(); err == nil {
			i.Owner, i.Daemon, i.Created = st.Owner.PID, st.Daemon, st.Created
			for _, n := range newLab(d, st, sayTo(nil)).nodes {
				if n.Running() {
					i.Running = append(i.Running, n.name)
				}
			}
		}
		all = append(all, i)
	}
	return all, nil
}

func labNames() ([]string, error) {
	entries, err := os.ReadDir(labsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && validName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// CleanLeftovers removes every lab whose owner is gone: processes, mounts, loop devices, namespaces,
// cgroups and files. Labs that are alive are left alone.
func CleanLeftovers(ctx context.Context, out io.Writer) error {
	names, err := labNames()
	if err != nil {
		return err
	}
	say := sayTo(out)
	for _, name := range names {
		d := labDir(name)
		lk, e := d.lockOrphan(ctx)
		if errors.Is(e, errBusy) {
			continue
		}
		if e == nil {
			say("removing what a killed run left of lab %s", name)
			e = d.destroy(ctx)
			lk.discard()
		}
		err = errors.Join(err, e)
	}
	return err
}

// orphaned tells whether the owner on record is dead, whoever may hold the lock.
func (d dir) orphaned() bool {
	st, err := d.readState()
	return err == nil && !st.Owner.alive()
}

// lockOrphan takes the lock of a lab without a live owner, and returns errBusy if it has one. A process
// that the owner had just forked when it was killed may hold the lock still: it is in the lab's
// cgroup, or about to end.
func (d dir) lockOrphan(ctx context.Context) (*flock, error) {
	lk, err := tryLock(d.lockPath())
	if !errors.Is(err, errBusy) || !d.orphaned() {
		return lk, err
	}
	cg, err := labCgroup(d.name())
	if err != nil {
		return nil, err
	}
	if err := cg.kill(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return lock(ctx, d.lockPath())
}

// takeOver returns the lab's lock. A daemon that owns the lab is told to stop; any other live owner
// is an error.
func (d dir) takeOver(ctx context.Context) (*flock, error) {
	lk, err := d.lockOrphan(ctx)
	if !errors.Is(err, errBusy) {
		return lk, err
	}
	st, err := d.readState()
	if err != nil {
		return nil, fmt.Errorf("lab %s is being made or removed by another process: %w", d.name(), err)
	}
	if !st.Daemon {
		return nil, fmt.Errorf("lab %s belongs to process %d, which lives: end that instead", d.name(), st.Owner.PID)
	}
	if err := st.Owner.signal(unix.SIGTERM); err != nil {
		return nil, err
	}
	soon, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if lk, err = lock(soon, d.lockPath()); err == nil || ctx.Err() != nil {
		return lk, err
	}
	if err := st.Owner.signal(unix.SIGKILL); err != nil {
		return nil, err
	}
	return lock(ctx, d.lockPath())
}

// destroy removes everything a lab can have made, knowing only its name; the caller has the lock. Each
// part may be missing or half made.
func (d dir) destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cg, err := labCgroup(d.name())
	if err != nil {
		return err
	}
	// Every process of nodes and client is in the lab's cgroup; the recorded PID 1s are a second line.
	err = cg.kill()
	pids, _ := filepath.Glob(d.path("nodes", "*", "pid1"))
	for _, f := range pids {
		p := (&Node{lab: &Lab{dir: d}, name: filepath.Base(filepath.Dir(f))}).pid1()
		err = errors.Join(err, p.signal(unix.SIGKILL), p.wait(ctx))
	}
	err = errors.Join(err, cg.remove(ctx), d.removeNetns(ctx))
	err = errors.Join(err, waitLoopFree(ctx, string(d)), detachLoops(string(d)))
	if err != nil {
		return err
	}
	if err := d.noMounts(); err != nil {
		return err
	}
	return os.RemoveAll(string(d))
}

// noMounts makes sure that no file system is mounted below d in the machine's own view: removing the
// files of a lab must never reach through a mount.
func (d dir) noMounts() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && (f[4] == string(d) || strings.HasPrefix(f[4], string(d)+"/")) {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", f[4], err)
			}
		}
	}
	return nil
}
