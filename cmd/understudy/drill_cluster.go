package main

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/drill/pacemaker"
)

// localCluster sees the cluster from this node: its agent and its journal. What
// it knows of other nodes came by gossip.
type localCluster struct {
	client *api.Client
	node   string
}

func (d *nodeLoss) localCluster(ctx context.Context) (*localCluster, error) {
	c := &localCluster{client: d.client()}
	v, err := ask(ctx, c.client.Version)
	if err != nil {
		return nil, err
	}
	c.node, d.local = v.Node, v.Node
	return c, nil
}

func (c *localCluster) Status(ctx context.Context, _ string) (api.Status, error) {
	return ask(ctx, c.client.Status)
}

func (c *localCluster) Ready(ctx context.Context, _, service string) (api.Readiness, error) {
	return ask(ctx, func(ctx context.Context) (api.Readiness, error) { return c.client.Ready(ctx, service) })
}

func (c *localCluster) Log(ctx context.Context, from, service string, since time.Time) ([]api.Decision, error) {
	if err := c.here(from); err != nil {
		return nil, err
	}
	return ask(ctx, func(ctx context.Context) ([]api.Decision, error) {
		return c.client.Log(ctx, api.LogQuery{Service: service, Since: since})
	})
}

func (c *localCluster) run(ctx context.Context, node string, argv ...string) ([]byte, error) {
	if err := c.here(node); err != nil {
		return nil, err
	}
	return pacemaker.Exec(ctx, argv...)
}

func (c *localCluster) here(node string) error {
	if node != "" && node != c.node {
		return fmt.Errorf("the journal of %s can only be read there, and this is %s", node, c.node)
	}
	return nil
}
