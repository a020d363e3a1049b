package podman

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/containers/podman/v5/pkg/bindings/containers"

	"github.com/understudy-ha/understudy/agent/api"
)

// killMargin is what Stop keeps of its deadline for the SIGKILL after the grace.
const killMargin = 2 * time.Second

// Init makes a container ready to start: mounts, network, cgroup, everything but
// the process. A container that is initialised or running already is fine.
// It takes 70–90 ms, and the start after it 9 ms instead of 93–138.
//
// ErrNoAddress: it publishes a port on an address that is not here, the virtual
// one say. That container can only be started, once the address is here.
func (c *Client) Init(ctx context.Context, name string) error {
	initialise := func() error {
		return do(ctx, c, "initialise container "+name, func(ctx context.Context) error {
			return containers.ContainerInit(ctx, name, nil)
		})
	}
	err := initialise()
	if stillborn(err) {
		err = initialise()
	}
	if err == nil || errors.Is(err, ErrNotFound) || ctx.Err() != nil {
		return err
	}
	// Podman answers 304 or 500, by version, when there is nothing to do.
	if now, ierr := c.Inspect(ctx, name); ierr == nil && (now.State == StateInitialized || now.State.Alive()) {
		return nil
	}
	return noAddress(name, err)
}

// noAddress recognises that a published port's address is not on this node.
func noAddress(name string, err error) error {
	if err == nil || !strings.Contains(err.Error(), "cannot assign requested address") {
		return err
	}
	return fail(errors.Join(ErrNoAddress, err), api.KindGeneric, "set net.ipv4.ip_nonlocal_bind=1 to set it up ahead of a takeover",
		"container %s publishes a port on an address that is not on this node: %s", name, message(err))
}

// Start starts a container; one that runs already is fine. ErrNoAddress as for
// Init.
func (c *Client) Start(ctx context.Context, name string) error {
	err := c.start(ctx, name)
	if err == nil || responseCode(err) != http.StatusInternalServerError {
		return noAddress(name, err)
	}
	// Initialised, says Podman, but what waited in it may be dead: begin from the
	// beginning, once.
	if now, ierr := c.Inspect(ctx, name); ierr != nil || now.State != StateInitialized || c.Uninit(ctx, name) != nil {
		return noAddress(name, err)
	}
	return noAddress(name, c.start(ctx, name))
}

// stillborn: runc's own child died before it had set anything up, as happens now and then on a busy
// machine. Nothing has come of it, so it is tried once more.
func stillborn(err error) bool {
	return err != nil && strings.Contains(err.Error(), "waiting for init preliminary setup")
}

func (c *Client) start(ctx context.Context, name string) error {
	err := c.startOnce(ctx, name)
	if stillborn(err) {
		err = c.startOnce(ctx, name)
	}
	return err
}

func (c *Client) startOnce(ctx context.Context, name string) error {
	return do(ctx, c, "start container "+name, func(ctx context.Context) error {
		return containers.Start(ctx, name, nil)
	})
}

// Stop ends a container's process: its stop signal, then SIGKILL after grace, and
// in any case so early that the kill still falls before ctx's deadline. A
// container that does not exist, never started or has stopped already is fine.
// When Stop returns nil no process of the container runs.
func (c *Client) Stop(ctx context.Context, name string, grace time.Duration) error {
	now, err := c.Inspect(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if now.State == StateInitialized {
		// What waits in it is ended by others too, and Podman would not notice: it
		// would say initialised for good, and every start would fail.
		return c.Uninit(ctx, name)
	}
	if !now.State.Alive() {
		return nil
	}
	if now.State == StatePaused {
		// Podman refuses to stop what is paused.
		if err := c.unpause(ctx, name); err != nil {
			return err
		}
	}
	grace = boundGrace(ctx, grace)
	stop, cancel := context.WithTimeout(ctx, grace+killMargin)
	defer cancel()
	seconds := uint((grace + time.Second - 1) / time.Second)
	ignore := true
	err = do(stop, c, "stop container "+name, func(ctx context.Context) error {
		return containers.Stop(ctx, name, &containers.StopOptions{Timeout: &seconds, Ignore: &ignore})
	})
	if err == nil || errors.Is(err, ErrNotFound) {
		return nil
	}
	c.log.Warn("graceful stop failed: killing", "container", name, "error", err)
	if kerr := c.Kill(ctx, name); kerr != nil {
		return errors.Join(err, kerr)
	}
	return nil
}

// boundGrace is grace, or less where ctx's deadline does not leave room for a kill.
func boundGrace(ctx context.Context, grace time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		grace = min(grace, time.Until(deadline)-killMargin)
	}
	return max(grace, 0)
}

// Kill sends SIGKILL to a container's process and waits until it is gone; a
// container that does not exist or does not run is fine.
func (c *Client) Kill(ctx context.Context, name string) error {
	signal := "KILL"
	err := do(ctx, c, "kill container "+name, func(ctx context.Context) error {
		return containers.Kill(ctx, name, &containers.KillOptions{Signal: &signal})
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil && responseCode(err) != http.StatusConflict && responseCode(err) != http.StatusInternalServerError {
		return err
	}
	return c.poll(ctx, name, "killed", func(now Container) (bool, error) { return !now.State.Alive(), nil })
}

func (c *Client) unpause(ctx context.Context, name string) error {
	return do(ctx, c, "unpause container "+name, func(ctx context.Context) error {
		return containers.Unpause(ctx, name, nil)
	})
}

// Uninit takes back Init: mounts and network are gone, the container stays.
// Anything but an initialised container is left as it is; ErrRunning if it runs.
func (c *Client) Uninit(ctx context.Context, name string) error {
	now, err := c.Inspect(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if now.State.Alive() {
		return fail(ErrRunning, api.KindRefused, "", "container %s is %s: not taken down", name, now.State)
	}
	if now.State != StateInitialized {
		return nil
	}
	zero := uint(0)
	err = do(ctx, c, "clean up container "+name, func(ctx context.Context) error {
		return containers.Stop(ctx, name, &containers.StopOptions{Timeout: &zero})
	})
	if err != nil {
		return err
	}
	return c.poll(ctx, name, "cleaned up", func(now Container) (bool, error) {
		return now.State != StateInitialized && !now.State.Alive(), nil
	})
}

// poll inspects the container until done says so: every 2 ms at first, then slower.
func (c *Client) poll(ctx context.Context, name, want string, done func(Container) (bool, error)) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	for pause := 2 * time.Millisecond; ; pause = min(pause*2, 50*time.Millisecond) {
		now, err := c.Inspect(ctx, name)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		ok, err := done(now)
		if ok || err != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fail(errors.Join(ErrHung, ctx.Err()), api.KindDeadline, "",
				"container %s is %s, not %s in time", name, now.State, want)
		case <-timer.C:
		}
	}
}

// remove deletes a container that does not run; its volumes stay.
func (c *Client) remove(ctx context.Context, name string) error {
	return c.removeWith(ctx, name, false)
}

// removeForced removes also what Podman cannot look into any more. Volumes stay.
func (c *Client) removeForced(ctx context.Context, name string) error {
	return c.removeWith(ctx, name, true)
}

func (c *Client) removeWith(ctx context.Context, name string, force bool) error {
	volumes := false
	err := do(ctx, c, "remove container "+name, func(ctx context.Context) error {
		_, err := containers.Remove(ctx, name, &containers.RemoveOptions{Force: &force, Volumes: &volumes})
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
