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
