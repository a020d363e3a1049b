package main

import (
	"github.com/spf13/cobra"
)

// metricsCommand is for a monitoring system that cannot open the agent's socket.
func metricsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "This node's figures for a monitoring system",
		Long: `Print this node's figures in Prometheus' text format: how old its copies are, how far the peers lag
behind, how long containers stood still, what was sent, what is kept, suspect generations, what scrubs
found, how the store's disk stands. The agent's socket answers GET /metrics with the same.

Prometheus gets them through the textfile collector of its node exporter, or through any program
that passes a request on to a unix socket.`,
		Example: `  understudy metrics >/var/lib/prometheus/node-exporter/understudy.prom.new &&
    mv /var/lib/prometheus/node-exporter/understudy.prom.new /var/lib/prometheus/node-exporter/understudy.prom`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			text, err := ask(c.Context(), a.client().Metrics)
			if err == nil {
				_, err = a.out.Write(text)
			}
			return err
		},
	}
}
