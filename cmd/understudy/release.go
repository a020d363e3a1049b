package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// releaseCommand ends the alarm about suspect generations.
func releaseCommand(a *app) *cobra.Command {
	var flags keptFlags
	var yes bool
	c := &cobra.Command{
		Use:   "release SERVICE",
		Short: "Say that suspect generations are not an attack, or were dealt with",
		Long: `End the alarm about generations that look like an attack on the data, on the node that received
them. With on-suspect=hold the standby applies them, and all that came after, from then on.

Look first: understudy diff SERVICE GENERATION GENERATION says what changed, and understudy
restore SERVICE --generation GENERATION --to DIR writes either beside. To go back instead:
understudy restore SERVICE --generation GENERATION --in-place, on the active node.

The generation before them stays pinned until understudy unpin.`,
		Example: "  understudy release registry",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept, err := flags.open(cmd, args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(cmd.Context(), yes, "What is suspect is applied here, and replaces what was before it. Go on?"); err != nil {
				return err
			}
			released, err := kept.Release()
			if err != nil {
				return err
			}
			for _, r := range released {
				fmt.Fprintf(a.out, "generations %s to %s of %s are released; generation %s, from before them, stays pinned\n", r.First, r.Last, args[0], r.Before)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	flags.add(c)
	return c
}
