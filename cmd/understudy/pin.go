package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// pinCommand keeps a generation.
func pinCommand(a *app) *cobra.Command {
	var flags keptFlags
	var why string
	c := &cobra.Command{
		Use:     "pin SERVICE GENERATION",
		Short:   "Keep a generation on this node, whatever the retention says",
		Example: `  understudy pin registry 7.118 --why "before the upgrade"`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept, err := flags.open(cmd, args[0])
			if err != nil {
				return err
			}
			if err := kept.Pin(args[1], why); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "generation %s of %s stays on this node until it is unpinned\n", args[1], args[0])
			return nil
		},
	}
	c.Flags().StringVar(&why, "why", "by hand", "what to show beside it")
	flags.add(c)
	return c
}

// unpinCommand lets it go.
func unpinCommand(a *app) *cobra.Command {
	var flags keptFlags
	c := &cobra.Command{
		Use:   "unpin SERVICE GENERATION",
		Short: "Leave a pinned generation to this node's retention again",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept, err := flags.open(cmd, args[0])
			if err != nil {
				return err
			}
			if err := kept.Unpin(args[1]); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "generation %s of %s stays as long as the retention keeps it\n", args[1], args[0])
			return nil
		},
	}
	flags.add(c)
	return c
}
