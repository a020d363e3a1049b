// Understudy is the operator's command line, the agent and the receiving end of
// replication in one program; `understudy help` lists its commands. The resource
// agent that Pacemaker runs is a program of its own, understudy-ocf.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// commands make the program's commands; a new one takes a line here.
var commands = []func(*app) *cobra.Command{
	statusCommand,
	readyCommand,
	switchoverCommand,
	logCommand,
	metricsCommand,
	probeCommand,
	drillCommand,
	restoreCommand,
	historyCommand,
	diffCommand,
	pinCommand,
	unpinCommand,
	releaseCommand,
	scrubCommand,
	pruneCommand,
	initCommand,
	trustCommand,
	versionCommand,
	manCommand,
	plain(agentCommand),
	plain(receiveCommand),
	plain(evictCommand),
	plain(thawCommand),
	plain(guardCommand),
}

// plain fits a command that uses none of what the others share.
func plain(f func() *cobra.Command) func(*app) *cobra.Command {
	return func(*app) *cobra.Command { return f() }
}

// run is the program: it returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := newApp(in, out, errOut)
	root := rootCommand(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.began {
		err = usageError{err}
	}
	code := exitCode(ctx, err)
	if err != nil && !errors.Is(err, errSaid) {
		fmt.Fprintln(errOut, "understudy: "+errorText(err))
		if code == exitUsage {
			fmt.Fprintln(errOut, "Run 'understudy help' for the commands, 'understudy help COMMAND' for one.")
		}
	}
	return code
}

func rootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "understudy",
		Short: "High availability for Podman services under Pacemaker",
		Long: `Understudy keeps a warm, verified copy of a Podman service on the standby node, so
that Pacemaker can move the service there quickly and safely.

` + exitCodesText,
		SilenceErrors: true,
		SilenceUsage:  true,
		// Whatever fails before this point was typed wrongly.
		PersistentPreRun: func(*cobra.Command, []string) { a.began = true },
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "the agent's control socket (default /run/understudy/agent.sock)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	for _, c := range commands {
		root.AddCommand(c(a))
	}
	return root
}
