package cluster

import (
	"context"
	"strconv"
)

// SetScore sets this node's promotion score for a service; 0 or less: it is
// not promoted. It always writes: who asks knows whether the score has changed,
// or may have been forgotten with a restart of Pacemaker.
func (c *Cluster) SetScore(ctx context.Context, service string, score int) error {
	return c.writeScore(ctx, service, "--update="+strconv.Itoa(score))
}

// ClearScore removes this node's promotion score for a service.
func (c *Cluster) ClearScore(ctx context.Context, service string) error {
	return c.writeScore(ctx, service, "--delete")
}

func (c *Cluster) writeScore(ctx context.Context, service, command string) error {
	_, err := c.run(ctx, "set the promotion score of service "+service, "attrd_updater",
		"--name=master-"+service, "--node="+c.opts.Node, command)
	return err
}
