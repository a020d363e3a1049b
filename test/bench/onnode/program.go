package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// ran is how a program did. CPU and memory are those of it and the children it
// waited for, on this node: of rsync, its ssh too.
type ran struct {
	MS      float64 `json:"ms"`
	CPUMS   float64 `json:"cpu_ms"`
	PeakRSS int64   `json:"peak_rss"` // bytes, of the largest process
}

// runProgram times a program from inside the node: what it costs to get a command
// onto a node of the lab is not the program's.
func runProgram(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	_ = f.Parse(args) // exits on error
	if f.NArg() == 0 {
		return nil, errors.New("which program?")
	}
	cmd := exec.CommandContext(ctx, f.Arg(0), f.Args()[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stderr, os.Stderr
	began := time.Now()
	err := cmd.Run()
	r := ran{MS: float64(time.Since(began).Microseconds()) / 1000}
	var use syscall.Rusage
	err = errors.Join(err, syscall.Getrusage(syscall.RUSAGE_CHILDREN, &use))
	r.CPUMS = float64(time.Duration(use.Utime.Nano()+use.Stime.Nano()).Microseconds()) / 1000
	r.PeakRSS = use.Maxrss << 10
	return r, err
}
