package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/understudy-ha/understudy/agent/api"
)

// leaveTimeout bounds how long Stop tries to say good-bye.
const leaveTimeout = 500 * time.Millisecond

// streamTimeout bounds a TCP exchange with a peer, and so how long Stop may
// have to wait for one under way.
const streamTimeout = 2 * time.Second

// Gossip is this node's part in the gossip.
type Gossip struct {
	opts    Options
	log     *slog.Logger
	table   *table
	bridge  *bridge
	members *memberlist.Memberlist // set by Start, before any goroutine of ours runs

	inbox   chan message
	publish chan struct{}            // capacity 1
	kick    map[string]chan struct{} // by peer, capacity 1: there is something to send

	cancel context.CancelFunc
	wg     sync.WaitGroup

	life struct {
		sync.Mutex
		started, stopped bool
	}

	own struct {
		sync.Mutex
		state   api.NodeStatus // as published last
		encoded []byte
		addr    string // where memberlist says that we are
	}

	changes struct {
		sync.Mutex
		names []string      // peers OnChange is to be told of
		ready chan struct{} // capacity 1
	}
}

// message is what memberlist received, and when.
type message struct {
	data []byte
	at   time.Time
}

// New checks the options; nothing is started.
func New(opts Options) (*Gossip, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	g := &Gossip{
		opts: opts, log: opts.Logger, table: newTable(opts.Peers), bridge: newBridge(opts.Logger),
		inbox: make(chan message, 256), publish: make(chan struct{}, 1),
		kick: map[string]chan struct{}{},
	}
	for _, p := range opts.Peers {
		g.kick[p.Name] = make(chan struct{}, 1)
	}
	g.changes.ready = make(chan struct{}, 1)
	g.own.state.Incarnation = time.Now().UnixNano()
	return g, nil
}

// Start listens and begins to call the peers, for ever, whether or not they
// are there. It returns when the listeners are up. When ctx ends, it is
// as good as stopped, except that Stop must still be called.
func (g *Gossip) Start(ctx context.Context) error {
	g.life.Lock()
	defer g.life.Unlock()
	if g.life.started || g.life.stopped {
		return errors.New("gossip was started before: make a new one")
	}
	cfg, err := g.config()
	if err != nil {
		return err
	}
	members, err := memberlist.Create(cfg)
	if err != nil {
		return api.Errorf(api.KindGeneric, "check the gossip address in "+api.ConfigPath+" and that nothing else uses the port",
			"gossip cannot listen on %s: %w", g.opts.Bind, err)
	}
	g.members = members
	g.own.Lock()
	g.own.addr = members.LocalNode().Address()
	g.own.Unlock()
	// The first state is made only now: every state says where it is from.
	if err := g.refreshOwn(); err != nil {
		return errors.Join(err, members.Shutdown())
	}
	g.life.started = true
	ctx, g.cancel = context.WithCancel(ctx)
	g.wg.Go(func() { g.publishLoop(ctx) })
	g.wg.Go(func() { g.inboxLoop(ctx) })
	g.wg.Go(func() { g.changesLoop(ctx) })
	for _, p := range g.opts.Peers {
		g.wg.Go(func() { g.peerLoop(ctx, p) })
	}
	return nil
}

// Stop says good-bye to the peers, closes the listeners and waits for the
// goroutines, a few seconds at most (plus whatever OnChange and Local take).
// It may be called twice, and without Start.
func (g *Gossip) Stop() error {
	g.life.Lock()
	defer g.life.Unlock()
	if !g.life.started || g.life.stopped {
		g.life.stopped = true
		return nil
	}
	g.life.stopped = true
	g.cancel()
	g.wg.Wait()
	if err := g.members.Leave(leaveTimeout); err != nil {
		g.log.Debug("the peers were not told that this node leaves", "error", err)
	}
	if err := g.members.Shutdown(); err != nil {
		return fmt.Errorf("close the gossip listeners: %w", err)
	}
	return nil
}

// Peers are the configured peers by name. One that was never heard of has
// Incarnation 0; one that speaks another version has that Version and no
// services. SeenAgo counts from its last message; ClockOffset is its clock minus
// ours, 0 until it was measured: see Clock.
func (g *Gossip) Peers() []api.NodeStatus { return g.table.all(time.Now()) }

// Self is this node's own state as it was published last.
func (g *Gossip) Self() api.NodeStatus {
	g.own.Lock()
	defer g.own.Unlock()
	s := g.own.state
	s.Services = slices.Clone(s.Services)
	s.Alive, s.Self = true, true
	return s
}

// Clock is a peer's clock minus ours, known to ± half of rtt; false while
// there is no measurement of the last minute.
func (g *Gossip) Clock(peer string) (offset, rtt time.Duration, ok bool) {
	g.table.mu.Lock()
	defer g.table.mu.Unlock()
	e := g.table.peers[peer]
	if e == nil {
		return 0, 0, false
	}
	s, ok := e.clock.best(time.Now())
	return s.offset, s.rtt, ok
}

// Publish sends a fresh local state now. It does not wait.
func (g *Gossip) Publish() { poke(g.publish) }

// poke puts a token into a channel of capacity 1; one that is there is enough.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// config is memberlist's, for a handful of nodes in one network.
func (g *Gossip) config() (*memberlist.Config, error) {
	bind, err := netip.ParseAddrPort(g.opts.Bind)
	if err != nil {
		return nil, err
	}
	adv, err := netip.ParseAddrPort(g.opts.Advertise)
	if err != nil {
		return nil, err
	}
	c := memberlist.DefaultLANConfig()
	c.Name = g.opts.Node
	c.BindAddr, c.BindPort = bind.Addr().String(), int(bind.Port())
	c.AdvertisePort = int(adv.Port())
	if !adv.Addr().IsUnspecified() {
		c.AdvertiseAddr = adv.Addr().String()
	}
	c.Label = "understudy" // another program's memberlist with the same key stays out
	c.SecretKey = g.opts.Key[:]
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.EnableCompression = false // states are deflated here

	// A dead peer shows after one wait for the next probe (0 to 0.4 s at the
	// default interval), one failed probe (0.4 s) and the suspicion (0.8 s).
	c.ProbeInterval = g.opts.Interval * 2 / 5
	c.ProbeTimeout = g.opts.Interval / 5
	c.SuspicionMult = 2
	c.SuspicionMaxTimeoutMult = 1
	// With two nodes a peer's death looks like our own bad health: do not let
	// that slow the probes down.
	c.AwarenessMaxMultiplier = 1
	c.GossipInterval = g.opts.Interval / 5
	c.GossipToTheDeadTime = 10 * g.opts.Interval
	c.PushPullInterval = 10 * g.opts.Interval
	c.TCPTimeout = streamTimeout
	c.DeadNodeReclaimTime = g.opts.Interval // a peer may come back with another address

	d := &delegate{g: g, self: adv}
	c.Delegate, c.Events, c.Alive, c.Conflict = d, d, d, d
	c.Logger = log.New(g.bridge, "", 0)
	return c, nil
}
