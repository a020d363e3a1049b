package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
)

func logCommand(a *app) *cobra.Command {
	var since string
	var follow bool
	var limit int
	c := &cobra.Command{
		Use:   "log [SERVICE]",
		Short: "What this node decided and why",
		Long: `Show this node's decision journal: every promotion, refusal, demotion and forced step,
with its reason. Another node's journal is shown by the same command there.

With --json: an array; with --json --follow one object a line.`,
		Example: `  understudy log registry --since 1h
  understudy log --since "2026-11-21 20:00" --follow`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			q := api.LogQuery{Limit: limit}
			if len(args) > 0 {
				q.Service = args[0]
			}
			var err error
			if q.Since, err = parseSince(since, a.now()); err != nil {
				return usageError{err}
			}
			if follow {
				return a.followLog(c.Context(), q)
			}
			log, err := ask(c.Context(), func(ctx context.Context) ([]api.Decision, error) { return a.client().Log(ctx, q) })
			if err != nil {
				return err
			}
			return a.printLog(log)
		},
	}
	c.Flags().StringVar(&since, "since", "", `no older than: 10m, 2h, or a time such as "2026-11-21 20:00" (local) or RFC 3339`)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is decided from now on")
	c.Flags().IntVarP(&limit, "lines", "n", 0, "the newest so many entries (0: all)")
	return c
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-max(d, -d)), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--since %q is neither a duration (10m, 2h) nor a time (2026-11-21 20:00)", s)
}

func (a *app) printLog(log []api.Decision) error {
	if a.json {
		if log == nil {
			log = []api.Decision{}
		}
		return a.printJSON(log)
	}
	for _, d := range log {
		printDecision(a.out, d)
	}
	return nil
}

func (a *app) followLog(ctx context.Context, q api.LogQuery) error {
	err := a.client().FollowLog(ctx, q, func(d api.Decision) error {
		if a.json {
			return json.NewEncoder(a.out).Encode(d)
		}
		printDecision(a.out, d)
		return nil
	})
	if ctx.Err() != nil {
		return nil // the way such a command ends
	}
	return err
}

// printDecision writes one line: when, what, about what, why, how long, and the rest.
func printDecision(w io.Writer, d api.Decision) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-13s", d.At.Local().Format("2006-01-02 15:04:05.000"), d.Event)
	if d.Service != "" {
		b.WriteString(" " + d.Service)
	}
	if d.Node != "" {
		b.WriteString(" on " + d.Node)
	}
	if d.Term > 0 {
		fmt.Fprintf(&b, " term %d", d.Term)
	}
	b.WriteString(": " + d.Reason)
	if d.Took > 0 {
		fmt.Fprintf(&b, " (took %s)", short(time.Duration(d.Took)))
	}
	keys := make([]string, 0, len(d.Fields))
	for k := range d.Fields {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, " %s=%s", k, d.Fields[k])
	}
	fmt.Fprintln(w, b.String())
}
