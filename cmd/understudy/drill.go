package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/drill"
)

func drillCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "drill",
		Short: "Rehearse a disaster and measure it",
	}
	c.AddCommand(nodeLossCommand(a))
	return c
}

// nodeLoss is a call of `understudy drill node-loss`.
type nodeLoss struct {
	*app
	service string
	method  string
	harm    string
	restore string
	rounds  int
	report  string
	probe   probeFlags
	wait    time.Duration
	local   string // this node's name
}

func nodeLossCommand(a *app) *cobra.Command {
	d := &nodeLoss{app: a}
	var yes bool
	c := &cobra.Command{
		Use:   "node-loss SERVICE",
		Short: "Lose the active node, measure outage and loss, bring it back",
		Long: `Rehearse the loss of the service's active node: check that a failover would succeed,
measure from this machine, do harm to the active node, watch the takeover, bring the
node back, and write report.json and report.md.

Methods:
  fence    Pacemaker's fence device reboots the node (detection is not rehearsed)
  standby  the node gives up its resources (neither detection nor fencing nor loss)
  command  a shell command of yours cuts its power, with {node} for its name

For fence and command run it on the standby: the node it runs on must survive. With
more rounds the service is moved back by a switchover before each.

IT DOES HARM: the service is down for seconds in each round, and acknowledged writes may be lost.
It asks first.`,
		Example: `  understudy drill node-loss registry --method fence --probe http://192.0.2.100:5000/v2/
  understudy drill node-loss registry --method command --command 'ipmitool -H bmc-{node} chassis power off' \
      --restore-command 'ipmitool -H bmc-{node} chassis power on' --probe http://192.0.2.100:5000/v2/`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d.service = args[0]
			return d.run(c.Context(), yes)
		},
	}
	fs := c.Flags()
	fs.StringVar(&d.method, "method", "", "fence, standby or command")
	fs.StringVar(&d.harm, "command", "", "with --method command: what does the harm")
	fs.StringVar(&d.restore, "restore-command", "", "with --method command: what brings the node back")
	fs.IntVar(&d.rounds, "rounds", 1, "how many times")
	fs.StringVar(&d.report, "report", "", "directory for the report (default drill-SERVICE-TIME)")
	fs.DurationVar(&d.wait, "restore-timeout", 10*time.Minute, "how long a node may take to come back")
	fs.BoolVarP(&yes, "yes", "y", false, "do not ask")
	d.probe.add(fs)
	fs.StringVar(&d.probe.url, "probe", "", "URL to measure with, as in understudy probe")
	fs.StringVar(&d.probe.command, "probe-command", "", "shell command to measure with instead of a URL")
	return c
}

func (d *nodeLoss) run(ctx context.Context, yes bool) error {
	method, err := d.pickMethod()
	if err != nil {
		return usageError{err}
	}
	if d.probe.url == "" && d.probe.command == "" {
		return usageError{errors.New("a drill measures: name a --probe URL of the service, or a --probe-command")}
	}
	po, err := d.probe.options()
	if err != nil {
		return usageError{err}
	}
	cluster, err := d.localCluster(ctx)
	if err != nil {
		return err
	}
	if err := d.preview(ctx, cluster, yes); err != nil {
		return err
	}
	if d.report == "" {
		d.report = fmt.Sprintf("drill-%s-%s", d.service, d.now().Format("20060102-150405"))
	}
	prog := d.newProgress("drill", 0)
	defer prog.close()
	rep, err := drill.NodeLoss(ctx, drill.Options{
		Service: d.service, Rounds: d.rounds, Method: method, Cluster: cluster, Run: cluster.run,
		Prober: drill.LocalProber{Options: po},
		Before: d.moveBack, Check: d.check, RestoreWait: d.wait,
		Progress: func(line string) { prog.line("%s %s", d.now().Format("15:04:05"), line) },
	})
	prog.close()
	if rep == nil {
		return err
	}
	rep.Software = api.Software
	return d.finish(rep, err)
}

func (d *nodeLoss) pickMethod() (drill.Method, error) {
	if d.rounds < 1 {
		return nil, errors.New("--rounds is at least 1")
	}
	if (d.method == "command") != (d.harm != "") {
		return nil, errors.New("--method command and --command go together")
	}
	switch d.method {
	case "fence":
		return drill.Fence(d.pacemaker), nil
	case "standby":
		return drill.Standby(d.pacemaker), nil
	case "command":
		return drill.Command(nil, d.harm, d.restore), nil
	}
	return nil, fmt.Errorf("--method %q is not one of fence, standby and command", d.method)
}

// preview refuses what cannot be, and asks. Nothing has been done yet.
func (d *nodeLoss) preview(ctx context.Context, c *localCluster, yes bool) error {
	ready, err := c.Ready(ctx, "", d.service)
	if err != nil {
		return err
	}
	victim, survivor, err := drill.Pair(ready)
	if err != nil {
		return err
	}
	if err := d.check(victim, survivor); err != nil {
		return err
	}
	d.say("%s is active on %s; %s would take over and lose the last %s.", d.service, victim, survivor, short(time.Duration(ready.RPO)))
	times := ""
	if d.rounds > 1 {
		times = fmt.Sprintf(" %d times", d.rounds)
	}
	return d.confirm(ctx, yes, fmt.Sprintf("Do harm (%s) to %s%s now? %s will be down for seconds and may lose writes.", d.method, victim, times, d.service))
}

// check keeps the drill from killing the node it runs on.
func (d *nodeLoss) check(victim, survivor string) error {
	if victim == d.local && d.method != "standby" {
		return refusef("%s is active on this node, and the drill would end with it; run it on %s", d.service, survivor)
	}
	return nil
}

// moveBack gives a later round the same victim: the service went to this node, which must survive.
func (d *nodeLoss) moveBack(ctx context.Context, round int) error {
	if round == 1 || d.method == "standby" {
		return nil
	}
	m := &mover{app: d.app, service: d.service, limit: 2 * time.Minute, probe: d.probe}
	m.probe.writes, m.probe.writeCommand, m.probe.verify, m.probe.verifyCommand = "", "", "", ""
	if err := m.plan(ctx); err != nil {
		return err
	}
	if m.from != d.local {
		return nil
	}
	if err := m.move(ctx); err != nil {
		return fmt.Errorf("moving %s back for the next round: %w", d.service, err)
	}
	return nil
}

func (d *nodeLoss) finish(rep *drill.Report, err error) error {
	if werr := rep.Write(d.report); werr != nil {
		err = errors.Join(err, werr)
	} else {
		d.say("report: %s/report.md and %s/report.json", d.report, d.report)
	}
	if d.json {
		return errors.Join(err, d.printJSON(rep))
	}
	for _, r := range rep.Rounds {
		d.printRound(r)
	}
	return err
}

func (d *nodeLoss) printRound(r drill.Round) {
	if r.HarmAt.IsZero() {
		return
	}
	lost := "not known"
	if r.Lost != nil {
		lost = fmt.Sprint(*r.Lost)
	}
	fmt.Fprintf(d.out, "round %d: %s lost, %s took over: outage %s (detect %s, fence %s, takeover %s), data %s old, lost writes: %s\n",
		r.Round, r.Victim, r.Survivor, msText(r.OutageMS), msText(r.DetectMS), msText(r.FenceMS), msText(r.TakeoverMS), msText(r.RPOMS), lost)
}

func msText(v *float64) string {
	if v == nil {
		return "not known"
	}
	return fmt.Sprintf("%.0f ms", *v)
}
