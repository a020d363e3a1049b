package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
)

// pruneCommand applies this node's retention, or says what that would do.
func pruneCommand(a *app) *cobra.Command {
	var flags keptFlags
	var dry, yes bool
	c := &cobra.Command{
		Use:   "prune SERVICE",
		Short: "Drop the generations that this node's retention does not keep",
		Long: `Drop the generations of a service that this node's retention does not keep ([retention] in
its agent.toml), and the packs that nothing needs any more. The agent does so about once
a minute by itself; after a change of the settings --dry-run says what it will do.

Kept are the last generations, the newest of each hour, day and week, what is pinned, what
the live data is at, and every diverged generation. Packs go an hour after their last use.`,
		Example: "  understudy prune registry --dry-run",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept, err := flags.open(cmd, args[0])
			if err != nil {
				return err
			}
			policy, err := flags.retention()
			if err != nil {
				return err
			}
			if !dry {
				if err := a.confirm(cmd.Context(), yes, "Drop what the retention of this node does not keep of "+args[0]+"?"); err != nil {
					return err
				}
			}
			res, err := kept.Prune(policy, dry)
			if err != nil {
				return err
			}
			return a.printPruned(res)
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	flags.add(c)
	return c
}

func (a *app) printPruned(r api.PruneResult) error {
	if a.json {
		return a.printJSON(r)
	}
	verb := "dropped"
	if r.DryRun {
		verb = "would go"
	}
	what := fmt.Sprintf("%d generations and %d packs %s, %s; %d generations stay", len(r.Generations), r.Packs, verb, bytesOf(uint64(r.Bytes)), r.Kept)
	if len(r.Generations) > 0 {
		what += "\n" + strings.Join(r.Generations, " ")
	}
	fmt.Fprintln(a.out, what)
	return nil
}
