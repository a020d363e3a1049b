package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
)

// versions is what `understudy version --json` prints.
type versions struct {
	Software string           `json:"software"`
	API      int              `json:"api"`
	Go       string           `json:"go"`
	Agent    *api.VersionInfo `json:"agent,omitempty"` // nil: it does not run
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "This program's version, and the running agent's",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := versions{Software: api.Software, API: api.Version, Go: runtime.Version()}
			ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
			defer cancel()
			if agent, err := a.client().Version(ctx); err == nil {
				v.Agent = &agent
			}
			if a.json {
				return a.printJSON(v)
			}
			fmt.Fprintf(a.out, "understudy %s, protocol %d, %s\n", v.Software, v.API, v.Go)
			if v.Agent == nil {
				fmt.Fprintln(a.out, "agent: does not answer")
				return nil
			}
			fmt.Fprintf(a.out, "agent: %s, protocol %d, on %s\n", v.Agent.Software, v.Agent.API, v.Agent.Node)
			if v.Agent.Software != v.Software {
				fmt.Fprintln(a.out, "The agent runs another version; systemctl restart understudy takes up this one, and services keep running.")
			}
			return nil
		},
	}
}
