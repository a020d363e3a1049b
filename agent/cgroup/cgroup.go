package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Procs lists the processes in a cgroup and in those below it, sorted. A cgroup
// that is not there has none. Zombies are not listed by the kernel.
func Procs(cgroup string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(cgroup, func(path string, d fs.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if gone(err) {
			return nil
		}
		if errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup: its processes are listed above it
			return nil
		}
		if err != nil {
			return err
		}
		for _, s := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(s)
			if err != nil {
				return fmt.Errorf("%s lists %q", path, s)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the processes of cgroup %s: %w", cgroup, err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// gone says that a cgroup or a process went away meanwhile.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH)
}

// Alive says whether a process is in a cgroup or below it.
func Alive(cgroup string) (bool, error) {
	if populated, ok := event(cgroup, "populated"); ok {
		return populated, nil
	}
	pids, err := Procs(cgroup)
	return len(pids) > 0, err
}

// event reads a flag of a v2 cgroup's cgroup.events; ok is false on v1, and when
// the cgroup is gone.
func event(cgroup, name string) (value, ok bool) {
	b, err := os.ReadFile(filepath.Join(cgroup, "cgroup.events"))
	if err != nil {
		return false, false
	}
	return flag(string(b), name)
}

func flag(text, name string) (value, ok bool) {
	for line := range strings.Lines(text) {
		if v, found := strings.CutPrefix(line, name+" "); found {
			return strings.TrimSpace(v) == "1", true
		}
	}
	return false, false
}

// Kill ends every process in a cgroup and below it, and returns when there is
// none. Frozen ones die as well. When ctx ends first the error is a
// [*StuckError] that names what is left.
func Kill(ctx context.Context, cgroup string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		pids, err := Procs(cgroup)
		if err != nil || len(pids) == 0 {
			return err
		}
		if err := kill(cgroup, pids); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if pids, err = Procs(cgroup); err != nil || len(pids) == 0 {
				return err
			}
			return stuck(cgroup, pids)
		case <-time.After(wait):
		}
	}
}

// kill sends one round of SIGKILL.
func kill(cgroup string, pids []int) error {
	if err := writeFile(filepath.Join(cgroup, "cgroup.kill"), "1"); err == nil {
		return nil
	}
	// v1, or a kernel before 5.14. A task frozen on v1 dies only when thawed.
	if err := thaw(cgroup); err != nil && !gone(err) {
		return err
	}
	for _, pid := range pids {
		member := func() bool {
			now, err := Procs(cgroup)
			return err == nil && slices.Contains(now, pid)
		}
		if err := signal(pid, unix.SIGKILL, member); err != nil {
			return fmt.Errorf("kill process %d of cgroup %s: %w", pid, cgroup, err)
		}
	}
	return nil
}

// signal signals the process that has a pid and is still the one meant: pids
// are used again. A process that has ended is a success.
func signal(pid int, sig unix.Signal, still func() bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !still() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !gone(err) {
		return err
	}
	return nil
}

// writeFile writes a kernel file in one write; it never creates one.
func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
