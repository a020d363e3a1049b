// Package apply brings a service's live trees from one committed generation to
// another. It is journaled: what it is about to do is durable before it starts,
// so that after a kill at any point doing it again converges.
package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/tree"
)

// Generations is where generations come from; store.Store is one.
type Generations interface {
	Load(id replication.ID) (*replication.Manifest, error)
	Get(h replication.Hash) ([]byte, error)
	Share(h replication.Hash, skip, length int64, f *os.File, at int64) (int64, error)
	Shares(h replication.Hash, skip, length, at int64) (int64, error)
	Dir() string // on the file system whose blocks Share shares
}

// Options of an Applier. The zero value is good.
type Options struct {
	Logger *slog.Logger     // nil: discards
	Hook   durable.Hook     // tests
	Now    func() time.Time // nil: time.Now; the clock that files' ctimes come from
}

// Journal is an apply under way.
type Journal struct {
	From replication.ID `json:"from"` // none: the tree's content was unknown
	To   replication.ID `json:"to"`
}

// Result of an apply.
type Result struct {
	Changed int    // paths made, changed or removed
	Bytes   int64  // content written
	Unkept  Unkept // of what was done
}

// Applier applies to one service's live trees. Its methods may be called from
// several goroutines; one works at a time.
type Applier struct {
	dir string
	g   Generations
	o   Options

	mu    sync.Mutex  // guards the files in dir, the live trees, and what follows
	index *liveIndex  // nil: not loaded yet
	left  *tree.Index // index of the generation that SetApplied(none) left
	last  *replication.Manifest
	saved time.Time

	memory *remembered            // guarded by mu
	said   atomic.Pointer[string] // what it says, of the generation that the trees are at
}

// New uses stateDir (made where it is missing) for the journal, the record of
// what the trees are at, and the index.
func New(stateDir string, g Generations, o Options) (*Applier, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, err
	}
	a := &Applier{dir: stateDir, g: g, o: o}
	if err := a.loadUnkept(); err != nil {
		o.Logger.Warn("what of the live trees' metadata this system does not take is not known until they are compared as a whole", "error", err)
	}
	return a, nil
}

func (a *Applier) journalPath() string { return filepath.Join(a.dir, "apply.json") }
func (a *Applier) appliedPath() string { return filepath.Join(a.dir, "applied") }

// IndexPath is where the index of the live trees is kept.
func (a *Applier) IndexPath() string { return filepath.Join(a.dir, "index") }

// Applied is the generation the live trees are at exactly; zero: unknown, none,
// or in the middle of an apply. It does not wait for an apply under way, which may
// take minutes: each file is replaced at once, and an apply is in the journal for as
// long as the record is not of what the trees are at.
func (a *Applier) Applied() (id replication.ID, err error) {
	if j, err := a.Pending(); err != nil || j != nil {
		return id, err
	}
	b, err := durable.ReadSummed(a.appliedPath())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, durable.ErrSum) {
		return id, nil // the next Apply looks at all of the trees
	}
	if err != nil {
		return id, err
	}
	if id, err = replication.ParseID(string(b)); err != nil {
		return replication.ID{}, nil //nolint:nilerr // damaged, too
	}
	return id, nil
}

// Pending is the journal of an apply that is under way or was interrupted, nil where
// there is none. The trees are at no generation then: call Apply before anything
// starts. Like Applied it does not wait.
func (a *Applier) Pending() (*Journal, error) {
	b, err := durable.ReadSummed(a.journalPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, durable.ErrSum) {
		return nil, err
	}
	var j Journal
	if err != nil || json.Unmarshal(b, &j) != nil {
		return &Journal{}, nil // damaged: of some apply; from where does not matter, then
	}
	return &j, nil
}

// SetApplied records that the trees are at id without touching them: after a
// final capture. The zero ID: they are about to be written by containers, so
// that the next Apply compares all content. Durable when it returns. It drops
// the journal of an interrupted apply: only for trees that are known otherwise.
func (a *Applier) SetApplied(id replication.ID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at, err := a.Applied(); err == nil && !at.IsZero() && id.IsZero() && a.index != nil {
		a.left = a.index.index(at)
	}
	a.index, a.last = nil, nil // of trees that others may have changed
	if id.IsZero() {
		// The journal goes last: until then the trees are at no generation.
		return errors.Join(durable.Remove(a.appliedPath(), a.o.Hook), durable.Remove(a.journalPath(), a.o.Hook), a.forgetUnkeptLocked())
	}
	return errors.Join(a.finishLocked(id), a.forgetUnkeptLocked())
}

// finishLocked moves the record on, then drops the journal. Killed in between,
// the apply is done once more, for nothing.
func (a *Applier) finishLocked(id replication.ID) error {
	if err := durable.WriteSummed(a.appliedPath(), []byte(id.String()), 0o600, a.o.Hook); err != nil {
		return err
	}
	return durable.Remove(a.journalPath(), a.o.Hook)
}

// Apply brings the trees under roots (volume name → path of its root) to id,
// finishing an interrupted apply on the way. Every volume of the generation
// needs a root; other roots are left alone. After an error, call it again:
// until it succeeds the trees are at no generation.
func (a *Applier) Apply(ctx context.Context, id replication.ID, roots map[string]string) (*Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	res := &Result{}
	j, err := a.Pending()
	if err != nil {
		return nil, err
	}
	from, err := a.Applied()
	if err != nil {
		return nil, err
	}
	switch {
	case j != nil && j.To == id:
		from = j.From
	case j != nil:
		err := a.runLocked(ctx, j.From, j.To, roots, res)
		from = j.To
		if errors.Is(err, replication.ErrNotFound) { // reset away meanwhile
			err, from = nil, replication.ID{}
		}
		if err != nil {
			return nil, err
		}
	case from == id:
		return res, nil
	}
	if err := a.runLocked(ctx, from, id, roots, res); err != nil {
		return nil, err
	}
	if what := res.Unkept.String(); what != "" {
		a.o.Logger.Warn("this system does not take all metadata; the store has it", "generation", id, "what", what)
	}
	return res, nil
}

func (a *Applier) runLocked(ctx context.Context, from, to replication.ID, roots map[string]string, res *Result) error {
	target, err := a.loadLocked(to)
	if err != nil {
		return err
	}
	for _, v := range target.Volumes {
		if roots[v.Name] == "" {
			return fmt.Errorf("generation %s has a volume %s and there is none on this node; create it first", to, v.Name)
		}
	}
	var origin *replication.Manifest
	if !from.IsZero() {
		origin, err = a.loadLocked(from)
		if errors.Is(err, replication.ErrNotFound) {
			from, err = replication.ID{}, nil // pruned or reset away: look at the trees instead
		}
		if err != nil {
			return err
		}
	}
	way := &way{origin: origin, target: target, roots: roots}
	if origin != nil {
		way.delta = target.DeltaFrom(origin)
	}
	left, err := a.Pending()
	if a.index == nil {
		a.index = loadLive(a.IndexPath(), origin)
	}
	if way.again = left != nil; err == nil && !way.again && origin != nil {
		err = room(a.g, origin, target, way.delta, roots, a.index)
	}
	if err != nil {
		return fmt.Errorf("apply %s: %w", to, err)
	}
	b, err := json.Marshal(Journal{From: from, To: to})
	if err != nil {
		return err
	}
	if err := durable.WriteSummed(a.journalPath(), b, 0o600, a.o.Hook); err != nil {
		return err
	}
	if err := a.changeLocked(ctx, way, res); err != nil {
		a.index = nil // of neither generation now
		return fmt.Errorf("apply %s: %w", to, err)
	}
	if err := a.saveUnkeptLocked(); err != nil {
		return err
	}
	if err := a.finishLocked(to); err != nil {
		return err
	}
	a.last, a.left = target, nil
	a.saveIndexLocked(to)
	return nil
}

// loadLocked keeps the last manifest: it is where the next apply comes from.
func (a *Applier) loadLocked(id replication.ID) (*replication.Manifest, error) {
	if a.last != nil && a.last.ID == id {
		return a.last, nil
	}
	return a.g.Load(id)
}

// way is what an apply goes.
type way struct {
	origin *replication.Manifest // nil: what the trees are is not known
	target *replication.Manifest
	delta  *replication.Delta // from origin
	roots  map[string]string
	again  bool // an apply was interrupted: something of it may lie about
}

func (a *Applier) changeLocked(ctx context.Context, way *way, res *Result) error {
	a.memory.begin(way)
	for i := range way.target.Volumes {
		v := &way.target.Volumes[i]
		if err := a.applyVolume(ctx, way, v, res); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

func (a *Applier) applyVolume(ctx context.Context, way *way, v *replication.Volume, res *Result) (err error) {
	root, err := tree.OpenRoot(way.roots[v.Name])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	w := &worker{root: root, g: a.g, hook: a.o.Hook, stats: a.index.volume(v.Name), res: res, volume: v.Name, memory: a.memory, to: v.Entries, fresh: !way.again}
	from := way.origin.Volume(v.Name)
	if from != nil {
		w.from = from.Entries
		put, del := way.delta.Of(v.Name)
		err = w.run(ctx, put, del)
	} else { // how the tree is is not known
		w.stats, w.fresh = nil, true
		if w.from, err = liveEntries(ctx, a.g, root, v.Entries); err != nil {
			return err
		}
		put, del := replication.Diff(w.from, w.to)
		err = w.run(ctx, put, del)
	}
	if err != nil {
		return err
	}
	if err := a.o.Hook.At("syncfs " + v.Name); err != nil {
		return err
	}
	if err := root.Sync(); err != nil {
		return err
	}
	return a.index.update(a.o.Now(), root, v, w.changed, from == nil)
}
