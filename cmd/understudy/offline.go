package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent"
	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/cgroup"
	"github.com/understudy-ha/understudy/agent/config"
)

// evictCommand is the offline stop: what the resource agent runs when neither
// the agent nor Podman can be asked.
func evictCommand() *cobra.Command {
	var limit time.Duration
	c := &cobra.Command{
		Use:   "evict SERVICE",
		Short: "End a service on this node without its agent and without Podman",
		Long: `End every container and remove every address of a service on this node, and
prove from /proc, the cgroups and the kernel's addresses that none is left.
Neither the agent nor Podman is asked. The resource agent runs this in a stop
when they do not answer; data is not sealed, so the next start seals it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			o := agent.EvictOptions{Logger: log}
			if conf, err := config.Load(api.ConfigPath); err == nil {
				o.Store = conf.Store
			} // else the default store and the record in /run: a broken configuration must not keep a service running
			said, err := agent.Evict(ctx, args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), said)
			return nil
		},
	}
	c.Flags().DurationVar(&limit, "timeout", 20*time.Second, "give up after this long")
	return c
}

// thawCommand is the unit's ExecStopPost.
func thawCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "thaw",
		Short:  "Let run what a dead agent left frozen",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			services, err := agent.Thaw(api.RunDir)
			if len(services) > 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "thawed", strings.Join(services, ", "))
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		},
	}
}

// guardCommand is the process that ends a freeze when the agent cannot.
func guardCommand() *cobra.Command {
	return &cobra.Command{
		Use:    agent.GuardCommand,
		Short:  "End freezes that outlive their bound or their agent",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			return cgroup.GuardMain(os.Stdin, os.Stdout)
		},
	}
}
