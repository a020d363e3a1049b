package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
)

func statusCommand(a *app) *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "status [SERVICE]",
		Short: "All nodes and services at a glance",
		Long: `Show what every node is for every service: role, address, health, the generation it
holds and how old that is (what would be lost if the active node failed now), and what
would stop a takeover.

What is shown of other nodes is what this node's agent has heard of them.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			service := ""
			if len(args) > 0 {
				service = args[0]
			}
			if watch {
				return a.watchStatus(c.Context(), service)
			}
			return a.status(c.Context(), service)
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show it anew every second until interrupted")
	return c
}

func (a *app) status(ctx context.Context, service string) error {
	st, err := ask(ctx, a.client().Status)
	if err != nil {
		return err
	}
	if service != "" {
		if st = onlyService(st, service); !hasServices(st) {
			return api.Errorf(api.KindNotFound, "see understudy status for all there are", "no node that this one has heard of has the service %s", service)
		}
	}
	if a.json {
		return a.printJSON(st)
	}
	return statusView{now: a.now(), detail: service != ""}.print(a.out, st)
}

func (a *app) watchStatus(ctx context.Context, service string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if isTerminal(a.out) && !a.json {
			fmt.Fprint(a.out, "\033[H\033[2J")
		}
		if err := a.status(ctx, service); err != nil && ctx.Err() == nil {
			a.say("understudy: %v", err) // an agent that restarts comes back
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// onlyService leaves the nodes and takes all other services out.
func onlyService(st api.Status, service string) api.Status {
	nodes := make([]api.NodeStatus, len(st.Nodes))
	for i, n := range st.Nodes {
		var kept []api.ServiceStatus
		for _, s := range n.Services {
			if s.Service == service {
				kept = append(kept, s)
			}
		}
		n.Services = kept
		nodes[i] = n
	}
	return api.Status{Nodes: nodes}
}

func hasServices(st api.Status) bool {
	for _, n := range st.Nodes {
		if len(n.Services) > 0 {
			return true
		}
	}
	return false
}
