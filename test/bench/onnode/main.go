// Onnode is what the benchmarks run on a lab's nodes, and in their containers:
// it makes trees from a seed, changes them, times other programs from inside the
// node, stands in for a long cable, and drives the product's own replication
// packages where a whole agent would only add noise.
//
// The driver (engine.go) is the agent's own code path without its state machine:
// [engine.Engine] seals the tree and commits it to the local store, [wire.Dial]
// and [wire.Shipper] bring the peer's store up to it over the real sshd to the
// real `understudy receive`, as in package agent's peers.Ship, and the engine on
// the standby applies it, as service's applyHead does. Nothing is measured that the
// agent does not do, and nothing is left out but the freeze of containers that are not there.
//
// Each verb prints one JSON value, or serves until it is stopped.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// verb does one thing; what it returns is printed as JSON unless it is nil.
type verb func(ctx context.Context, f *flag.FlagSet, args []string) (any, error)

var verbs = map[string]verb{
	"tree":   makeTree,
	"files":  makeFiles,
	"change": changeFiles,
	"blocks": changeBlocks,
	"run":    runProgram,
	"engine": serveEngine,
	"relay":  serveRelay,
	"beat":   serveBeat,
	"tick":   serveTick,
	"load":   serveLoad,
	"idle":   serveIdle,
}

func main() { os.Exit(run()) }

func run() int {
	names := []string{}
	for n := range verbs {
		names = append(names, n)
	}
	slices.Sort(names)
	if len(os.Args) < 2 || verbs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: bench-node VERB [flags]; verbs:", strings.Join(names, ", "))
		return 2
	}
	// A container's PID 1 ends at a signal only if it asks for it.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out, err := verbs[os.Args[1]](ctx, flag.NewFlagSet(os.Args[1], flag.ExitOnError), os.Args[2:])
	if err == nil && out != nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench-node %s: %v\n", os.Args[1], err)
		return 1
	}
	return 0
}

// serveIdle is a container that does nothing.
func serveIdle(ctx context.Context, _ *flag.FlagSet, _ []string) (any, error) {
	<-ctx.Done()
	return nil, nil
}
