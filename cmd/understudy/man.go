package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/understudy-ha/understudy/agent/api"
)

// manCommand writes the man pages; packaging calls it.
func manCommand(*app) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a directory",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("the man pages cannot be written: %w", err)
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			epoch := time.Unix(0, 0) // the same pages from the same source
			return doc.GenManTree(root, &doc.GenManHeader{Section: "8", Source: "understudy " + api.Software, Manual: "Understudy", Date: &epoch}, args[0])
		},
	}
}
