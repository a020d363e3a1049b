package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// Lab is a running lab. Methods may be called from several goroutines.
type Lab struct {
	dir    dir
	st     state
	nodes  []*Node
	client *Client
	log    powerLog
	say    func(format string, args ...any)

	// Of the owner only, nil in an attached lab.
	lock       *flock
	supervisor *supervisor
	reapers    sync.WaitGroup // one goroutine for each PID 1 that this process started

	mu   sync.Mutex // guards down
	down bool
}

// Up makes a lab and boots its nodes. What a killed run of the same name left behind is removed
// first; a lab of that name that is alive is an error. If Up fails or ctx ends, nothing is left.
// The lab belongs to the calling process, which must call Down.
func Up(ctx context.Context, o Options) (*Lab, error) {
	return up(ctx, o, false)
}

func up(ctx context.Context, o Options, daemon bool) (_ *Lab, err error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	say := sayTo(o.Out)
	if err := CleanLeftovers(ctx, o.Out); err != nil {
		return nil, err
	}
	if err := needTools(ctx, say); err != nil {
		return nil, err
	}
	root, err := Root(ctx, o.Out)
	if err != nil {
		return nil, err
	}
	d := labDir(o.Name)
	lk, err := tryLock(d.lockPath())
	if errors.Is(err, errBusy) {
		return nil, fmt.Errorf("lab %s is up already: take it down first (lab down --name %s) or choose another name", o.Name, o.Name)
	}
	if err != nil {
		return nil, err
	}
	// From here on everything made is found from the lab's name.
	self, err := findProcess(os.Getpid())
	if err != nil {
		lk.unlock()
		return nil, err
	}
	l := newLab(d, state{
		Options: stateOptions{Name: o.Name, Nodes: o.Nodes, FS: o.FS, Disk: o.DiskSize, Token: o.Token, KeepUnsynced: o.KeepUnsynced},
		Root:    root, Owner: self, Daemon: daemon, Created: time.Now(),
	}, say)
	l.lock = lk
	defer func() {
		if err != nil {
			// The caller's context may be what ended: removal gets its own.
			err = errors.Join(err, l.Down(context.WithoutCancel(ctx)))
		}
	}()
	if err := l.build(ctx, o); err != nil {
		return nil, fmt.Errorf("lab %s: %w", o.Name, err)
	}
	return l, nil
}

// build does what Up promises, on an empty directory.
func (l *Lab) build(ctx context.Context, o Options) error {
	began := time.Now()
	if err := l.dir.destroy(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(l.dir.share(), 0o755); err != nil {
		return err
	}
	if err := l.dir.writeState(l.st); err != nil {
		return err
	}
	if err := l.SetAutoBoot(!o.ManualBoot); err != nil {
		return err
	}
	l.say("making the switch, the client and the disks of %v", o.Nodes)
	if err := l.dir.makeSwitch(ctx); err != nil {
		return err
	}
	if err := l.client.plug(ctx); err != nil {
		return err
	}
	var err error
	if l.supervisor, err = startSupervisor(l); err != nil {
		return err
	}
	err = l.EachNode(func(n *Node) error { return n.prepare(ctx) })
	if err != nil {
		return err
	}
	l.say("booting %v", o.Nodes)
	if err := l.EachNode(func(n *Node) error { return n.Boot(ctx) }); err != nil {
		return err
	}
	l.say("nodes are up after %.1f s", time.Since(began).Seconds())
	if o.Deb != "" {
		l.say("installing %s", o.Deb)
		if err := l.EachNode(func(n *Node) error { return n.InstallDeb(ctx, o.Deb) }); err != nil {
			return err
		}
	}
	if o.Cluster {
		return l.StartCluster(ctx, ClusterOptions{Token: o.Token})
	}
	return nil
}

// Attach gives access to a lab that another process owns. Down of an attached lab is refused while
// the owner lives, unless the owner is the daemon of `lab up`.
func Attach(name string) (*Lab, error) {
	if name == "" {
		name = "lab"
	}
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("lab name %q: use 1 to 12 lower-case letters, digits and dashes", name)
	}
	d := labDir(name)
	st, err := d.readState()
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no lab %s: make one (lab up --name %s), or see lab list", name, name)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	return newLab(d, st, sayTo(nil)), nil
}

func newLab(d dir, st state, say func(string, ...any)) *Lab {
	l := &Lab{dir: d, st: st, say: say, log: powerLog{d.path("power.jsonl")}}
	for _, name := range st.Options.Nodes {
		l.nodes = append(l.nodes, &Node{lab: l, name: name})
	}
	l.client = &Client{lab: l}
	return l
}

// Down removes the lab and everything in it. It is idempotent and finishes what an earlier,
// interrupted Down began.
func (l *Lab) Down(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil
	}
	if l.lock == nil {
		lk, err := l.dir.takeOver(ctx)
		if err != nil {
			return err
		}
		l.lock = lk
	}
	if l.supervisor != nil {
		l.supervisor.close()
	}
	if err := l.dir.destroy(ctx); err != nil {
		return fmt.Errorf("take down lab %s: %w", l.Name(), err)
	}
	l.reapers.Wait()
	l.down = true
	l.lock.discard()
	return nil
}

// Name is the lab's name.
func (l *Lab) Name() string { return l.dir.name() }

// Dir is the lab's directory on the machine; it goes with Down.
func (l *Lab) Dir() string { return string(l.dir) }

// Nodes are all nodes in the order of Options.Nodes.
func (l *Lab) Nodes() []*Node { return slices.Clone(l.nodes) }

// Node returns the node called name, or nil.
func (l *Lab) Node(name string) *Node {
	for _, n := range l.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// Client is where outage probes run: it is on neither node.
func (l *Lab) Client() *Client { return l.client }

// PowerLog returns what has happened to power and cables, in the order of time.
func (l *Lab) PowerLog() ([]PowerEvent, error) { return l.log.read() }

// PowerLogPath is the file PowerLog reads: JSON lines of PowerEvent.
func (l *Lab) PowerLogPath() string { return l.log.path }

// EachNode runs f for all nodes at once and joins the errors.
func (l *Lab) EachNode(f func(*Node) error) error {
	errs := make([]error, len(l.nodes))
	var wg sync.WaitGroup
	for i, n := range l.nodes {
		wg.Go(func() { errs[i] = f(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (l *Lab) names() []string { return l.st.Options.Nodes }

func sayTo(w io.Writer) func(string, ...any) {
	if w == nil {
		w = io.Discard
	}
	var mu sync.Mutex
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "lab: "+format+"\n", args...)
	}
}
