// Package engine runs the four steps of replication for one service on one
// node: it seals the live trees as generations of the local store, brings the
// live trees to what the store's head is, and turns a former active's history
// round. It holds no policy: when to do what is decided by the service's state machine.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/apply"
	"github.com/understudy-ha/understudy/replication/capture"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree"
)

// Options of an Engine.
type Options struct {
	Root      string // of the stores
	Service   string
	Retention store.Policy // its Applied is the engine's to say
	Spare     int64        // of the store's file system, bytes: history gives way below; 0: see store.Options
	LeastFree int64        // and nothing is sealed below this; 0: see store.Options, negative: as long as there is any
	Logger    *slog.Logger
	Hook      durable.Hook // fault tests
}

// Engine is one service's data on this node. Its methods may be called from
// any goroutine; Seal, Apply and Realign exclude each other.
type Engine struct {
	store    *store.Store
	capturer *capture.Capturer
	applier  *apply.Applier
	log      *slog.Logger
	policy   store.Policy

	work   sync.Mutex     // held by Seal, Apply, Realign, while Repack removes, and until what Promoted began has ended
	saving sync.WaitGroup // of indexes

	scrubbing sync.Mutex // held by Scrub

	mu         sync.Mutex // guards what follows
	index      *tree.Index
	head       *replication.Manifest // the head, decoded; its ID says whether it is current
	freezes    []time.Duration       // the newest freezeWindow, in order
	roots      map[string]string     // of the live trees, as last said
	nextPrune  time.Time
	nextRepack time.Time
	space      space
	counts     Counts
	hurry      context.CancelFunc // ends what Promoted began; nil: it was never called
	ahead      []store.PackFile   // of the generation that is being made

	watcher *watcher // held by work
}

const freezeWindow = 512

// Open opens the service's store and the record of its live trees.
func Open(o Options) (*Engine, error) {
	st, err := store.Open(o.Root, o.Service, store.Options{Logger: o.Logger, Hook: o.Hook, Spare: o.Spare, LeastFree: o.LeastFree})
	if err != nil {
		return nil, err
	}
	a, err := apply.New(filepath.Join(o.Root, "live", o.Service), st, apply.Options{Logger: o.Logger, Hook: o.Hook})
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &Engine{
		store: st, applier: a, capturer: capture.New(capture.Options{Logger: o.Logger, Hook: o.Hook}), log: o.Logger,
		policy: o.Retention, index: tree.LoadIndex(a.IndexPath()),
	}, nil
}

// Close releases the store's files.
func (e *Engine) Close() error {
	e.saving.Wait()
	e.lockWork()
	e.unwatch()
	closed := e.capturer.Close()
	e.work.Unlock()
	return errors.Join(closed, e.applier.SaveIndex(), e.store.Close())
}

// Store is the service's store, for shipping from it.
func (e *Engine) Store() *store.Store { return e.store }

// Head is the generation committed last; zero: none.
func (e *Engine) Head() (replication.ID, error) { return e.store.Head() }

// Term is the highest term the store knows.
func (e *Engine) Term() (uint64, error) { return e.store.Term() }

// Fence makes the store refuse senders below term.
func (e *Engine) Fence(term uint64) error { return e.store.Fence(term) }

// HeadManifest is the head's manifest, nil when there is no head. It is shared: read only.
func (e *Engine) HeadManifest() (*replication.Manifest, error) {
	id, err := e.store.Head()
	if err != nil || id.IsZero() {
		return nil, err
	}
	e.mu.Lock()
	m := e.head
	e.mu.Unlock()
	if m != nil && m.ID == id {
		return m, nil
	}
	if m, err = e.store.Load(id); err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.head = m
	e.mu.Unlock()
	return m, nil
}

// Applied is the generation that the live trees are at exactly; zero: unknown.
func (e *Engine) Applied() replication.ID {
	id, err := e.applier.Applied()
	if err != nil {
		return replication.ID{}
	}
	return id
}

// Unkept says in a line what of the applied generation's metadata this node's system does
// not take; empty: nothing.
func (e *Engine) Unkept() string { return e.applier.Unkept() }

// Seal captures the live trees and commits them to the local store as the next
// generation of the term. When nothing changed, and an application that is asked wrote nothing
// then either, neither is written nor frozen.
func (e *Engine) Seal(ctx context.Context, r replication.SealRequest) (res replication.SealResult, err error) {
	if len(r.Missing) > 0 {
		return res, fmt.Errorf("%w: %s", replication.ErrMissingVolume, strings.Join(r.Missing, ", "))
	}
	if r.Freezer != nil || r.Loose {
		// The clones save more time than they take, but for whoever gives up.
		stop := context.AfterFunc(ctx, e.EndPromoted)
		e.work.Lock()
		stop()
	} else {
		e.lockWork()
	}
	defer e.work.Unlock()
	if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	if err := e.roomToSeal(r.Final); err != nil {
		return res, err // nobody stands still for it
	}
	defer e.sentAhead()
	defer func() { e.noRoom(err) }()
	return e.sealLocked(ctx, r)
}

// roomToSeal gives back what is kept of large files where the disk is too full: the service may have
// removed them to make room.
func (e *Engine) roomToSeal(final bool) error {
	err := e.store.RoomToSeal(final)
	if err == nil {
		return nil
	}
	if cerr := e.capturer.Close(); cerr != nil {
		e.log.Warn("what was kept of large files was not given back", "error", cerr)
	}
	return e.store.RoomToSeal(final)
}

func (e *Engine) sealLocked(ctx context.Context, r replication.SealRequest) (replication.SealResult, error) {
	e.noteRoots(r.Roots)
	if j, err := e.applier.Pending(); err != nil || j != nil {
		return replication.SealResult{}, errors.Join(err, errors.New("the live trees are between two generations: an apply must be finished before anything is sealed"))
	}
	base, err := e.HeadManifest()
	if err != nil {
		return replication.SealResult{}, err
	}
	pack := e.newPack(r)
	defer pack.Abort()
	asOf := time.Now()
	res, err := e.capturer.Capture(ctx, capture.Request{
		Volumes: volumes(r.Roots), Base: base, Index: e.indexOf(base),
		Freezer: r.Freezer, FreezeMax: r.FreezeMax, Froze: e.noteFreeze, Loose: r.Loose, Quiesce: r.Quiesce, Sink: pack, Content: e.store.Get, Hints: e.hints(r), Processes: r.Processes,
	})
	captured := time.Now()
	if err == nil && r.Still != nil {
		err = r.Still()
	}
	unchanged := errors.Is(err, replication.ErrUnchanged)
	if err != nil && !unchanged {
		return replication.SealResult{}, err
	}
	if unchanged {
		e.keepIndex(res.Index)
		if sameBut(base, r) {
			return replication.SealResult{ID: base.ID, AsOf: asOf, Freeze: res.Freeze, Sockets: base.Skipped(), Resume: res.Resume}, e.settled(r, base.ID)
		}
		res.Volumes, res.Delta = base.Volumes, &replication.Delta{Base: base.ID, BaseSum: base.Sum()}
	}
	m := next(base, r, res, e.store.Service(), asOf)
	if _, err := pack.Seal(); err != nil {
		return replication.SealResult{}, err
	}
	packed := time.Now()
	if err := e.store.Commit(m); err != nil {
		return replication.SealResult{}, fmt.Errorf("sealing generation %s: %w", m.ID, err)
	}
	e.log.Debug("sealed", "generation", m.ID, "changed", res.Changed, "read", res.BytesRead, "cloned", res.Cloned, "freeze", res.Freeze, "loose", r.Loose, "moved", res.Moved,
		"capture", captured.Sub(asOf), "pack", packed.Sub(captured), "commit", time.Since(packed))
	e.mu.Lock()
	e.head = m
	e.counts.Sealed++
	e.counts.Read += res.BytesRead
	e.mu.Unlock()
	res.Index.ID = m.ID
	e.keepIndex(res.Index)
	return replication.SealResult{ID: m.ID, New: true, AsOf: asOf, Freeze: res.Freeze, Changed: res.Changed, Bytes: res.BytesRead, Sockets: m.Skipped(), Resume: res.Resume},
		e.settled(r, m.ID)
}

// newPack begins the packs of a capture. What of them is in the store can be sent ahead.
func (e *Engine) newPack(r replication.SealRequest) *store.PackWriter {
	w := e.store.NewPack()
	w.Hashed, w.Final = true, r.Final // hashed by capture
	w.Sealed = func(p store.PackFile) {
		e.mu.Lock()
		e.ahead = append(e.ahead, p)
		e.mu.Unlock()
		if r.Packed != nil {
			r.Packed()
		}
	}
	return w
}

// Ahead lists packs of the generation that is being made, in the order in which they
// were; none between two seals. A peer may have them already.
func (e *Engine) Ahead() []store.PackFile {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ahead[:len(e.ahead):len(e.ahead)]
}

func (e *Engine) sentAhead() {
	e.mu.Lock()
	e.ahead = nil
	e.mu.Unlock()
}

// settled records, when the containers are stopped, that the trees are at id.
func (e *Engine) settled(r replication.SealRequest, id replication.ID) error {
	if r.Freezer != nil || r.Loose {
		return nil
	}
	e.unwatch()
	if err := e.capturer.Close(); err != nil {
		e.log.Warn("what was kept of large files was not given back", "error", err)
	}
	e.mu.Lock()
	index := e.index
	e.mu.Unlock()
	if index != nil {
		// Only the speed of the next capture hangs on it, and a hand-over waits for us.
		e.saving.Go(func() {
			if err := index.Save(e.applier.IndexPath()); err != nil {
				e.log.Warn("the index of the live trees was not saved; the next capture here reads everything once", "error", err)
			}
		})
	}
	return e.applier.SetApplied(id)
}

// Recheck makes the next Apply compare the whole trees with the generation.
func (e *Engine) Recheck() error {
	e.lockWork()
	defer e.work.Unlock()
	return e.applier.SetApplied(replication.ID{})
}

// Apply brings the live trees to the head; it finishes an interrupted apply on the way.
func (e *Engine) Apply(ctx context.Context, roots map[string]string) error {
	e.lockWork()
	defer e.work.Unlock()
	head, err := e.store.Head()
	if err != nil || head.IsZero() {
		return err
	}
	return e.applyLocked(ctx, head, roots)
}

// indexOf is the index that belongs to base, nil where there is none. A diverged
// generation has none: its ID may be another's as well.
func (e *Engine) indexOf(base *replication.Manifest) *tree.Index {
	if base == nil || base.Diverged {
		return nil
	}
	e.mu.Lock()
	x := e.index
	e.mu.Unlock()
	if x != nil && x.ID == base.ID {
		return x
	}
	// The first capture after a promotion: the trees were applied, not captured.
	if x = e.applier.Index(); x != nil && x.ID == base.ID {
		return x
	}
	return nil
}

func (e *Engine) keepIndex(x *tree.Index) {
	if x == nil {
		return
	}
	e.mu.Lock()
	e.index = x
	e.mu.Unlock()
}

// volumes puts the stage beside each root: on the same file system (unless something is
// mounted right there: then files are copied), so that changed files can be cloned into
// it, and gone with the volume. Bind mounts may lie side by side: each has its own.
func volumes(roots map[string]string) []capture.Volume {
	var vs []capture.Volume
	for name, path := range roots {
		vs = append(vs, capture.Volume{Name: name, Path: path, StageDir: filepath.Join(filepath.Dir(path), ".understudy-stage-"+name)})
	}
	slices.SortFunc(vs, func(a, b capture.Volume) int { return strings.Compare(a.Name, b.Name) })
	return vs
}

// next is the manifest that follows base.
func next(base *replication.Manifest, r replication.SealRequest, res *capture.Result, service string, asOf time.Time) *replication.Manifest {
	m := &replication.Manifest{
		Format: replication.FormatVersion, Service: service, ID: replication.ID{Term: r.Term, Seq: 1},
		CapturedAt: asOf, FreezeNs: int64(res.Freeze), Final: r.Final, Loose: r.Loose, Definition: r.Definition, Images: r.Images, Volumes: res.Volumes, Delta: res.Delta,
	}
	if base != nil {
		m.Parent = base.ID
		if base.ID.Term == r.Term {
			m.ID.Seq = base.ID.Seq + 1
		}
	}
	return m
}

// sameBut says whether base says of everything but the volumes' content what r says.
// A final generation stays the last one while nothing changes.
func sameBut(base *replication.Manifest, r replication.SealRequest) bool {
	return base != nil && string(base.Definition) == string(r.Definition) && slices.Equal(base.Images, r.Images) && (base.Final || !r.Final) && base.ID.Term == r.Term
}

// liveAt are the generations that the live trees are at, or are being brought from or to.
func (e *Engine) liveAt() []replication.ID {
	ids := []replication.ID{e.Applied()}
	if j, err := e.applier.Pending(); err == nil && j != nil {
		ids = append(ids, j.From, j.To)
	}
	return ids
}

// PendingImages are image archives that arrived verified and wait to be loaded.
func (e *Engine) PendingImages() []string {
	paths, err := filepath.Glob(filepath.Join(e.store.Dir(), "images", "*.image"))
	if err != nil {
		return nil
	}
	return paths
}

// DropImage removes an archive that was loaded, or that cannot be.
func (e *Engine) DropImage(path string) {
	if err := os.Remove(path); err != nil {
		e.log.Warn("an image archive cannot be removed", "path", path, "error", err)
	}
}

// SetHave tells senders which images and layers need not be sent.
func (e *Engine) SetHave(images, layers []string) error { return e.store.SetHave(images, layers) }
