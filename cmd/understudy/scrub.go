package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
)

// scrubPoll is how often the agent is asked how far it has got.
const scrubPoll = 500 * time.Millisecond

// scrubCommand verifies what a node keeps.
func scrubCommand(a *app) *cobra.Command {
	var status, background, giveUp, yes bool
	c := &cobra.Command{
		Use:   "scrub SERVICE",
		Short: "Verify what this node keeps of a service, and mend it",
		Long: `Read all that this node keeps of a service from the disk, every generation and every pack, and
on a standby the live data too, and verify it by its hashes. The agent does so by itself
from time to time, slowly ([scrub] in agent.toml); this does it now. It stands still while
the service is taken over.

What is damaged is set aside, never deleted, and mended: from memory, the live data or the
store; what no place here has comes from another node that has it. What no node has any
more is asked for until --give-up says that it will not come.

Exit code 1: something is damaged and not mended yet.`,
		Example: `  understudy scrub registry
  understudy scrub registry --status`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			req := api.ScrubRequest{Begin: !status && !giveUp, GiveUp: giveUp}
			if giveUp {
				if err := a.confirm(c.Context(), yes, "Generations that cannot be read any more go, and what was lost is not asked for again. Go on?"); err != nil {
					return err
				}
			}
			return a.scrub(c.Context(), args[0], req, background)
		},
	}
	c.Flags().BoolVar(&status, "status", false, "only say how it stands")
	c.Flags().BoolVarP(&background, "background", "b", false, "do not wait for the end")
	c.Flags().BoolVar(&giveUp, "give-up", false, "do not wait any longer for what no node has")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (a *app) scrub(ctx context.Context, service string, req api.ScrubRequest, background bool) error {
	ask1 := func(req api.ScrubRequest) (api.ScrubStatus, error) {
		return ask(ctx, func(ctx context.Context) (api.ScrubStatus, error) { return a.client().Scrub(ctx, service, req) })
	}
	st, err := ask1(req)
	for err == nil && req.Begin && st.Running && !background {
		if a.terminal() && !a.json {
			fmt.Fprintf(a.err, "\r%s of about %s verified ", bytesOf(uint64(st.Done)), bytesOf(uint64(st.Total)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err() // the agent goes on
		case <-time.After(scrubPoll):
		}
		st, err = ask1(api.ScrubRequest{})
	}
	if err != nil {
		return err
	}
	if a.terminal() && !a.json {
		fmt.Fprint(a.err, "\r\033[K")
	}
	if a.json {
		err = a.printJSON(st)
	} else {
		printScrub(a.out, st)
	}
	if st.Error != "" {
		return errors.Join(err, fmt.Errorf("the last round could not go on: %s", st.Error))
	}
	if st.Lacks > 0 {
		return errors.Join(err, withCode(exitError, errSaid))
	}
	return err
}

func printScrub(w io.Writer, st api.ScrubStatus) {
	const layout = "2006-01-02 15:04:05"
	switch {
	case st.Began.IsZero():
		fmt.Fprintf(w, "%s was never verified on this node\n", st.Service)
	case st.Ended.IsZero():
		fmt.Fprintf(w, "%s: begun %s, %s of about %s verified\n", st.Service, st.Began.Local().Format(layout), bytesOf(uint64(st.Done)), bytesOf(uint64(st.Total)))
	default:
		live := "with the live data"
		if !st.Live {
			live = "without the live data, which is in use"
		}
		fmt.Fprintf(w, "%s: verified %s, %s in %d packs, %s\n", st.Service, st.Ended.Local().Format(layout), bytesOf(uint64(st.Done)), st.Packs, live)
	}
	for _, d := range st.Found {
		mark := "mended"
		if !d.Mended {
			mark = "NOT MENDED"
		}
		fmt.Fprintf(w, "  %s  %s: %s [%s]\n", d.At.Local().Format(layout), d.What, d.Repair, mark)
	}
	switch {
	case st.Lacks > 0:
		fmt.Fprintf(w, "LOST HERE: %d chunks or generations; a node that has them sends them\n", st.Lacks)
	case len(st.Found) == 0:
		fmt.Fprintln(w, "no damage")
	}
}
