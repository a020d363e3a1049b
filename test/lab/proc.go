package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process names a process for good: a pid alone may be somebody else's by the time it is used.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // field 22 of /proc/PID/stat: clock ticks since the machine booted
}

// findProcess identifies the process that has pid now.
func findProcess(pid int) (process, error) {
	_, start, err := procStat(pid)
	return process{PID: pid, Start: start}, err
}

// procStat returns the state letter and the start time of pid.
func procStat(pid int) (byte, uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field is the command in parentheses and may hold anything, also ") Z 1 ".
	rest := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(rest) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: too short", pid)
	}
	start, err := strconv.ParseUint(rest[19], 10, 64)
	return rest[0][0], start, err
}

// alive is true while the process runs; a zombie is dead.
func (p process) alive() bool {
	if p.PID <= 0 {
		return false
	}
	st, start, err := procStat(p.PID)
	return err == nil && start == p.Start && st != 'Z' && st != 'X'
}

// signal sends sig if the process still is the one that was recorded. A dead one is no error.
func (p process) signal(sig unix.Signal) error {
	fd, err := p.open()
	if fd < 0 || err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// open returns a pidfd, or -1 when the process is gone.
func (p process) open() (int, error) {
	if !p.alive() {
		return -1, nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	// The pid may have been handed on between the look and the open.
	if !p.alive() {
		unix.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// wait returns when the process has ended. For PID 1 of a namespace that is after every process of
// the namespace has ended: the kernel reaps them first.
func (p process) wait(ctx context.Context) error {
	fd, err := p.open()
	if fd < 0 || err != nil {
		return err
	}
	defer unix.Close(fd)
	return pollFD(ctx, fd, unix.POLLIN)
}

// pollFD waits until fd has one of events, in short slices so that ctx is honoured.
func pollFD(ctx context.Context, fd int, events int16) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, int((50 * time.Millisecond).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}
