// Command lab makes and drives a two-node cluster on this machine; see package lab.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/understudy-ha/understudy/test/lab"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	// A command that failed on a node has said why on its own stderr.
	var x *exec.ExitError
	var c *lab.CommandError
	if errors.As(err, &x) && !errors.As(err, &c) {
		return max(x.ExitCode(), 1)
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	return 1
}
