package service

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// node is a whole node in memory: what survives a kill of the agent (containers,
// addresses, the store) is in it, what does not is in the Service.
type node struct {
	mu       sync.Mutex
	t        *testing.T
	dir, run string
	crashAt  string
	promoted string // node that Pacemaker says is active

	states   map[string]string // container → created, initialized, running
	held     map[string]bool
	scores   int
	term     uint64      // highest in the CIB
	refuse   error       // of the duplicate probe
	addErr   error       // an address cannot be added
	hung     bool        // Podman does not answer
	left     error       // what Evict finds
	tree     int         // version of the live tree
	root     string      // its volume's directory
	gone     bool        // its volume is
	odd      error       // what cannot be carried of a container
	bound    atomic.Bool // its volume is a bind mount
	history  []*replication.Manifest
	trees    map[replication.ID]int
	fenced   uint64
	applied  replication.ID
	shipErr  error
	slow     []string // standbys that never answer
	shipped  replication.ID
	archived int // version of the tree in the archive
	pinned   []string
	moved    map[string]bool // containers that have another directory than the volume's
	applyErr error           // nothing can be applied
	hidden   bool            // it cannot be told which they have
	lost     int             // what the store lacks
	sockets  int             // in the live tree
	unkept   string
	cloning  bool
	suspect  []store.Suspect
	mended   int
	room     store.Room
	peers    []api.NodeStatus
	journal  []api.Decision
	exec     func(ctx context.Context, line string) error // runs a container's command; nil: nothing happens

	images   []string // IDs that Podman has
	layers   []string // and of what
	archives []string // received and not loaded yet: "thin ID" or "whole ID"
	refusals int      // how many thin archives cannot be loaded from here on
	have     []string // images that the senders are told of
	asked    []string // layers that they are told to leave out

	sealingDirty func() // what happens while SealDirty reads
	meanwhile    func() // what happens once, while the tree is captured or applied
	realiseErr   error  // nothing can be made
	archiveErr   error  // nothing can be archived
	refused      int    // how often it could not

	sealing sync.Mutex // one seal at a time, as in the engine
}

// The directories of tests count as lasting, whatever file system they are on.
var _ = func() error {
	var fs unix.Statfs_t
	err := unix.Statfs(os.TempDir(), &fs)
	if _, ok := lasting[int64(fs.Type)]; !ok {
		lasting[int64(fs.Type)] = false
	}
	return err
}()

func newNode(t *testing.T) *node {
	t.Helper()
	root := filepath.Join(t.TempDir(), "data")
	if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(filepath.Join(root, "f"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return &node{
		t: t, root: root, dir: t.TempDir(), run: t.TempDir(), states: map[string]string{"web": "created", "db": "running"},
		held: map[string]bool{}, trees: map[replication.ID]int{}, images: []string{"sha256:1"}, layers: []string{"base"},
	}
}

var errCrash = errors.New("killed")

// noProcess is what a power cut leaves of the containers, and an eviction. n.mu is held.
func (n *node) noProcess() {
	for c := range n.states {
		n.states[c] = "created"
	}
	clear(n.held)
}

// agent starts an agent on the node, as after a kill of the one before.
func (n *node) agent() *Service {
	n.t.Helper()
	s, err := Open("registry", Options{
		Node: "n1", Dir: n.dir, RunDir: n.run, Runtime: n, Procs: procs{n}, VIP: addrs{n}, Cluster: pacemaker{n},
		Replica: replica{n}, Peers: standbys{n}, Gossip: n, Journal: n, Logger: slog.New(slog.DiscardHandler),
		Crash: func(step string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.crashAt == step {
				n.crashAt = ""
				panic(errCrash)
			}
		},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(s.Close)
	return s
}

var testSpec = api.Spec{
	Service: "registry", VIPs: []string{"192.0.2.100/24"}, Containers: []string{"db", "web"}, Interval: api.Duration(time.Hour),
	MaxRPO: api.DefaultMaxRPO, FreezeMax: api.DefaultFreezeMax, StopTimeout: api.Duration(time.Second), OnUnhealthy: api.OnUnhealthyDegraded,
}

// do orders an action; crashed says whether the agent was killed in it.
func do(s *Service, action string) (res api.ActionResult, crashed bool, err error) {
	return doSpec(s, action, testSpec)
}

func doSpec(s *Service, action string, spec api.Spec) (res api.ActionResult, crashed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			if r != errCrash { //nolint:errorlint // the very value that was thrown
				panic(r)
			}
			crashed = true
		}
	}()
	res, err = s.Do(ctx, action, api.ActionRequest{Spec: spec})
	return res, false, err
}

func (n *node) running() (names []string) {
	n.with(func() { names = n.runningLocked() })
	return names
}

func (n *node) runningLocked() (names []string) {
	for name, st := range n.states {
		if st == "running" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// with changes or reads the node's state beside the agent's own work.
func (n *node) with(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *node) holds() (yes bool) {
	n.with(func() { yes = n.held["192.0.2.100/24"] })
	return yes
}

func (n *node) score() (v int) {
	n.with(func() { v = n.scores })
	return v
}

// Runtime.

func (n *node) Inspect(_ context.Context, name string) (Container, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hung {
		return Container{}, context.DeadlineExceeded
	}
	st, ok := n.states[name]
	if !ok {
		return Container{}, ErrNoContainer
	}
	return Container{Name: name, ID: name + "-id", Running: st == "running", Initialised: st == "initialized", PID: 1, Health: api.HealthHealthy, Trees: map[string]string{"data": "/data"}}, nil
}

func (n *node) set(name, state string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hung {
		return context.DeadlineExceeded
	}
	if _, ok := n.states[name]; ok {
		n.states[name] = state
	}
	return nil
}

func (n *node) Problems(context.Context, api.Spec) (problems, caveats []string, err error) {
	return nil, nil, nil
}

func (n *node) Members(_ context.Context, spec api.Spec) (names, absent []string, err error) {
	return spec.Named, nil, nil
}

func (n *node) UnitProblems(api.Spec) ([]string, error) { return nil, nil }

func (n *node) Adopt(context.Context, api.Spec, bool) ([]string, error) { return nil, nil }

func (n *node) Define(context.Context, api.Spec) (Definition, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hung {
		return Definition{}, context.DeadlineExceeded
	}
	if n.odd != nil {
		return Definition{}, n.odd
	}
	return n.Parse([]byte("def"))
}

func (n *node) Parse(b []byte) (Definition, error) {
	d := Definition{Bytes: b, Names: testSpec.Containers, Images: []string{"sha256:1"}, Volumes: []string{"data"}}
	if n.bound.Load() { // also where the node is locked
		d.Binds = d.Volumes
	}
	return d, nil
}

func (n *node) Realise(context.Context, []byte) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.realiseErr != nil {
		return nil, n.realiseErr
	}
	var made []string
	for _, name := range testSpec.Containers {
		if _, ok := n.states[name]; !ok {
			n.states[name] = "created"
			made = append(made, name)
		}
	}
	if _, err := os.Stat(n.root); n.gone || errors.Is(err, fs.ErrNotExist) {
		n.gone, n.tree = false, empty
		made = append(made, "data")
		// A new container's image has files there.
		if err := errors.Join(os.MkdirAll(n.root, 0o755), os.WriteFile(filepath.Join(n.root, "f"), nil, 0o600)); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// empty is the version of a tree that was just made.
const empty = -1

func (n *node) VolumePaths(context.Context, []string) (map[string]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		return nil, nil
	}
	return map[string]string{"data": n.root}, nil
}

func (n *node) Init(_ context.Context, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.states[name] == "created" {
		n.states[name] = "initialized"
	}
	return nil
}

func (n *node) Start(_ context.Context, name string) error {
	if err := n.set(name, "running"); err != nil {
		return err
	}
	n.mu.Lock()
	n.tree++ // it writes
	n.mu.Unlock()
	return nil
}

func (n *node) Stop(_ context.Context, name string, _ time.Duration) error {
	n.with(func() { delete(n.moved, name) }) // it is set up anew, with what is there now
	return n.set(name, "created")
}

func (n *node) Exec(ctx context.Context, container string, command []string) error {
	if n.exec == nil {
		return nil
	}
	return n.exec(ctx, strings.Join(append([]string{container}, command...), " "))
}

func (n *node) Neutralise(context.Context, string) error { return nil }
func (n *node) Images(context.Context) ([]string, []string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.images), slices.Clone(n.layers), nil
}
func (n *node) ExportImage(context.Context, string, string) error { return nil }
func (n *node) LoadImage(_ context.Context, path string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	kind, id, _ := strings.Cut(path, " ")
	if kind == "thin" && n.refusals > 0 {
		n.refusals--
		return "", errors.New("layer base does not exist")
	}
	n.images = append(n.images, id)
	return id, nil
}
func (n *node) DamagedImages([]string) []string { return nil }
func (n *node) RepairImage(context.Context, string, []string) (bool, error) {
	return false, nil
}
func (n *node) Peers() []api.NodeStatus { n.mu.Lock(); defer n.mu.Unlock(); return n.peers }
func (n *node) Publish()                {}
func (n *node) Record(d api.Decision) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.journal = append(n.journal, d)
}

type procs struct{ n *node }

func (p procs) Running(c Container) bool {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	return p.n.states[c.Name] == "running"
}

func (p procs) Ended(c Container) bool   { return !p.Running(c) }
func (p procs) AskToEnd(Container) error { return nil }

func (p procs) Evict(_ context.Context, names []string) error {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	if p.n.left != nil {
		return p.n.left
	}
	for _, name := range names {
		delete(p.n.moved, name)
		if _, ok := p.n.states[name]; ok {
			p.n.states[name] = "created"
		}
	}
	return nil
}

func (p procs) Elsewhere(c Container, _ map[string]string) (trees map[string]bool) {
	p.n.with(func() {
		if !p.n.hidden {
			trees = map[string]bool{"data": p.n.moved[c.Name]}
		}
	})
	return trees
}
func (p procs) Members([]string) ([]int, error)                             { return nil, nil }
func (p procs) Freezer(string, []string, time.Duration) replication.Freezer { return nil }

type addrs struct{ n *node }

func (a addrs) Check(api.Spec) error                       { return nil }
func (a addrs) Probe(context.Context, api.Spec) error      { return a.n.refuse }
func (a addrs) Add(_ context.Context, s api.Spec) error    { return a.change(s, true) }
func (a addrs) Remove(_ context.Context, s api.Spec) error { return a.change(s, false) }
func (a addrs) change(s api.Spec, there bool) error {
	a.n.mu.Lock()
	defer a.n.mu.Unlock()
	if there && a.n.addErr != nil {
		return a.n.addErr
	}
	for _, v := range s.VIPs {
		if !there { // an address goes whatever its prefix length
			maps.DeleteFunc(a.n.held, func(h string, _ bool) bool { return ip(h) == ip(v) })
		}
		a.n.held[v] = there
	}
	return nil
}

func (a addrs) Held(s api.Spec) (held, missing []string, err error) {
	a.n.mu.Lock()
	defer a.n.mu.Unlock()
	for _, v := range s.VIPs {
		if a.n.held[v] {
			held = append(held, v)
		} else {
			missing = append(missing, v)
		}
	}
	return held, missing, nil
}

type pacemaker struct{ n *node }

func (p pacemaker) Reserve(_ context.Context, _ string, above uint64) (uint64, error) {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	p.n.term = max(p.n.term, above) + 1
	return p.n.term, nil
}

func (p pacemaker) Check(_ context.Context, _ string, term uint64) error {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	if term < p.n.term {
		return errors.New("overtaken")
	}
	return nil
}

func (p pacemaker) SetScore(_ context.Context, _ string, v int) error {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	p.n.scores = v
	return nil
}
func (p pacemaker) ClearScore(ctx context.Context, s string) error { return p.SetScore(ctx, s, 0) }

type replica struct{ n *node }

func (r replica) Head() (replication.ID, error) {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	if len(r.n.history) == 0 {
		return replication.ID{}, nil
	}
	return r.n.history[len(r.n.history)-1].ID, nil
}

func (r replica) HeadManifest() (*replication.Manifest, error) {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	if len(r.n.history) == 0 {
		return nil, nil
	}
	return r.n.history[len(r.n.history)-1], nil
}

func (r replica) Unkept() (what string) { r.n.with(func() { what = r.n.unkept }); return what }

func (r replica) Applied() replication.ID { r.n.mu.Lock(); defer r.n.mu.Unlock(); return r.n.applied }
func (r replica) Fence(t uint64) error {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	r.n.fenced = max(r.n.fenced, t)
	return nil
}
func (r replica) Term() (uint64, error) { r.n.mu.Lock(); defer r.n.mu.Unlock(); return r.n.fenced, nil }

// Seal asks the application only where something has changed, as the engine does.
func (r replica) Seal(ctx context.Context, q replication.SealRequest) (res replication.SealResult, err error) {
	if len(q.Missing) > 0 {
		return res, replication.ErrMissingVolume
	}
	r.n.sealing.Lock()
	defer r.n.sealing.Unlock()
	// A real one asks also where nothing has changed: here not, so that tests can say how often.
	if q.Quiesce == nil || !r.changed(q.Term) {
		return r.seal(q)
	}
	resume, err := q.Quiesce(ctx)
	if err != nil {
		return res, err
	}
	res, err = r.seal(q)
	res.Resume = resume() // not where the agent is killed before
	return res, err
}

func (n *node) disturb() {
	if f := n.meanwhile; f != nil {
		n.meanwhile = nil
		f()
	}
}

// changed says whether the tree is another than the head's of the term.
func (r replica) changed(term uint64) bool {
	head, _ := r.Head()
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	return head.Term != term || r.n.trees[head] != r.n.tree
}

func (r replica) seal(q replication.SealRequest) (replication.SealResult, error) {
	r.n.disturb()
	if q.Still != nil {
		if err := q.Still(); err != nil {
			return replication.SealResult{}, err
		}
	}
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	id, parent := replication.ID{Term: q.Term, Seq: 1}, replication.ID{}
	if k := len(r.n.history); k > 0 {
		parent = r.n.history[k-1].ID
		if r.n.trees[parent] == r.n.tree && parent.Term == q.Term {
			return replication.SealResult{ID: parent, AsOf: time.Now(), Sockets: r.n.sockets}, nil
		}
		if parent.Term == q.Term {
			id.Seq = parent.Seq + 1
		}
	}
	if q.Term < r.n.fenced {
		return replication.SealResult{}, replication.ErrStaleTerm
	}
	r.n.history = append(r.n.history, &replication.Manifest{
		ID: id, Parent: parent, Definition: q.Definition, Images: q.Images,
		Final: q.Final, Volumes: []replication.Volume{{Name: "data", Entries: replication.NewEntries(&replication.Entry{}, &replication.Entry{Path: "f"})}},
	})
	r.n.trees[id] = r.n.tree
	if q.Freezer == nil {
		r.n.applied = id
	}
	return replication.SealResult{ID: id, New: true, AsOf: time.Now(), Sockets: r.n.sockets}, nil
}

func (r replica) ApplyAt(_ context.Context, id replication.ID, _ map[string]string) error {
	defer r.n.disturb()
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	if _, ok := r.n.trees[id]; !ok {
		return replication.ErrNotFound
	}
	if r.n.applyErr != nil {
		return r.n.applyErr
	}
	if r.n.applied != id {
		r.n.tree, r.n.applied = r.n.trees[id], id
	}
	return nil
}

func (r replica) CheckRestore(_ context.Context, name string) error {
	_, err := r.version(name)
	return err
}

func (r replica) Keep(name, _ string) error {
	r.n.with(func() { r.n.pinned = append(r.n.pinned, name) })
	return nil
}

func (r replica) version(name string) (int, error) {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	id, err := replication.ParseID(name)
	if err != nil {
		return 0, err
	}
	v, ok := r.n.trees[id]
	if !ok {
		return 0, replication.ErrNotFound
	}
	return v, nil
}

func (r replica) Revert(name string, q replication.SealRequest) (replication.ID, []string, error) {
	v, err := r.version(name)
	if err != nil {
		return replication.ID{}, nil, err
	}
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	head := r.n.history[len(r.n.history)-1].ID
	if r.n.trees[head] == v {
		return head, nil, nil
	}
	id := replication.ID{Term: q.Term, Seq: 1}
	if head.Term == q.Term {
		id.Seq = head.Seq + 1
	}
	r.n.history = append(r.n.history, &replication.Manifest{ID: id, Parent: head, Definition: q.Definition, Images: q.Images, Volumes: []replication.Volume{{Name: "data"}}})
	r.n.trees[id] = v
	return id, nil, nil
}

func (r replica) Ends() map[uint64]uint64 { return nil }
func (r replica) Recheck() error {
	r.n.with(func() { r.n.applied = replication.ID{} })
	return nil
}

func (r replica) Realign(_ context.Context, base replication.ID) (out []string, err error) {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	for k := len(r.n.history); k > 0 && r.n.history[k-1].ID.Compare(base) > 0; k = len(r.n.history) {
		out = append(out, r.n.history[k-1].ID.String())
		r.n.history = r.n.history[:k-1]
	}
	return out, nil
}
func (r replica) Diverged() []string { return nil }
func (r replica) PendingImages() (list []string) {
	r.n.with(func() { list = slices.Clone(r.n.archives) })
	return list
}

func (r replica) DropImage(path string) {
	r.n.with(func() { r.n.archives = slices.DeleteFunc(r.n.archives, func(a string) bool { return a == path }) })
}
func (r replica) Promoted()    { r.n.with(func() { r.n.cloning = true }) }
func (r replica) EndPromoted() { r.n.with(func() { r.n.cloning = false }) }
func (r replica) ArchiveTree(context.Context, replication.SealRequest) (string, error) {
	return "0.1", nil
}

func (r replica) ArchiveOther(context.Context, replication.SealRequest) (name string, err error) {
	r.n.with(func() {
		if name, err = "archive", r.n.archiveErr; err != nil {
			r.n.refused++
		}
	})
	return name, err
}

func (r replica) SealDirty(ctx context.Context, q replication.SealRequest) (replication.SealResult, string, error) {
	if r.n.sealingDirty != nil {
		r.n.sealingDirty()
	}
	head, _ := r.Head()
	if term, _ := r.Term(); max(head.Term, term) > q.Term || len(q.Missing) > 0 {
		r.n.with(func() { r.n.archived, r.n.applied = r.n.tree, replication.ID{} })
		return replication.SealResult{}, "archive", nil
	}
	res, err := r.Seal(ctx, q)
	return res, "", err
}

func (p pacemaker) Promoted(context.Context, string) (string, error) {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	return p.n.promoted, nil
}

func (r replica) CheckTree(ctx context.Context, q replication.SealRequest, _ bool) (replication.SealResult, string, error) {
	if len(q.Missing) > 0 {
		return replication.SealResult{}, "", r.Recheck()
	}
	r.n.mu.Lock()
	changed := r.n.applied.IsZero() || r.n.trees[r.n.applied] != r.n.tree
	r.n.mu.Unlock()
	if head, _ := r.Head(); !changed || head != r.Applied() || head.Term > q.Term {
		return replication.SealResult{}, "", nil
	}
	res, err := r.Seal(ctx, q)
	return res, "", err
}

func (r replica) SetHave(images, layers []string) error {
	r.n.with(func() { r.n.have, r.n.asked = images, layers })
	return nil
}
func (r replica) Prune() error                            { return nil }
func (r replica) Freezes() (p50, p99, most time.Duration) { return 0, 0, 0 }
