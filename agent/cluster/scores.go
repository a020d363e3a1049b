package cluster

import (
	"context"
	"strconv"
	"time"
)

// scoreAge is how long a score that was written is believed to be there. The
// attribute daemon forgets it when Pacemaker restarts under a living agent.
const scoreAge = 30 * time.Second

type written struct {
	value string
	at    time.Time
}

// SetScore sets this node's promotion score for a service; 0 or less: it is
// not promoted. What was written a moment ago is not written again; see
// AssertScore.
func (c *Cluster) SetScore(ctx context.Context, service string, score int) error {
	value := strconv.Itoa(score)
	c.mu.Lock()
	last, ok := c.scores[service]
	c.mu.Unlock()
	if ok && last.value == value && c.opts.Now().Sub(last.at) < scoreAge {
		return nil
	}
	return c.AssertScore(ctx, service, score)
}

// AssertScore is SetScore that always writes: for a probe, which comes after
// Pacemaker has restarted and forgotten the score.
func (c *Cluster) AssertScore(ctx context.Context, service string, score int) error {
	value := strconv.Itoa(score)
	return c.writeScore(ctx, service, value, "--update="+value)
}

// ClearScore removes this node's promotion score for a service. It always writes.
func (c *Cluster) ClearScore(ctx context.Context, service string) error {
	return c.writeScore(ctx, service, "", "--delete")
}

func (c *Cluster) writeScore(ctx context.Context, service, value, command string) error {
	// Not known while it is being written, and after a failure.
	c.mu.Lock()
	delete(c.scores, service)
	c.mu.Unlock()
	_, err := c.run(ctx, "set the promotion score of service "+service, "attrd_updater",
		"--name=master-"+service, "--node="+c.opts.Node, command)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if value != "" {
		c.scores[service] = written{value: value, at: c.opts.Now()}
	}
	return nil
}
