package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// restoreResult is what `understudy restore --json` prints.
type restoreResult struct {
	Service    string   `json:"service"`
	Generation string   `json:"generation"`
	To         string   `json:"to"`
	Warnings   []string `json:"warnings,omitempty"`
}

// restoreCommand gets back what a node has kept.
func restoreCommand(a *app) *cobra.Command {
	var to string
	var flags keptFlags
	c := &cobra.Command{
		Use:   "restore SERVICE GENERATION --to DIR",
		Short: "Write a kept or diverged generation into a directory",
		Long: `Write a generation that this node keeps into a directory, one folder per volume, every
byte verified by its hash. GENERATION is one that status shows: a diverged generation, which
holds what a former active had written and nobody had received, or a committed one.

The service and its volumes are not touched: compare, and copy back what is wanted.`,
		Example: "  understudy restore registry 2.6.1 --to /root/lost",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept, _, err := flags.open(cmd, args[0])
			if err != nil {
				return err
			}
			warnings, err := kept.Restore(cmd.Context(), args[1], to)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(restoreResult{args[0], args[1], to, warnings})
			}
			for _, w := range warnings {
				a.say("note: %s", w)
			}
			fmt.Fprintf(a.out, "generation %s of %s is in %s\n", args[1], args[0], to)
			return nil
		},
	}
	c.Flags().StringVar(&to, "to", "", "directory to write to; it must be empty or not exist")
	flags.add(c)
	if err := c.MarkFlagRequired("to"); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}
