// Bench measures Understudy next to the programs that people use instead of it:
// rsync, what lsyncd would run, `podman save | ssh podman load`, `podman image scp`.
// Same trees, same two nodes of the lab over the same sshd, in the same run, on
// both file systems, in turns. `make bench` builds and runs it; BENCH="id id" runs
// some of it, SCALE=small a version of some minutes.
//
// An id of the report is a file work_ID.go with one function; bench.go has the frame
// that all share, site.go the lab of one file system, service.go a service on it,
// direct.go and rsync.go the two ways over the cable, report.go and growth.go what
// comes out. What runs on the nodes is in onnode.
//
// Where an id says nothing else, the product is measured whole: the agent on both nodes, a
// service under Pacemaker whose volume holds the tree, and the time until the agent
// says that the generation is committed on the standby. First synchronisations and the large
// file go through onnode's driver, which is the agent's code path without its state machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(run()) }

func run() int {
	only := flag.String("only", "", "ids to run, separated by spaces; empty: all")
	scale := flag.String("scale", scaleFull, "full or small")
	on := flag.String("fs", "xfs ext4", "file systems, separated by spaces")
	out := flag.String("out", "build/bench", "where the report goes")
	name := flag.String("name", "bench", "name of the lab")
	seed := flag.Uint64("seed", uint64(time.Now().Unix()), "of trees and changes")
	profile := flag.Bool("profile", false, "also write CPU profiles of the driver, as profiles/*.pprof")
	grow := flag.Bool("grow", true, "measure at a hundredth and a tenth of the size too, and plot")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{
		out: *out, name: *name, scale: *scale, seed: *seed, profile: *profile, grow: *grow,
		fs: strings.Fields(*on), began: time.Now(),
	}
	if b.scale == "" {
		b.scale = scaleFull
	}
	err := b.choose(strings.Fields(*only))
	if err == nil {
		err = b.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}
