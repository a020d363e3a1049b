package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/probe"
)

func switchoverCommand(a *app) *cobra.Command {
	m := &mover{app: a}
	var yes bool
	c := &cobra.Command{
		Use:   "switchover SERVICE",
		Short: "Move a service to the standby, planned and without loss",
		Long: `Move a service to its standby through Pacemaker: check that the standby is ready, ship
ahead so that little is left to send while the service is down, keep the active role
off its present node until the other has it, and lift that ban again.

The ban ends by itself after five minutes, should this program be killed; Ctrl-C lifts it.
Ship-ahead happens only where this runs on the active node; elsewhere the move is as
safe, and its outage a little longer.

With --probe the outage is measured against a URL of the service; without it against the
virtual address alone, as seen from this node.`,
		Example: "  understudy switchover registry --probe http://192.0.2.100:5000/v2/",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			m.service = args[0]
			return m.command(c.Context(), yes)
		},
	}
	m.probe.add(c.Flags())
	c.Flags().StringVar(&m.probe.url, "probe", "", "URL to measure the outage with, as in understudy probe")
	c.Flags().StringVar(&m.to, "to", "", "the node to move to (default: the best standby)")
	c.Flags().DurationVar(&m.limit, "timeout", 2*time.Minute, "give up waiting for the other node after so long")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// moveResult is what `understudy switchover --json` prints.
type moveResult struct {
	Service  string        `json:"service"`
	From     string        `json:"from"`
	To       string        `json:"to"`
	Moved    bool          `json:"moved"`
	OutageMS *float64      `json:"outage_ms"` // nil: not measured
	Steps    []moveStep    `json:"steps"`
	Notes    []string      `json:"notes,omitempty"`
	Probe    *probe.Result `json:"probe,omitempty"`
	Error    string        `json:"error,omitempty"`
}

// moveStep is a step that is done, and how long it took.
type moveStep struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"` // when it was done
	MS   float64   `json:"ms"`
}

func (m *mover) command(ctx context.Context, yes bool) error {
	if m.limit <= 0 {
		return usageError{errors.New("--timeout is a positive time")}
	}
	if err := m.plan(ctx); err != nil {
		return err
	}
	if m.from == m.to {
		m.say("%s is active on %s already; nothing to do", m.service, m.to)
		return m.printMove(nil)
	}
	if err := m.confirm(ctx, yes, fmt.Sprintf("Move %s from %s to %s now? Its clients will see a short outage.", m.service, m.from, m.to)); err != nil {
		return err
	}
	return m.printMove(m.move(ctx))
}

func (m *mover) printMove(err error) error {
	res := moveResult{
		Service: m.service, From: m.from, To: m.to, Moved: err == nil && m.from != m.to,
		Steps: m.steps, Notes: m.notes, Probe: m.measured,
	}
	if m.measured != nil {
		ms := 0.0
		if o, ok := m.measured.Worst(m.begun); ok {
			ms = o.MS
		}
		res.OutageMS = &ms
	}
	if err != nil {
		res.Error = err.Error()
	}
	if m.json {
		return errors.Join(err, m.printJSON(res))
	}
	printMoveText(m.out, res)
	return err
}

func printMoveText(w io.Writer, r moveResult) {
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	if !r.Moved {
		return
	}
	fmt.Fprintf(w, "%s is active on %s (was on %s)\n", r.Service, r.To, r.From)
	switch {
	case r.OutageMS == nil:
		fmt.Fprintln(w, "outage: not measured; name a URL with --probe")
	case *r.OutageMS == 0:
		fmt.Fprintf(w, "outage: none of %.0f ms or more, by %s\n", r.Probe.MinOutageMS, r.Probe.Target)
	default:
		fmt.Fprintf(w, "outage: %.0f ms, by %s\n", *r.OutageMS, r.Probe.Target)
	}
}
