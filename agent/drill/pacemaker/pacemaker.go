package pacemaker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Run executes a program and returns its standard output. Tests and labs inject their own.
type Run func(ctx context.Context, argv ...string) ([]byte, error)

// Exec runs the program on this machine. The error carries what the program said.
func Exec(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		return out, fmt.Errorf("%s: %w", argv[0], ctx.Err())
	}
	if errors.Is(err, exec.ErrNotFound) {
		return out, fmt.Errorf("%s is not installed here; run this on a node of the cluster that has Pacemaker's tools (package pacemaker-cli-utils on Debian, pacemaker-cli on RHEL)", argv[0])
	}
	return out, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.Join(strings.Fields(stderr.String()), " "))
}

// Cluster speaks to the cluster that this node belongs to.
type Cluster struct{ run Run }

// New makes a Cluster; a nil run means [Exec].
func New(run Run) *Cluster {
	if run == nil {
		run = Exec
	}
	return &Cluster{run: run}
}

// View asks Pacemaker what is where.
func (c *Cluster) View(ctx context.Context) (View, error) {
	out, err := c.run(ctx, "crm_mon", "--one-shot", "--output-as=xml")
	if err != nil {
		return View{}, fmt.Errorf("Pacemaker does not answer here: %w; see systemctl status pacemaker", err)
	}
	return ParseView(out)
}

// Ban keeps the active role of a clone off a node. The ban ends by itself after
// lifetime, so that one whose maker was killed does no lasting harm.
func (c *Cluster) Ban(ctx context.Context, clone, node string, lifetime time.Duration) error {
	_, err := c.run(ctx, "crm_resource", "--ban", "--resource", clone, "--node", node, "--promoted",
		"--lifetime", fmt.Sprintf("PT%dS", int(lifetime.Seconds())))
	return err
}

// Clear takes the ban away. Clearing one that is not there is no error.
func (c *Cluster) Clear(ctx context.Context, clone, node string) error {
	_, err := c.run(ctx, "crm_resource", "--clear", "--resource", clone, "--node", node, "--promoted")
	return err
}

// Standby makes a node give up all its resources, or take some again. The setting
// does not survive the node's restart.
func (c *Cluster) Standby(ctx context.Context, node string, on bool) error {
	args := []string{"crm_attribute", "--node", node, "--name", "standby", "--lifetime", "reboot"}
	if on {
		args = append(args, "--update", "on")
	} else {
		args = append(args, "--delete")
	}
	_, err := c.run(ctx, args...)
	return err
}

// Fence has the node rebooted by its fence device, and returns when that is done.
func (c *Cluster) Fence(ctx context.Context, node string) error {
	_, err := c.run(ctx, "stonith_admin", "--reboot", node)
	return err
}
