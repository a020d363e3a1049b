package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/config"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/capture"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/wire"
)

// node drives the replication packages for one service on one node.
type node struct {
	service string
	tree    string
	freeze  time.Duration
	client  wire.ClientOptions
	log     *slog.Logger

	engine *engine.Engine
	peer   *wire.Client
}

// cycled is what one cycle took: from the beginning of the capture until the
// generation is the peer's head, durably. Times are in milliseconds.
type cycled struct {
	MS     float64 `json:"ms"` // all of it
	SealMS float64 `json:"seal_ms"`
	DialMS float64 `json:"dial_ms"` // 0: the connection was there
	ShipMS float64 `json:"ship_ms"`
	CPUMS  float64 `json:"cpu_ms"` // of this process, user and system

	Generation string  `json:"generation"`
	New        bool    `json:"new"`
	Changed    int     `json:"changed"`
	Read       int64   `json:"read"` // bytes
	Sent       int64   `json:"sent"` // bytes
	FreezeMS   float64 `json:"freeze_ms"`
	Retries    int     `json:"retries"` // captures dropped because the freeze took too long
}

// serveEngine does what each line of standard input says, and answers with a line
// of JSON: cycle, apply, profile FILE, stop.
func serveEngine(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	root := f.String("root", api.DefaultStore, "root of the stores")
	n := &node{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	f.StringVar(&n.service, "service", "bench", "name of the service")
	f.StringVar(&n.tree, "tree", "", "root of the live tree of its volume, data")
	f.DurationVar(&n.freeze, "freeze-max", time.Duration(api.DefaultFreezeMax), "bound of the freeze")
	via := f.String("via", "", "relay to the peer; empty: none")
	_ = f.Parse(args) // exits on error
	if err := n.configure(*via); err != nil {
		return nil, err
	}
	// The store is shared with `understudy receive` through its group, as the agent's is.
	syscall.Umask(0o007)
	if err := os.MkdirAll(*root, 0o755); err != nil {
		return nil, err
	}
	var err error
	if n.engine, err = engine.Open(engine.Options{Root: *root, Service: n.service, Logger: n.log}); err != nil {
		return nil, err
	}
	return nil, errors.Join(n.serve(ctx), n.close())
}

// configure reads the agent's configuration for how to reach the peer, as the
// agent does.
func (n *node) configure(via string) error {
	c, err := config.Load(api.ConfigPath)
	if err != nil {
		return err
	}
	if len(c.Peers) != 1 {
		return fmt.Errorf("%s names %d peers, not one", api.ConfigPath, len(c.Peers))
	}
	p := c.Peers[0]
	addr := net.JoinHostPort(p.Address, strconv.Itoa(p.SSHPort))
	n.client = wire.ClientOptions{
		Addr: addr, Name: p.Name, User: c.SSH.User, KeyFile: c.SSH.KeyFile, KnownHosts: c.SSH.KnownHosts,
		Timeout: 5 * time.Second, Logger: n.log,
	}
	if via != "" {
		n.client.Addr, n.client.HostAlias = via, addr
	}
	return nil
}

func (n *node) close() error {
	var err error
	if n.peer != nil {
		err = n.peer.Close()
	}
	return errors.Join(err, n.engine.Close())
}

func (n *node) serve(ctx context.Context) error {
	out := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer, err := n.do(ctx, strings.Fields(lines.Text()))
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) do(ctx context.Context, words []string) (any, error) {
	switch {
	case len(words) == 1 && words[0] == "cycle":
		return n.cycle(ctx)
	case len(words) == 1 && words[0] == "apply":
		return n.apply(ctx)
	case len(words) == 2 && words[0] == "profile":
		f, err := os.Create(words[1])
		if err != nil {
			return nil, err
		}
		return struct{}{}, pprof.StartCPUProfile(f)
	case len(words) == 1 && words[0] == "stop":
		pprof.StopCPUProfile()
		return struct{}{}, nil
	}
	return nil, fmt.Errorf("cannot do %q", words)
}

// still is a freezer of no containers: there are none, and the engine takes the
// way of an active service's capture all the same.
type still struct{}

func (still) Freeze(context.Context) (func() error, error) { return func() error { return nil }, nil }

// tries is how often a dropped capture is tried again before it is a failure.
const tries = 3

func (n *node) cycle(ctx context.Context) (r cycled, err error) {
	cpu := cpuTime()
	began := time.Now()
	defer func() { r.MS, r.CPUMS = ms(time.Since(began)), ms(cpuTime()-cpu) }()
	var sealed replication.SealResult
	ahead := n.shipAhead(ctx)
	defer func() { _, _ = ahead.stop() }() // its error is returned below, or there is another
	for {
		sealed, err = n.engine.Seal(ctx, replication.SealRequest{
			Term: 1, Roots: n.roots(), Definition: []byte("{}"), Freezer: still{}, FreezeMax: n.freeze,
			Processes: func() ([]int, error) { return nil, nil }, Packed: ahead.now,
		})
		if !errors.Is(err, capture.ErrFreezeTooLong) || r.Retries == tries {
			break
		}
		r.Retries++
	}
	r.SealMS = ms(time.Since(began))
	if err != nil {
		return r, err
	}
	r.Generation, r.New, r.Changed, r.Read, r.FreezeMS = sealed.ID.String(), sealed.New, sealed.Changed, sealed.Bytes, ms(sealed.Freeze)
	sent, err := ahead.stop()
	if err != nil {
		return r, err
	}
	if n.peer == nil {
		at := time.Now()
		if n.peer, err = wire.Dial(ctx, n.client); err != nil {
			return r, err
		}
		r.DialMS = ms(time.Since(at))
	}
	at := time.Now()
	report, err := wire.NewShipper(wire.ShipperOptions{Source: n.engine.Store(), Logger: n.log}).Ship(ctx, n.peer)
	r.ShipMS, r.Sent = ms(time.Since(at)), sent+report.Bytes
	return r, err
}

func (n *node) roots() map[string]string { return map[string]string{"data": n.tree} }

// apply brings the live tree to the head of the store.
func (n *node) apply(ctx context.Context) (r cycled, err error) {
	if err := os.MkdirAll(n.tree, 0o755); err != nil {
		return r, err
	}
	cpu := cpuTime()
	began := time.Now()
	err = n.engine.Apply(ctx, n.roots())
	r.MS, r.CPUMS, r.Generation = ms(time.Since(began)), ms(cpuTime()-cpu), n.engine.Applied().String()
	return r, err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var use syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &use) != nil {
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
