package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/cluster"
	"github.com/understudy-ha/understudy/agent/config"
	"github.com/understudy-ha/understudy/agent/gossip"
	"github.com/understudy-ha/understudy/agent/journal"
	"github.com/understudy-ha/understudy/agent/podman"
	"github.com/understudy-ha/understudy/agent/server"
	"github.com/understudy-ha/understudy/agent/service"
	"github.com/understudy-ha/understudy/agent/vip"
	"github.com/understudy-ha/understudy/replication/wire"
)

// stopTime bounds the parts of a shutdown; the service itself is left alone.
const stopTime = 5 * time.Second

// probeInterval spaces the three probes for a duplicate address. It is on the way
// of a takeover, and whoever holds an address on the same segment answers within
// a millisecond; DESIGN allows for less than RFC 5227's seconds.
const probeInterval = 20 * time.Millisecond

// Options of an Agent.
type Options struct {
	Config *config.Config
	Logger *slog.Logger
	RunDir string            // default api.RunDir
	Crash  func(step string) // fault tests, see service.Options
}

// Agent is one node's agent.
type Agent struct {
	opts Options
	conf *config.Config
	log  *slog.Logger
	now  func() time.Time

	journal   *decisions
	runtime   *runtimeAdapter
	podman    *podman.Client
	images    *imageKeeper
	procs     *processes
	addresses addresses
	cluster   service.Cluster
	peers     *peers
	gossip    *gossip.Gossip
	health    *health
	server    *server.Server

	teardown []func() // last in, first out; registered where a thing is acquired
	stopOnce sync.Once

	mu         sync.Mutex // guards services
	services   map[string]*running
	background context.Context // of the services' scrubbers; nil: not started
}

// New wires the parts and reads what an earlier agent left; containers it left frozen
// are thawed. Start re-adopts the roles. New starts nothing that others can see; a
// failed New has undone itself.
func New(o Options) (a *Agent, err error) {
	if o.RunDir == "" {
		o.RunDir = api.RunDir
	}
	a = &Agent{opts: o, conf: o.Config, log: o.Logger, now: time.Now, services: map[string]*running{}}
	defer func() {
		if err != nil {
			a.Stop()
		}
	}()
	// Whatever else goes wrong: nothing stays frozen.
	if frozen, err := Thaw(o.RunDir); err != nil {
		a.log.Error("containers that a dead agent froze could not all be thawed", "error", err)
	} else if len(frozen) > 0 {
		a.log.Warn("thawed what a dead agent left frozen", "services", frozen)
	}
	for _, dir := range []string{stateDir(a.conf.Store), o.RunDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := a.openParts(); err != nil {
		return nil, err
	}
	return a, a.openServices()
}

func freezeDir(runDir string) string { return filepath.Join(runDir, "freeze") }

// onStop registers what undoes an acquisition.
func (a *Agent) onStop(name string, undo func() error) {
	a.teardown = append(a.teardown, func() {
		if err := undo(); err != nil {
			a.log.Warn("not stopped cleanly", "part", name, "error", err)
		}
	})
}

func (a *Agent) openParts() error {
	j, err := journal.Open(journal.Options{Dir: filepath.Join(a.conf.Store, "journal"), MaxSize: a.conf.Limits.JournalSize, Node: a.conf.Node, Log: a.log})
	if err != nil {
		return err
	}
	a.journal = newDecisions(j)
	a.onStop("journal", a.journal.Close)
	a.podman = podman.New(podman.Options{Socket: a.conf.Podman, Record: filepath.Join(stateDir(a.conf.Store), "podman.record"), Logger: a.log})
	a.onStop("podman", a.podman.Close)
	if a.images, err = newImageKeeper(a.conf.Store, a.opts.RunDir, a.podman, a.log); err != nil {
		return err
	}
	a.runtime = newRuntime(a.podman, a.images)
	m := vip.New(vip.Options{Logger: a.log, ProbeInterval: probeInterval})
	a.onStop("addresses", func() error { m.Close(); return nil }) // ends announcing; addresses stay
	a.addresses = addresses{manager: m}
	if a.procs, err = newProcesses(freezeDir(a.opts.RunDir), a.log); err != nil {
		return err
	}
	a.onStop("freezer", a.procs.Close)
	a.cluster = cluster.New(cluster.Options{Node: a.conf.Node, Logger: a.log})
	a.health = &health{ping: a.podman.Ping, store: a.conf.Store}
	a.peers = newPeers(a.conf, a.engineOf, a.log)
	a.onStop("peers", a.peers.Close)
	a.gossip, err = gossip.New(a.gossipOptions())
	return err
}

func (a *Agent) gossipOptions() gossip.Options {
	o := gossip.Options{Node: a.conf.Node, Software: api.Software, Local: a.local, Logger: a.log}
	if a.conf.Gossip.Bind.IsValid() {
		o.Bind = a.conf.Gossip.Bind.String()
	}
	copy(o.Key[:], a.conf.Gossip.Key)
	for _, p := range a.conf.Peers {
		o.Peers = append(o.Peers, gossip.Peer{Name: p.Name, Addr: p.Gossip.String()})
	}
	// A peer's new role or generation can end a wait: look at once.
	o.OnChange = func(api.NodeStatus) { a.pokeStandbys() }
	return o
}

// openServices takes up the services that have a record on this node. One whose
// record cannot be read does not keep the others down.
func (a *Agent) openServices() error {
	names, err := service.Known(stateDir(a.conf.Store))
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := a.service(name, true); err != nil {
			a.log.Error("a service cannot be taken up", "service", name, "error", err)
		}
	}
	return nil
}

// Start begins to gossip, to replicate and to take orders.
func (a *Agent) Start(ctx context.Context) error {
	gid := -1
	if g, err := user.LookupGroup(a.conf.SSH.User); err == nil {
		gid, _ = strconv.Atoi(g.Gid)
	}
	pokes, err := wire.ListenPokes(filepath.Join(a.opts.RunDir, "commit.sock"), gid)
	if err != nil {
		return err
	}
	background, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	a.onStop("background", func() error {
		cancel()
		wg.Wait()
		for _, s := range a.list() {
			s.scrub.wait()
		}
		return nil
	})
	a.health.look(ctx)
	wg.Go(func() { a.health.run(background) })
	wg.Go(func() { a.watchCommits(background, pokes) })
	wg.Go(func() { a.watchContainers(background) })
	wg.Go(func() { a.images.run(background) })
	wg.Go(func() { a.pruneImages(background) })
	wg.Go(func() { a.watchAddresses(background) })
	if err := a.gossip.Start(ctx); err != nil {
		return err
	}
	a.onStop("gossip", a.gossip.Stop)
	a.server = server.New(a.conf.Socket, a, a.log)
	if err := a.server.Start(); err != nil {
		return err
	}
	a.onStop("socket", func() error {
		sctx, done := context.WithTimeout(context.Background(), stopTime)
		defer done()
		return a.server.Stop(sctx)
	})
	a.journal.Record(api.Decision{At: a.now(), Node: a.conf.Node, Event: api.EventAgentStart, Reason: "understudy " + api.Software + " started"})
	a.mu.Lock()
	a.background = background
	for _, s := range a.services {
		s.scrub.start(background)
	}
	a.mu.Unlock()
	for _, s := range a.list() {
		s.Resume()
	}
	return nil
}

// Stop ends the agent and leaves containers and addresses as they are
// (invariant 8). It may be called at any time and more than once.
func (a *Agent) Stop() {
	a.stopOnce.Do(func() {
		for _, s := range a.list() {
			s.Service.Close()
		}
		for i := len(a.teardown) - 1; i >= 0; i-- {
			a.teardown[i]()
		}
		for _, s := range a.list() {
			if err := s.engine.Close(); err != nil {
				a.log.Warn("a store was not closed cleanly", "service", s.Name(), "error", err)
			}
		}
	})
}

// CheckAlive returns if the agent can still answer for its services; it blocks
// where it hangs, so that a watchdog that waits for it is not fed.
func (a *Agent) CheckAlive() {
	for _, s := range a.list() {
		s.Status()
	}
}

func (a *Agent) pokeStandbys() {
	for _, s := range a.list() {
		if s.Role() == api.RoleStandby {
			s.Poke()
		}
	}
}

func (a *Agent) watchCommits(ctx context.Context, pokes *wire.Pokes) {
	err := pokes.Run(ctx, func(name string) {
		if s, err := a.service(name, false); err == nil {
			s.Poke()
		}
	})
	if err != nil && ctx.Err() == nil {
		a.log.Warn("commits are noticed by looking only", "error", err)
	}
}

// watchContainers passes Podman's events on: a container that was changed or
// ended is looked at at once.
func (a *Agent) watchContainers(ctx context.Context) {
	for e := range a.podman.Events(ctx) {
		for _, s := range a.list() {
			// A container that is new may be one more of a pod.
			if e.Type == podman.EventResync || s.Has(e.Container) || e.Type == podman.EventCreate && s.Spec().Indirect() {
				s.Changed()
			}
		}
	}
}

// watchAddresses notes addresses that go away without an order.
func (a *Agent) watchAddresses(ctx context.Context) {
	for e := range a.addresses.manager.Watch(ctx) {
		if e.Kind != vip.EventLost {
			continue
		}
		for _, s := range a.list() {
			if s.HasAddress(e.Address.IP().String()) {
				s.AddressLost(e.Address.String())
			}
		}
	}
}

// Replicate runs a cycle of a service now.
func (a *Agent) Replicate(ctx context.Context, name string) (api.ReplicateResult, error) {
	s, err := a.service(name, false)
	if err != nil {
		return api.ReplicateResult{}, err
	}
	began := a.now()
	id, err := s.Replicate(ctx)
	return api.ReplicateResult{Generation: id, Took: api.Duration(a.now().Sub(began))}, err
}

// Restore takes a service back to a generation, in place.
func (a *Agent) Restore(ctx context.Context, name, generation string) (api.RestoreResult, error) {
	s, err := a.service(name, false)
	if err != nil {
		return api.RestoreResult{}, err
	}
	return s.Restore(ctx, generation)
}

// Version says what this agent is.
func (a *Agent) Version() api.VersionInfo {
	return api.VersionInfo{API: api.Version, Software: api.Software, Node: a.conf.Node}
}

// Log reads the decision journal.
func (a *Agent) Log(q api.LogQuery) ([]api.Decision, error) {
	list, err := a.journal.Query(q.Service, q.Since, q.Limit)
	if err != nil {
		return nil, fmt.Errorf("reading the decision journal: %w", err)
	}
	return list, nil
}

// FollowLog gives what q selects, then what is new, until ctx ends.
func (a *Agent) FollowLog(ctx context.Context, q api.LogQuery) <-chan api.Decision {
	out := make(chan api.Decision)
	fresh := a.journal.Follow(ctx)
	go func() {
		defer close(out)
		past, err := a.Log(q)
		if err != nil {
			a.log.Warn("the past of the journal cannot be read", "error", err)
		}
		send := func(d api.Decision) bool {
			select {
			case out <- d:
				return true
			case <-ctx.Done():
				return false
			}
		}
		for _, d := range past {
			if !send(d) {
				return
			}
		}
		for d := range fresh {
			if (q.Service == "" || d.Service == q.Service) && !send(d) {
				return
			}
		}
	}()
	return out
}
