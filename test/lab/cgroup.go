package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// cgroupRoot finds where the machine has the cgroup v2 hierarchy: all of /sys/fs/cgroup, or
// /sys/fs/cgroup/unified beside version 1. Nodes need its freezer and its kill switch.
var cgroupRoot = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(line, " - ")
		if !ok || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		if f := strings.Fields(before); len(f) > 4 && f[3] == "/" {
			return f[4], nil
		}
	}
	return "", errors.New("this machine has no cgroup v2 hierarchy mounted: mount one (mount -t cgroup2 none DIR)")
})

// cgroup is a directory of the v2 hierarchy that holds every process of one node, or of the client.
type cgroup string

func labCgroup(lab string) (cgroup, error) {
	root, err := cgroupRoot()
	return cgroup(filepath.Join(root, "understudy-lab", lab)), err
}

func (c cgroup) child(name string) cgroup { return cgroup(filepath.Join(string(c), name)) }

// create makes the directory and hands controllers down to it where the machine has any to give.
func (c cgroup) create() error {
	if err := os.MkdirAll(string(c), 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	for p := root; ; {
		rel, _ := filepath.Rel(p, string(c))
		if rel == "." {
			return nil
		}
		for _, ctl := range []string{"+cpu", "+memory", "+pids", "+io"} {
			_ = os.WriteFile(filepath.Join(p, "cgroup.subtree_control"), []byte(ctl), 0)
		}
		p = filepath.Join(p, strings.Split(rel, "/")[0])
	}
}

// kill ends every process below c at once, frozen or not. Nothing there is no error.
func (c cgroup) kill() error {
	err := os.WriteFile(filepath.Join(string(c), "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// freeze stops (or continues) every process below c and waits until that is so.
func (c cgroup) freeze(ctx context.Context, on bool) error {
	v := map[bool]string{true: "1", false: "0"}[on]
	if err := os.WriteFile(filepath.Join(string(c), "cgroup.freeze"), []byte(v), 0); err != nil {
		return err
	}
	for !c.event("frozen " + v) {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("waiting for processes to freeze or thaw: %w", err)
		}
	}
	return nil
}

// event tells whether cgroup.events holds the line, such as "populated 0".
func (c cgroup) event(line string) bool {
	b, _ := os.ReadFile(filepath.Join(string(c), "cgroup.events"))
	return strings.Contains("\n"+string(b), "\n"+line+"\n")
}

// remove ends every process below c and deletes c with all cgroups below. It kills again each round: a
// process whose parent is dead may be on its way into c still (inCgroup).
func (c cgroup) remove(ctx context.Context) error {
	for {
		err := errors.Join(c.kill(), c.removeOnce())
		if err == nil {
			return nil
		}
		if e := sleep(ctx, 5*time.Millisecond); e != nil {
			return fmt.Errorf("remove cgroup %s: %w", c, err)
		}
	}
}

func (c cgroup) removeOnce() error {
	entries, err := os.ReadDir(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := c.child(e.Name()).removeOnce(); err != nil {
				return err
			}
		}
	}
	err = os.Remove(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
