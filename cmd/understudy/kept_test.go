package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
)

// sealMain seals a directory as the next generation of a service's volume "data", as an
// active node does, and prints its name: seal STORE SERVICE DIR; with a fourth argument
// the containers run and are not frozen.
func sealMain() {
	e, err := engine.Open(engine.Options{Root: os.Args[1], Service: os.Args[2], Logger: slog.New(slog.DiscardHandler)})
	fail(err)
	res, err := e.Seal(context.Background(), replication.SealRequest{Term: 1, Roots: map[string]string{"data": os.Args[3]}, Definition: []byte("{}"), Loose: len(os.Args) > 4})
	fail(err)
	fail(e.Close())
	fmt.Println(res.ID)
}
