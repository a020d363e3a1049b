// Demo shows a failover on a real cluster, next to the stack that Understudy
// replaces, on the same two nodes in the same run. `make demo` builds and runs it.
//
// understudy.go is what is shown, seed.go what it is compared with; report.go
// has the table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

func main() { os.Exit(run()) }

func run() int {
	rounds := flag.Int("rounds", 3, "failovers and switchovers of each stack")
	out := flag.String("out", "build/demo", "where the report goes")
	keep := flag.Bool("keep", false, "leave the lab up when it fails, to look at it")
	name := flag.String("name", "demo", "name of the lab")
	setUp := flag.Bool("set-up", false, "only configure Understudy and make the service on the lab of that name, which is up")
	token := flag.Duration("token", time.Second, "Corosync's token timeout, for both stacks")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{rounds: *rounds, out: *out, name: *name, token: *token, keep: *keep, began: time.Now()}
	work := d.run
	if *setUp {
		work = d.setUp
	}
	if err := work(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}

// demo is one run.
type demo struct {
	rounds int
	out    string
	name   string
	token  time.Duration
	keep   bool
	began  time.Time

	stack  *stack.Stack
	report report
}

// say prints what is being done, with the time since the begin.
func (d *demo) say(format string, args ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// Write makes demo the progress writer of the lab: a line at a time.
func (d *demo) Write(b []byte) (int, error) {
	for _, line := range stack.Lines(b) {
		d.say("%s", line)
	}
	return len(b), nil
}

func (d *demo) run(ctx context.Context) (err error) {
	if err := os.MkdirAll(d.out, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.tearDown(ctx, err)) }()
	d.say("making a lab: two Debian nodes with systemd, Pacemaker, Podman; a client; a power switch")
	if err := d.understudy(ctx); err != nil {
		return fmt.Errorf("understudy: %w", err)
	}
	if err := d.seed(ctx); err != nil {
		return fmt.Errorf("the stack to compare with: %w", err)
	}
	d.report.Seconds = time.Since(d.began).Seconds()
	if err := d.report.write(d.out); err != nil {
		return err
	}
	fmt.Println()
	fmt.Print(d.report.markdown())
	fmt.Printf("\nThe report is in %s and %s.\n", filepath.Join(d.out, "report.md"), filepath.Join(d.out, "report.json"))
	return nil
}

// setUp prepares a lab that `lab up` made, for a person to play with.
func (d *demo) setUp(ctx context.Context) error {
	l, err := lab.Attach(d.name)
	if err != nil {
		return err
	}
	s, err := stack.Configure(ctx, l, d)
	if err != nil {
		return err
	}
	return s.Registry(ctx)
}

// tearDown collects the nodes' logs where something failed, and takes the lab down.
func (d *demo) tearDown(ctx context.Context, failed error) error {
	if d.stack == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if failed != nil && !errors.Is(failed, context.Canceled) {
		logs := filepath.Join(d.out, "logs")
		d.say("it failed; the nodes' logs are collected in %s", logs)
		if err := d.stack.CollectLogs(ctx, logs); err != nil {
			d.say("not all of them: %v", err)
		}
		if d.keep {
			d.say("the lab stays up for you: press Ctrl-C to take it down")
			<-ctx.Done()
		}
	}
	d.say("taking the lab down")
	return d.stack.Down(ctx)
}

// program is the understudy binary that runs on the client.
func program() (string, error) { return filepath.Abs("build/understudy") }

// powerSwitch is the drill's method that only a lab has: the cord is pulled.
type powerSwitch struct{ lab *lab.Lab }

func (p powerSwitch) Name() string { return "power cut" }

func (p powerSwitch) Harm(ctx context.Context, node string) error {
	return p.lab.Node(node).PowerOff(ctx)
}

// Restore boots the node; the fencing that followed the cut may have done so already.
func (p powerSwitch) Restore(ctx context.Context, node string) error {
	return p.lab.Node(node).Boot(ctx)
}
