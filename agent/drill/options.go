package drill

import (
	"context"
	"errors"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/probe"
)

// Method does a kind of harm to a node, and undoes it.
type Method interface {
	// Name is one word or two for the report.
	Name() string
	// Harm returns when the harm is done, or as far as the method can know. It is given
	// a moment's notice at most between the time that is recorded and the harm itself.
	Harm(ctx context.Context, node string) error
	// Restore makes the node fit to join again. It is called once after each Harm, also
	// after one that failed, with a context of its own that an interrupt does not end.
	Restore(ctx context.Context, node string) error
}

// Prober measures from a client.
type Prober interface {
	// Start begins a measurement for a round, counted from 1; rounds use write numbers that
	// do not overlap.
	Start(ctx context.Context, round int) (Session, error)
}

// Session is a measurement under way; [probe.Run] is one.
type Session interface {
	Snapshot() probe.Snapshot
	// Done is closed when the measurement has ended, also when it ended too soon.
	Done() <-chan struct{}
	// Stop ends it, reads the writes back, and returns what was seen.
	Stop(ctx context.Context) (probe.Result, error)
}

// Cluster is what agents say. from names the node whose agent is asked; empty
// means any that answers.
type Cluster interface {
	Status(ctx context.Context, from string) (api.Status, error)
	Ready(ctx context.Context, from, service string) (api.Readiness, error)
	Log(ctx context.Context, from, service string, since time.Time) ([]api.Decision, error)
}

// RunFunc executes a program on a node and returns its standard output: the
// way to the node's journal and fencing history.
type RunFunc func(ctx context.Context, node string, argv ...string) ([]byte, error)

// Options of a drill. Service, Method, Prober and Cluster are required.
type Options struct {
	Service string
	Rounds  int // default 1
	Method  Method
	Prober  Prober
	Cluster Cluster
	Run     RunFunc // nil: no journals, so the outage is not taken apart

	// Before is called at the start of each round, from 1: to move the service back, say. May be nil.
	Before func(ctx context.Context, round int) error
	// Check is asked before harm is done to victim; its error ends the drill. May be nil.
	Check func(victim, survivor string) error
	// Progress is told what happens, a line at a time. May be nil.
	Progress func(line string)

	ReadyWait   time.Duration // for readiness before a round; default 2 min
	Warmup      time.Duration // of steady answers before the harm; default 2 s, plus up to Jitter
	Jitter      time.Duration // so that the harm falls anywhere in the replication's cycle; default 1 s
	RecoverWait time.Duration // for the takeover; default 3 min
	Settle      time.Duration // of steady answers after it; default 2 s
	RestoreWait time.Duration // until the harmed node protects the service again; default 10 min
}

func (o *Options) setDefaults() {
	if o.Rounds == 0 {
		o.Rounds = 1
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	for d, v := range map[*time.Duration]time.Duration{
		&o.ReadyWait: 2 * time.Minute, &o.Warmup: 2 * time.Second, &o.Jitter: time.Second,
		&o.RecoverWait: 3 * time.Minute, &o.Settle: 2 * time.Second, &o.RestoreWait: 10 * time.Minute,
	} {
		if *d == 0 {
			*d = v
		}
	}
}

func (o *Options) validate() error {
	switch {
	case o.Service == "":
		return errors.New("a drill needs the name of a service")
	case o.Method == nil || o.Prober == nil || o.Cluster == nil:
		return errors.New("a drill needs a method, a prober and a cluster")
	case o.Rounds < 1:
		return errors.New("a drill has at least one round")
	}
	return nil
}
