package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// Options are what a Service works with. All fields are required but Now.
type Options struct {
	Node    string
	Dir     string // records of services, root alone reads them
	RunDir  string // of the records for the resource agent; "": api.RunDir
	Runtime Runtime
	Procs   Processes
	VIP     Addresses
	Cluster Cluster
	Replica Replica // nil: the service can only be validated
	Peers   Peers
	Gossip  Gossip
	Journal Journal
	Logger  *slog.Logger
	Now     func() time.Time
	// Crash is called between the steps of an operation, with their names; fault
	// tests die there. Nil in production.
	Crash func(step string)
}

// Service is one service on this node.
type Service struct {
	Options
	name string
	log  *slog.Logger

	op       sync.Mutex // held by the operation under way
	opCancel struct {
		sync.Mutex
		cancel context.CancelFunc // of an operation that stop and demote may cut short
	}

	containersChanged atomic.Bool  // since they were last inspected
	operations        atomic.Int32 // under way, or waiting for one that is
	foreign           atomic.Bool  // a scrub has found that somebody wrote to a standby's tree

	loop loop // the role's background work; see loop.go

	tidy sync.WaitGroup // Podman's tidying up after a demotion

	hooks sync.Mutex                           // held from before-capture to the end of after-capture
	owed  chan struct{}                        // after-capture has failed, or may succeed now
	after func(time.Duration) <-chan time.Time // time.After, but for tests

	// Used by the standby loop alone, and while none runs:
	handedOver   time.Time // of the last demotion
	whole        bool      // an image without the layers present was refused
	imagesAt     time.Time // Podman was asked for its images
	askedAt      time.Time // Pacemaker was asked who is active
	elsewhere    string    // what it said, when that is another node
	mendedAt     time.Time // another node was sent what it had lost
	noArchive    time.Time // an archive that found no room is not tried again until then
	noArchiveErr error     // what it said

	mu        sync.Mutex // guards what follows
	rec       record
	health    api.Health
	seen      map[string]Container             // containers as last inspected, by name
	defined   Definition                       // active: as last read from Podman
	undefined error                            // why it could not be read again
	prepared  string                           // standby: definition (as string) realised and initialised last
	blocked   []string                         // what keeps the standby from being prepared
	complete  bool                             // standby: data and containers were here once, since the agent started
	have      []string                         // image IDs that Podman had when it was asked last; nil: it was not
	present   []string                         // image IDs the head needs and Podman has
	missing   []string                         // image IDs the head needs and Podman has not
	unready   map[string]grievance             // standby: what else stands against a takeover, by what it is about
	cut       string                           // standby: gossip does not come from where Pacemaker says that the service is active
	caveats   []string                         // what of the containers is carried, but not quite as it is
	problem   string                           // of the last replication cycle
	failed    failedHook                       // active: the after-capture that is owed
	lagging   map[string]string                // peer → that it does not get what is new, and why
	freshOf   replication.ID                   // standby: the head that freshAt is about
	freshAt   time.Time                        // our clock: the live tree (active) or the head (standby) was current then
	heardAt   time.Time                        // our clock: the active spoke last then
	sockets   int                              // active: in the volumes, as of the last capture
	lacks     int                              // what the store has lost, as last noted
	suspects  map[replication.ID]store.Suspect // as last noted, by their first generation
	spaceWas  string                           // how the store's disk stands, as last noted
	score     int
	scoreSet  bool // score was written to Pacemaker since the agent started
}

// Open loads a service's record and takes up what it finds: containers and
// addresses of an active service stay as they are (invariant 8).
func Open(name string, o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Crash == nil {
		o.Crash = func(string) {}
	}
	rec, err := load(o.Dir, name)
	if err != nil {
		return nil, err
	}
	s := &Service{Options: o, name: name, log: o.Logger.With("service", name), rec: rec, health: api.HealthUnknown, seen: map[string]Container{}, lagging: map[string]string{}, unready: map[string]grievance{}, owed: make(chan struct{}, 1), after: time.After}
	if rec.HeardAt != 0 {
		s.freshAt, s.heardAt = time.Unix(0, rec.FreshAt), time.Unix(0, rec.HeardAt)
		if o.Replica != nil {
			if s.freshOf, err = o.Replica.Head(); err != nil {
				return nil, err
			}
		}
	}
	if boot := bootID(); rec.BootID != boot {
		// The node was booted since: nothing of the service can be running.
		// Dirty stays: what was written before the reboot is sealed at start.
		if rec.Role != api.RoleStopped || rec.Step != stepNone {
			s.decide(api.EventRecover, rec.Term, "the node was booted while the service was %s here; it counts as stopped until Pacemaker starts it", rec.Role)
		}
		rec.Role, rec.Step, rec.BootID = api.RoleStopped, stepNone, boot
		if err := s.persist(func(r *record) { *r = rec }); err != nil {
			return nil, err
		}
	} else if rec.Step != stepNone {
		s.decide(api.EventRecover, rec.Term, "the agent ended while %s; Pacemaker's next order takes it up from there", rec.Step)
	}
	return s, nil
}

// Resume starts the background work that the recorded role asks for.
func (s *Service) Resume() {
	rec := s.snapshot()
	if rec.Step != stepNone {
		return
	}
	switch rec.Role {
	case api.RoleActive:
		s.readopt(rec)
		s.loop.start(s.runActive)
	case api.RoleStandby:
		s.loop.start(s.runStandby)
	case api.RoleStopped:
		if rec.Newest {
			s.loop.start(s.runNewest)
		}
	}
}

// readopt takes an active service up again after the agent was away. An address
// that is still here is watched and announced again; one that is gone stays gone: the
// monitor reports it, and Pacemaker decides.
func (s *Service) readopt(rec record) {
	held, missing, err := s.VIP.Held(rec.Spec)
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	if err == nil && len(held) > 0 {
		here := rec.Spec
		here.VIPs = held
		err = s.VIP.Add(ctx, here)
	}
	if err != nil || len(missing) > 0 {
		s.decide(api.EventRecover, rec.Term, "re-adopted the active service, but not all of its addresses: %v are not here (%v)", missing, err)
		return
	}
	s.decide(api.EventRecover, rec.Term, "re-adopted the active service: containers and addresses were left alone")
}

// AddressLost notes that an address went away without an order: an interface went
// down, or somebody removed it. The next monitor reports it to Pacemaker.
func (s *Service) AddressLost(addr string) {
	rec := s.snapshot()
	if rec.Role == api.RoleActive && rec.Step == stepNone {
		s.decide(api.EventRecover, rec.Term, "address %s is gone from this node without an order; the next monitor reports it", addr)
	}
}

// HasAddress says whether the address, without its prefix, is one of the service's.
func (s *Service) HasAddress(addr string) bool { return hasIP(s.snapshot().Spec.VIPs, addr) }

// Close ends the background work; the service itself is left as it is.
func (s *Service) Close() {
	s.interrupt()
	s.loop.stop()
	s.tidy.Wait()
}

// Do carries out one action that Pacemaker ordered.
func (s *Service) Do(ctx context.Context, action string, req api.ActionRequest) (api.ActionResult, error) {
	switch action {
	case api.ActionMonitor:
		return s.monitor(ctx, req)
	case api.ActionValidate:
		caveats, err := s.validate(ctx, req.Spec)
		return s.result(strings.Join(caveats, "; ")), err
	case api.ActionReload:
		return s.reload(ctx, req.Spec)
	case api.ActionStart, api.ActionPromote, api.ActionDemote, api.ActionStop:
		return s.operate(ctx, action, req)
	}
	return api.ActionResult{}, api.Errorf(api.KindArgs, "use start, stop, promote, demote, monitor, validate or reload", "unknown action %q", action)
}

// operate runs one of the exclusive operations. Stop and demote cut short
// whatever is under way; the others refuse while it lasts.
func (s *Service) operate(ctx context.Context, action string, req api.ActionRequest) (api.ActionResult, error) {
	s.operations.Add(1)
	defer s.operations.Add(-1)
	safe := action == api.ActionStop || action == api.ActionDemote
	if safe {
		s.interrupt()
	}
	if err := s.acquire(ctx, safe); err != nil {
		return s.result(""), err
	}
	defer s.op.Unlock()
	s.tidy.Wait() // of an earlier demotion; bounded as that was
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !safe {
		s.opCancel.Lock()
		s.opCancel.cancel = cancel
		s.opCancel.Unlock()
	}
	began := s.Now()
	s.heedEvictionLocked()
	before := s.snapshot()
	var err error
	switch action {
	case api.ActionStart:
		err = s.start(ctx, req.Spec)
	case api.ActionPromote:
		err = s.promote(ctx, req.Spec)
	case api.ActionDemote:
		err = s.demote(ctx)
	case api.ActionStop:
		err = s.stop(ctx, req.Spec)
	}
	s.journalOutcome(action, before, s.Now().Sub(began), err)
	s.Gossip.Publish()
	return s.result(""), err
}

func (s *Service) interrupt() {
	s.opCancel.Lock()
	defer s.opCancel.Unlock()
	if s.opCancel.cancel != nil {
		s.opCancel.cancel()
	}
}

// acquire takes the operation lock, waiting for it only where wait says so.
func (s *Service) acquire(ctx context.Context, wait bool) error {
	for !s.op.TryLock() {
		if !wait {
			return api.Errorf(api.KindBusy, "wait for it, or see understudy log", "service %s: another operation is under way on %s", s.name, s.Node)
		}
		select {
		case <-ctx.Done():
			return api.Errorf(api.KindDeadline, "see understudy log", "service %s: the operation under way on %s did not give way in time", s.name, s.Node)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// journalOutcome writes how an operation ended to the decision journal.
func (s *Service) journalOutcome(action string, before record, took time.Duration, err error) {
	rec := s.snapshot()
	d := api.Decision{At: s.Now(), Node: s.Node, Service: s.name, Event: action, Term: rec.Term, Took: api.Duration(took)}
	switch {
	case err != nil:
		d.Reason = err.Error()
		d.Fields = map[string]string{"outcome": "failed", "kind": string(api.KindOf(err))}
		if api.KindOf(err) == api.KindRefused {
			d.Event = api.EventRefuse
			d.Fields["action"] = action
		}
	case before.Role == rec.Role && before.Step == stepNone:
		return // asked again for what already was: not a decision
	default:
		d.Reason = fmt.Sprintf("%s, ordered by Pacemaker: was %s, is %s", action, before.Role, rec.Role)
	}
	s.Journal.Record(d)
}

// decide notes something that was decided within an operation or a loop.
func (s *Service) decide(event string, term uint64, format string, args ...any) {
	s.Journal.Record(api.Decision{At: s.Now(), Node: s.Node, Service: s.name, Event: event, Term: term, Reason: fmt.Sprintf(format, args...)})
}

// stepDone notes a step of a promotion or demotion with how long it took.
func (s *Service) stepDone(name string, term uint64, began time.Time) {
	now := s.Now()
	s.Journal.Record(api.Decision{
		At: now, Node: s.Node, Service: s.name, Event: api.EventPromoteStep, Term: term,
		Reason: name, Took: api.Duration(now.Sub(began)), Fields: map[string]string{"step": name},
	})
}

func (s *Service) snapshot() record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec
}

// persist changes the record and makes it durable; on failure nothing has changed.
func (s *Service) persist(change func(*record)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.rec
	change(&next)
	if next.Role != api.RoleActive {
		next.Quiesced = nil // no container runs: what held in one has ended with it
	}
	next.settleAstray()
	defer lockRecord(s.Dir, s.name)()
	if s.takesBack(s.rec, next) {
		go s.heedEviction() // or whoever notes this goes on for ever
		return api.Errorf(api.KindRefused, "pcs resource cleanup "+s.name+", if Pacemaker has not started it since", "service %s was taken off %s by an offline stop (understudy evict)", s.name, s.Node)
	}
	if err := next.save(s.Dir); err != nil {
		return api.Errorf(api.KindGeneric, "free space on the node's disk, or see dmesg for I/O errors", "service %s: its record cannot be written: %v", s.name, err)
	}
	s.rec = next
	return nil
}

// adopt takes the parameters that Pacemaker passed with an order.
func (s *Service) adopt(spec api.Spec) error {
	if spec.Empty() {
		return nil // stop is ordered without valid parameters, too
	}
	if cur := s.snapshot().Spec; specEqual(cur, spec) {
		return nil
	}
	return s.persist(func(r *record) { r.Spec = spec })
}

func specEqual(a, b api.Spec) bool {
	return a.Service == b.Service && slices.Equal(a.VIPs, b.VIPs) && a.NIC == b.NIC && a.SameWorkload(b) && slices.Equal(a.Containers, b.Containers) &&
		slices.Equal(a.Volumes, b.Volumes) && a.BindMounts == b.BindMounts && a.Interval == b.Interval && a.MaxRPO == b.MaxRPO && a.FreezeMax == b.FreezeMax &&
		a.StopTimeout == b.StopTimeout && a.OnUnhealthy == b.OnUnhealthy && a.VIPConflict == b.VIPConflict && a.OnSuspect == b.OnSuspect &&
		a.Consistency == b.Consistency && slices.Equal(a.BeforeCapture, b.BeforeCapture) && slices.Equal(a.AfterCapture, b.AfterCapture) && a.HookTimeout == b.HookTimeout
}

func (s *Service) result(message string) api.ActionResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.ActionResult{Role: s.rec.Role, Health: s.health, Term: s.rec.Term, Message: message}
}

// headDefinition reads the definition that the store's head carries; zero when there is none.
func (s *Service) headDefinition() (Definition, replication.ID, error) {
	m, err := s.Replica.HeadManifest()
	if err != nil || m == nil || len(m.Definition) == 0 {
		return Definition{}, replication.ID{}, err
	}
	def, err := s.Runtime.Parse(m.Definition)
	return def, m.ID, err
}
