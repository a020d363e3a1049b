package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cgroup is frozen through "cgroup.freeze" on v2 and "freezer.state" on v1.
const (
	v2Freeze = "cgroup.freeze"
	v1Freeze = "freezer.state"
)

// wantsFrozen says whether somebody has asked for a cgroup to be frozen.
func wantsFrozen(cgroup string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(cgroup, v2Freeze))
	if err == nil {
		return strings.TrimSpace(string(b)) == "1", nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	b, err = os.ReadFile(filepath.Join(cgroup, v1Freeze))
	if err != nil {
		return false, fmt.Errorf("cgroup %s cannot be frozen: it has neither %s nor %s: %w", cgroup, v2Freeze, v1Freeze, err)
	}
	return strings.TrimSpace(string(b)) != "THAWED", nil
}

// freeze asks for a cgroup to be frozen; awaitFrozen says when it is.
func freeze(cgroup string) error {
	err := writeFile(filepath.Join(cgroup, v2Freeze), "1")
	if errors.Is(err, os.ErrNotExist) {
		err = writeFile(filepath.Join(cgroup, v1Freeze), "FROZEN")
	}
	return err
}

// thaw undoes freeze; a cgroup that is gone is a success, and so is one that
// has no freezer.
func thaw(cgroup string) error {
	err := writeFile(filepath.Join(cgroup, v2Freeze), "0")
	if errors.Is(err, os.ErrNotExist) {
		err = writeFile(filepath.Join(cgroup, v1Freeze), "THAWED")
	}
	if gone(err) {
		return nil
	}
	return err
}

func isFrozen(cgroup string) bool {
	if frozen, ok := event(cgroup, "frozen"); ok {
		return frozen
	}
	b, err := os.ReadFile(filepath.Join(cgroup, v1Freeze))
	return err == nil && strings.TrimSpace(string(b)) == "FROZEN"
}

// awaitFrozen waits until no process of the cgroup runs. The kernel tells by
// waking a poll on cgroup.events; v1 can only be asked again and again.
func awaitFrozen(ctx context.Context, cgroup string) error {
	f, err := os.Open(filepath.Join(cgroup, "cgroup.events"))
	if err == nil {
		defer f.Close()
	}
	buf := make([]byte, 256)
	for {
		if f == nil {
			if isFrozen(cgroup) {
				return nil
			}
		} else {
			n, err := unix.Pread(int(f.Fd()), buf, 0)
			if err != nil {
				return fmt.Errorf("wait for cgroup %s to freeze: %w", cgroup, err)
			}
			if frozen, _ := flag(string(buf[:n]), "frozen"); frozen {
				return nil
			}
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("cgroup %s did not freeze in time: %w", cgroup, err)
		}
		if f == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, 2); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for cgroup %s to freeze: %w", cgroup, err)
		}
	}
}

func thawAll(cgroups []string) error {
	var errs []error
	for _, c := range cgroups {
		if err := thaw(c); err != nil {
			errs = append(errs, fmt.Errorf("thaw cgroup %s: %w", c, err))
		}
	}
	return errors.Join(errs...)
}
