package podman

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/api/handlers"
	"github.com/containers/podman/v5/pkg/bindings/containers"
	"golang.org/x/sys/unix"
)

// How often a command is asked whether it has ended, at first and at most.
const (
	execPollFirst = 5 * time.Millisecond
	execPollMost  = 100 * time.Millisecond
	execEnd       = 5 * time.Second // to end one that took too long
)

// Exec runs a command in a running container, as its user, without input, and
// waits for its end. An exit code that is not 0 is an error. When ctx ends
// first, the command is killed, so that no session of it stays behind.
func (c *Client) Exec(ctx context.Context, name string, command []string) error {
	what := fmt.Sprintf("run %q in container %s", strings.Join(command, " "), name)
	id, err := call(ctx, c, what, func(ctx context.Context) (string, error) {
		config := &handlers.ExecCreateConfig{}
		config.Cmd = command
		return containers.ExecCreate(ctx, name, config)
	})
	if err != nil {
		return err
	}
	err = do(ctx, c, what, func(ctx context.Context) error { return containers.ExecStart(ctx, id, nil) })
	if err == nil {
		err = c.awaitExec(ctx, what, id)
	}
	// Also of one that has ended: sessions stay until their container ends.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), execEnd)
	defer cancel()
	if ctx.Err() != nil {
		c.killExec(clean, id)
	}
	gone := do(clean, c, "end what "+what+" left", func(ctx context.Context) error {
		return containers.ExecRemove(ctx, id, new(containers.ExecRemoveOptions).WithForce(true))
	})
	if errors.Is(gone, ErrNotFound) {
		gone = nil
	}
	if err == nil && gone != nil {
		c.log.Warn("an exec session stays until its container ends", "container", name, "error", gone)
		gone = nil
	}
	return errors.Join(err, gone)
}

func (c *Client) awaitExec(ctx context.Context, what, id string) error {
	for wait := execPollFirst; ; wait = min(2*wait, execPollMost) {
		at, err := call(ctx, c, what, func(ctx context.Context) (*define.InspectExecSession, error) {
			return containers.ExecInspect(ctx, id, nil)
		})
		switch {
		case err != nil:
			return err
		case !at.Running && at.ExitCode != 0:
			return fmt.Errorf("%s: it ended with code %d", what, at.ExitCode)
		case !at.Running:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: it did not end in time and is killed: %w", what, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// killExec kills the command of a session and what it started in its process
// group. Podman 5.4 does not: where it says SIGKILL it sends SIGTERM once more,
// which a command may ignore.
func (c *Client) killExec(ctx context.Context, id string) {
	inspect := func() (*define.InspectExecSession, error) {
		return call(ctx, c, "look at exec session "+id, func(ctx context.Context) (*define.InspectExecSession, error) {
			return containers.ExecInspect(ctx, id, nil)
		})
	}
	at, err := inspect()
	if err != nil || !at.Running || at.Pid <= 1 {
		return
	}
	fd, err := unix.PidfdOpen(at.Pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	// Now that the process is held: is it still the session's?
	if again, err := inspect(); err != nil || !again.Running || again.Pid != at.Pid {
		return
	}
	// The process itself is a leader that cannot be another, and its group is its own.
	if group, err := unix.Getpgid(at.Pid); err == nil && group == at.Pid && unix.PidfdSendSignal(fd, 0, nil, 0) == nil {
		_ = unix.Kill(-at.Pid, unix.SIGKILL)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		c.log.Warn("a command that took too long cannot be killed", "pid", at.Pid, "error", err)
	}
}
