package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/probe"
)

// probeRun is a call of `understudy probe`.
type probeRun struct {
	*app
	flags          probeFlags
	duration       time.Duration
	untilRecovered bool
	untilEOF       bool
	events         bool
}

func probeCommand(a *app) *cobra.Command {
	p := &probeRun{app: a}
	c := &cobra.Command{
		Use:   "probe [URL]",
		Short: "Measure outages as a client sees them",
		Long: `Send a request every few milliseconds, each on a new connection and on schedule, and
measure outages: from the last success before to the first success after.

The URL is http://…, https://…, tcp://host:port (a connection is an answer) or
addr://address (the host answers); --command runs a shell command instead, whose exit code 0 is an answer.

With --writes, numbered writes run beside the requests; with --verify-writes what is
there is read back at the end, and lost = acknowledged - present is counted.

It needs no agent and no cluster: run it where the clients are. It ends on Ctrl-C,
after --for, or with --until-recovered one second after an outage has ended. With
--events it prints one JSON object a line as things happen, the result last.`,
		Example: `  understudy probe http://192.0.2.100:5000/v2/
  understudy probe --until-recovered --json tcp://192.0.2.100:5432
  understudy probe --writes 'http://192.0.2.100/w/{n}' --verify-writes http://192.0.2.100/list http://192.0.2.100/`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				p.flags.url = args[0]
			}
			return p.run(c.Context())
		},
	}
	p.flags.add(c.Flags())
	c.Flags().StringVar(&p.flags.command, "command", "", "shell command to run as a request instead of a URL")
	c.Flags().DurationVar(&p.duration, "for", 0, "end after so long")
	c.Flags().BoolVar(&p.untilRecovered, "until-recovered", false, "end when an outage has ended")
	c.Flags().BoolVar(&p.untilEOF, "until-eof", false, "end when standard input does")
	c.Flags().BoolVar(&p.events, "events", false, "print JSON lines as things happen")
	return c
}

func (p *probeRun) run(ctx context.Context) error {
	if p.flags.url == "" && p.flags.command == "" {
		return usageError{errors.New("name a URL, or a --command")}
	}
	o, err := p.flags.options()
	if err != nil {
		return usageError{err}
	}
	o.For, o.UntilRecovered = p.duration, p.untilRecovered
	prog := p.newProgress("probing", p.duration)
	defer prog.close()
	out := json.NewEncoder(p.out)
	begun := p.now()
	o.OnEvent = func(e probe.Event) {
		if p.events {
			_ = out.Encode(e) // a reader that is gone ends the probe through --until-eof or SIGPIPE
			return
		}
		prog.at(p.now().Sub(begun))
		tellEvent(prog, e)
	}
	if p.untilEOF {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() { // ends with the input, or with the program
			_, _ = io.Copy(io.Discard, p.in)
			cancel()
		}()
	}
	run, err := probe.Start(ctx, o)
	if err != nil {
		return usageError{err}
	}
	res := run.Wait()
	prog.close()
	return p.report(res)
}

func tellEvent(prog *progress, e probe.Event) {
	clock := e.At.Format("15:04:05.000")
	switch e.Event {
	case probe.EventOutageBegin:
		prog.line("%s no answer since %s", clock, e.Outage.Start.Format("15:04:05.000"))
	case probe.EventOutageEnd:
		prog.line("%s answers again, outage %.1f ms, %d failed requests%s", clock, e.Outage.MS, e.Outage.Failures, because(e.Outage.FirstError))
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

func (p *probeRun) report(res probe.Result) error {
	var err error
	switch {
	case p.events:
		err = json.NewEncoder(p.out).Encode(probe.Event{Event: probe.EventResult, At: p.now(), Result: &res})
	case p.json:
		err = p.printJSON(res)
	default:
		printResult(p.out, res)
	}
	if n := len(res.Outages); err == nil && (res.OK == 0 || n > 0 && res.Outages[n-1].Open) {
		return withCode(exitDown, errSaid)
	}
	return err
}

func printResult(w io.Writer, r probe.Result) {
	fmt.Fprintf(w, "%s: %d requests in %s, %d answered, %d failed\n", r.Target, r.Requests, short(r.Ended.Sub(r.Started)), r.OK, r.Failures)
	if r.OK > 0 {
		fmt.Fprintf(w, "latency: median %.1f ms, 90%% %.1f ms, 99%% %.1f ms, longest %.1f ms\n", r.LatencyMS.P50, r.LatencyMS.P90, r.LatencyMS.P99, r.LatencyMS.Max)
	}
	switch {
	case r.OK == 0:
		fmt.Fprintln(w, "it never answered")
	case len(r.Outages) == 0:
		fmt.Fprintf(w, "no outage (gaps under %.0f ms are latency)\n", r.MinOutageMS)
	}
	for _, o := range r.Outages {
		state := ""
		if o.Open {
			state = ", had not ended"
		}
		if o.FromStart {
			state += ", from the start"
		}
		if o.ClientLagMS > o.MS/4 {
			state += fmt.Sprintf(", but this client itself was %.0f ms late", o.ClientLagMS)
		}
		fmt.Fprintf(w, "outage: %.1f ms from %s, %d failed requests%s%s\n", o.MS, o.Start.Format("15:04:05.000"), o.Failures, because(o.FirstError), state)
	}
	if r.FailuresOutside > 0 {
		fmt.Fprintf(w, "%d single requests failed with answers right before and after\n", r.FailuresOutside)
	}
	if wr := r.Writes; wr != nil {
		printWrites(w, wr)
	}
}

func printWrites(w io.Writer, wr *probe.WriteResult) {
	fmt.Fprintf(w, "writes: %d acknowledged, %d not, longest gap %.1f ms\n", wr.Acked, wr.Failed, wr.LongestGapMS)
	switch {
	case wr.VerifyError != "":
		fmt.Fprintf(w, "lost writes: not known: %s\n", wr.VerifyError)
	case !wr.Verified:
		fmt.Fprintln(w, "lost writes: not known, there was nothing to read them back with (--verify-writes)")
	default:
		fmt.Fprintf(w, "lost writes: %d acknowledged ones are not there; %d are there that were never acknowledged\n", wr.Lost, wr.UnackedPresent)
	}
}
