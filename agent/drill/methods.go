package drill

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/understudy-ha/understudy/agent/drill/pacemaker"
)

// Fence is the method that has the cluster's own fence device reboot the node: the fullest
// rehearsal without going to the rack. Corosync's detection is not part of it.
func Fence(c *pacemaker.Cluster) Method { return fence{c} }

type fence struct{ cluster *pacemaker.Cluster }

func (fence) Name() string { return "fence" }

func (f fence) Harm(ctx context.Context, node string) error { return f.cluster.Fence(ctx, node) }

// Restore has nothing to do: the node boots, and joins if the cluster is enabled there.
func (fence) Restore(context.Context, string) error { return nil }

// Standby is the method that has the node give up its resources: gentle, without fencing.
func Standby(c *pacemaker.Cluster) Method { return standby{c} }

type standby struct{ cluster *pacemaker.Cluster }

func (standby) Name() string { return "standby" }

func (s standby) Harm(ctx context.Context, node string) error {
	return s.cluster.Standby(ctx, node, true)
}

func (s standby) Restore(ctx context.Context, node string) error {
	return s.cluster.Standby(ctx, node, false)
}

// Command is the method that runs shell commands, with {node} in them replaced by the node's name:
// a PDU, a hypervisor. An empty restore does nothing.
func Command(run pacemaker.Run, harm, restore string) Method {
	if run == nil {
		run = pacemaker.Exec
	}
	return command{run: run, harm: harm, restore: restore}
}

type command struct {
	run           pacemaker.Run
	harm, restore string
}

func (command) Name() string { return "command" }

func (c command) Harm(ctx context.Context, node string) error { return c.sh(ctx, c.harm, node) }

func (c command) Restore(ctx context.Context, node string) error {
	if c.restore == "" {
		return nil
	}
	return c.sh(ctx, c.restore, node)
}

// nodeName is what a node may be called for its name to be put into a shell command.
var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (c command) sh(ctx context.Context, template, node string) error {
	if !nodeName.MatchString(node) {
		return fmt.Errorf("the node name %q is not one to put into a shell command", node)
	}
	_, err := c.run(ctx, "/bin/sh", "-c", strings.ReplaceAll(template, "{node}", node))
	if err != nil {
		return fmt.Errorf("for %s: %w", node, err)
	}
	return nil
}
