package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent"
	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/config"
)

// agentCommand is the daemon that systemd runs.
func agentCommand() *cobra.Command {
	var path string
	var check bool
	c := &cobra.Command{
		Use:   "agent",
		Short: "Run this node's agent (systemd does)",
		Long: `Run this node's agent in the foreground until SIGTERM. systemd runs it as
understudy.service. When it ends, containers and addresses stay as they are;
when it returns, it takes them up again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := config.Load(path)
			if err != nil {
				return err
			}
			if check {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is right: node %s, %d peers\n", path, conf.Node, len(conf.Peers))
				return nil
			}
			return runAgent(cmd.Context(), conf)
		},
	}
	c.Flags().StringVar(&path, "config", api.ConfigPath, "configuration file")
	c.Flags().BoolVar(&check, "check", false, "check the configuration and end")
	return c
}

func runAgent(ctx context.Context, conf *config.Config) error {
	defer tendHeap()()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: conf.LogLevel}))
	a, err := agent.New(agent.Options{Config: conf, Logger: log})
	if err != nil {
		return err
	}
	defer a.Stop()
	if err := a.Start(ctx); err != nil {
		return err
	}
	notify(log, daemon.SdNotifyReady)
	log.Info("ready", "node", conf.Node, "version", api.Software)
	watchdog(ctx, a, log)
	notify(log, daemon.SdNotifyStopping)
	return nil
}

// watchdog tells systemd that the agent is alive, until ctx ends. It asks the
// agent itself, so that one that hangs is restarted.
func watchdog(ctx context.Context, a *agent.Agent, log *slog.Logger) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(every / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.CheckAlive()
			notify(log, daemon.SdNotifyWatchdog)
		}
	}
}

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Warn("systemd cannot be told", "state", state, "error", err)
	}
}
