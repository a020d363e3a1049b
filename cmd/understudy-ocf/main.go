// Command understudy-ocf is the resource agent ocf:understudy:service, installed
// as /usr/lib/ocf/resource.d/understudy/service. Pacemaker runs it for every
// operation and every monitor, so it links nothing that takes time to load.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/understudy-ha/understudy/ocf"
)

func main() {
	debug.SetGCPercent(-1) // it is gone before there is anything to collect
	action := ""
	if len(os.Args) > 1 {
		action = os.Args[1]
	}
	os.Exit(ocf.Run(context.Background(), ocf.ParseEnv(os.Environ()), action, ocf.Options{}))
}
