package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent"
	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/config"
	"github.com/understudy-ha/understudy/replication/store"
)

// keptFlags are what the commands share that look into this node's store.
type keptFlags struct{ config string }

func (f *keptFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.config, "config", api.ConfigPath, "this node's configuration, for where the store is")
}

// open finds the store. Without a configuration that can be read it is where it is by
// default: what is kept must be got at on a broken node, too.
func (f *keptFlags) open(c *cobra.Command, service string) (agent.Kept, error) {
	k := agent.Kept{Store: api.DefaultStore, Service: service, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	conf, err := config.Load(f.config)
	if err == nil {
		k.Store = conf.Store
		return k, nil
	}
	if c.Flags().Changed("config") {
		return k, err
	}
	return k, nil
}

// retention is what this node is configured to keep. It has no default here: on a broken node that
// may be less than what was asked for.
func (f *keptFlags) retention() (store.Policy, error) {
	conf, err := config.Load(f.config)
	if err != nil {
		return store.Policy{}, fmt.Errorf("nothing is dropped, for what is to be kept is not known: %w", err)
	}
	return conf.Retention, nil
}
