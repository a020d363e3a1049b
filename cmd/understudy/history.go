package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
)

// historyCommand lists what this node keeps of a service.
func historyCommand(a *app) *cobra.Command {
	var flags keptFlags
	c := &cobra.Command{
		Use:   "history SERVICE",
		Short: "The generations of a service that this node keeps",
		Long: `List the generations of a service that this node keeps: each is the whole state of its volumes
at one instant. CHANGED and NEW are the entries and bytes by which one differs from the one
listed before it. How many are kept is this node's to say ([retention] in its agent.toml).
One that was captured with consistency=none is marked as not of one instant.

It needs no agent. Another node keeps a history of its own.`,
		Example: "  understudy history registry",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept, err := flags.open(cmd, args[0])
			if err != nil {
				return err
			}
			h, err := kept.History()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(h)
			}
			return printHistory(a.out, h, a.now())
		},
	}
	flags.add(c)
	return c
}

func printHistory(w io.Writer, h api.History, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GENERATION\tCOMMITTED\tAGE\tENTRIES\tSIZE\tCHANGED\tNEW\t")
	row := func(g api.Generation, marks []string) {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%d\t%s\t%s\n", g.ID, g.At.Local().Format("2006-01-02 15:04:05"), ageOf(now.Sub(g.At)),
			g.Entries, bytesOf(uint64(g.Size)), g.Changed, bytesOf(uint64(g.New)), strings.Join(marks, ", "))
	}
	for _, g := range h.Generations {
		row(g, marks(g))
	}
	for _, g := range h.Diverged {
		row(g, append([]string{"diverged: nobody had received it"}, nature(g)...))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d generations, %d diverged, %s on disk\n", len(h.Generations), len(h.Diverged), bytesOf(uint64(h.StoreBytes)))
	return nil
}

func marks(g api.Generation) (out []string) {
	if g.Head {
		out = append(out, "head")
	}
	if g.Applied {
		out = append(out, "applied")
	}
	out = append(out, nature(g)...)
	if g.Suspect != "" {
		out = append(out, "SUSPECT: "+g.Suspect)
	}
	if g.Pinned != "" {
		out = append(out, "pinned: "+g.Pinned)
	}
	return out
}

// nature is how the generation was captured, where that was out of the ordinary.
func nature(g api.Generation) (out []string) {
	if g.Final {
		out = append(out, "hand-over")
	}
	if g.Loose {
		out = append(out, "not of one instant")
	}
	return out
}

// ageOf is an age in two units at most; one of a clock that was set back is 0.
func ageOf(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	if days := d / (24 * time.Hour); days > 0 {
		return fmt.Sprintf("%dd%dh", days, d%(24*time.Hour)/time.Hour)
	}
	if hours := d / time.Hour; hours > 0 {
		return fmt.Sprintf("%dh%dm", hours, d%time.Hour/time.Minute)
	}
	return d.String()
}
