package cluster

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Options set a Cluster up.
type Options struct {
	Node    string        // this node's name, as Pacemaker has it
	Runner  Runner        // nil: Exec
	Timeout time.Duration // of each command; 0: 5 s
	Logger  *slog.Logger
	Pause   func(ctx context.Context, attempt int) error // between two attempts of Reserve; nil: a random short while
}

// Cluster talks to Pacemaker on this node. Its methods may be called concurrently.
type Cluster struct{ opts Options }

// New makes a Cluster; it runs nothing yet.
func New(o Options) *Cluster {
	if o.Runner == nil {
		o.Runner = Exec{}
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause == nil {
		o.Pause = pause
	}
	return &Cluster{opts: o}
}

// pause keeps two nodes that collided from colliding again.
func pause(ctx context.Context, attempt int) error {
	limit := 20 * time.Millisecond << min(attempt, 5)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rand.N(limit)):
		return nil
	}
}
