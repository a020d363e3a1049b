package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// quiet is how long a file must have been at rest to be worth reading before
// the freeze. More than a few ticks of any clock that ctimes come from.
const quiet = 200 * time.Millisecond

// job is one attempt at a capture.
type job struct {
	c      *Capturer
	r      Request
	at     int64 // Unix ns, before the last look
	looked bool
	asItIs bool // a file that moves is taken nevertheless
	vols   []*volume
	res    *Result
	bytes  atomic.Int64 // content read and hashed
}

// volume is one tree of a job.
type volume struct {
	Volume
	root   *tree.Root
	base   *replication.Entries // of Base; empty when it cannot be compared with
	index  *tree.Nodes          // of Index; empty when it is not of Base
	unsure map[string]struct{}  // of Index: what looks the same but may have changed

	mu        sync.Mutex          // guards dirty and early while small files are read
	now       *tree.Nodes         // the tree as of the last look, sockets included
	dirty     *paths              // of now: what is still to be read
	gone      map[string]struct{} // what Base has and now has not
	early     *readings           // made before the freeze, and not changed since; none once the result is put together
	mapped    map[uint64]string   // inodes that processes map, and where they are in this volume; "": not
	aside     []*staged           // set aside in the freeze
	shadows   *shadows            // of its large files
	prepared  map[string]source   // large files that were read while they were busy
	unsettled []string            // of early, see job.unsettled
	brought   map[string]*shadow  // large files that were cloned while they were busy
}

// reading is an entry with its content, and what it was read as.
type reading struct {
	node  *tree.Node
	entry *replication.Entry
}

// readings are found by their path. There are as many as files, at first.
type readings = btree.BTreeG[reading]

func newReadings() *readings {
	return btree.NewG(32, func(a, b reading) bool { return replication.ComparePaths(a.node.Path, b.node.Path) < 0 })
}

// paths are in order.
type paths = btree.BTreeG[string]

func newPaths() *paths {
	return btree.NewG(32, func(a, b string) bool { return replication.ComparePaths(a, b) < 0 })
}

// probes are what readings are looked for with, see tree.Nodes.
var probes = sync.Pool{New: func() any { return new(tree.Node) }}

func (v *volume) earlyAt(path string) (r reading, ok bool) {
	at := probes.Get().(*tree.Node)
	at.Path = path
	r, ok = v.early.Get(reading{node: at})
	at.Path = ""
	probes.Put(at)
	return r, ok
}

func (v *volume) notEarly(path string) {
	if _, ok := v.earlyAt(path); ok {
		v.early.Delete(reading{node: &tree.Node{Path: path}})
	}
}

func (j *job) base() replication.ID {
	if j.r.Base == nil {
		return replication.ID{}
	}
	return j.r.Base.ID
}

func (j *job) open() error {
	for _, v := range j.r.Volumes {
		root, err := tree.OpenRoot(v.Path)
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		jv := &volume{Volume: v, root: root, prepared: map[string]source{}, brought: map[string]*shadow{}, mapped: j.c.mappedIn(v.Name)}
		j.vols = append(j.vols, jv)
		if err := jv.emptyStage(); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		jv.compareWith(j.r.Base, j.r.Index)
		if jv.shadows = j.c.shadows[v.Name]; jv.shadows == nil {
			jv.shadows = newShadows()
			j.c.shadows[v.Name] = jv.shadows
		}
		if err := jv.shadows.keepOnly(func(e *replication.Entry) bool { return jv.base.Get(e.Path) == e }); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	slices.SortFunc(j.vols, func(a, b *volume) int { return strings.Compare(a.Name, b.Name) })
	return j.c.forgetOthers(j.r.Volumes)
}

// close leaves nothing behind: neither open roots nor staged files.
func (j *job) close() error {
	var errs []error
	for _, v := range j.vols {
		for _, s := range v.aside {
			errs = append(errs, s.close())
		}
		for _, s := range v.brought {
			errs = append(errs, s.close())
		}
		errs = append(errs, v.emptyStage(), v.root.Close())
	}
	j.c.trimLayouts()
	return errors.Join(errs...)
}

// emptyStage makes the stage, and removes what a killed capture left there.
func (v *volume) emptyStage() error {
	rel, err := filepath.Rel(v.Path, v.StageDir)
	if err != nil || rel == "." || !strings.HasPrefix(rel, "..") {
		return fmt.Errorf("the stage %s must be outside of the volume %s", v.StageDir, v.Path)
	}
	if err := os.Mkdir(v.StageDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	left, err := os.ReadDir(v.StageDir)
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(v.StageDir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// compareWith prepares what a look compares with. The index counts only when
// it is of the base.
func (v *volume) compareWith(base *replication.Manifest, x *tree.Index) {
	v.early, v.unsure = newReadings(), map[string]struct{}{}
	if bv := base.Volume(v.Name); bv != nil {
		v.base = bv.Entries
	}
	if base == nil || x == nil || x.ID != base.ID {
		return
	}
	v.index = x.Volumes[v.Name]
	x.FindUnsure()
	for _, path := range x.Unsure[v.Name] {
		v.unsure[path] = struct{}{}
	}
}

// indexed says whether the index describes the base, so that what it does not
// show to have changed has not.
func (v *volume) indexed() bool { return v.base != nil && v.index != nil }

// look finds what must be read: by going through what the hints name where they are
// complete, else through the whole tree.
func (j *job) look(ctx context.Context) error {
	if err := j.c.hook.At("look"); err != nil {
		return err
	}
	j.at = j.c.now().UnixNano()
	hints, mapped := j.c.hints(j.r, j.looked)
	j.looked = true
	for _, v := range j.vols {
		h, sure := hints[v.Name]
		var err error
		if sure && !h.All && (v.now != nil || v.indexed()) {
			err = v.lookAt(ctx, h, mapped)
		} else {
			err = errWhole
		}
		if errors.Is(err, errWhole) {
			err = v.lookWhole(ctx)
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// lookWhole scans the tree.
func (v *volume) lookWhole(ctx context.Context) error {
	nodes, err := v.root.Scan(ctx)
	if err != nil {
		return err
	}
	v.begin()
	early := v.early.Clone()
	v.goneOf(nodes, func(yield func(string) bool) {
		for n := range v.index.All() {
			if !yield(n.Path) {
				return
			}
		}
	})
	v.goneOf(nodes, func(yield func(string) bool) {
		early.Ascend(func(r reading) bool { return yield(r.node.Path) })
	})
	// The index may hold less than the base: an apply that was taken up fills in only
	// what it touched.
	v.goneOf(nodes, func(yield func(string) bool) {
		for e := range v.base.All() {
			if !yield(e.Path) {
				return
			}
		}
	})
	// What is gone comes first: a hard link to it is another file's or its own now, also
	// where nothing of the link itself changed.
	for _, n := range nodes {
		v.found(n)
	}
	return nil
}

// goneOf notes those of paths that are not in nodes any more; both are in order.
func (v *volume) goneOf(nodes []*tree.Node, paths iter.Seq[string]) {
	for path := range paths {
		for len(nodes) > 0 && replication.ComparePaths(nodes[0].Path, path) < 0 {
			nodes = nodes[1:]
		}
		if len(nodes) == 0 || nodes[0].Path != path {
			v.vanished(path)
		}
	}
}

// begin starts from what the index says.
func (v *volume) begin() {
	v.now, v.dirty, v.gone = v.index.Clone(), newPaths(), map[string]struct{}{}
	for path := range v.unsure {
		v.dirty.ReplaceOrInsert(path)
	}
}

// found notes how a path is now.
func (v *volume) found(n *tree.Node) {
	if now, ok := v.now.Get(n.Path); !ok || now != n.Stat {
		v.now.Set(n)
		if !ok || now.Ino != n.Stat.Ino { // it was not in this volume when it was looked for
			delete(v.mapped, n.Stat.Ino)
		}
	}
	delete(v.gone, n.Path)
	v.dirty.Delete(n.Path)
	was, ok := v.index.Get(n.Path)
	old := v.base.Get(n.Path)
	if n.Stat.Type() == 0 { // a socket
		if old != nil {
			v.gone[n.Path] = struct{}{}
		}
		return
	}
	_, unsure := v.unsure[n.Path]
	if ok && was == n.Stat && !unsure && old != nil && old.Link == v.linksTo(*n) {
		v.notEarly(n.Path)
		return
	}
	if r, ok := v.earlyAt(n.Path); ok && r.node.Stat == n.Stat {
		return
	}
	v.notEarly(n.Path)
	v.dirty.ReplaceOrInsert(n.Path)
}

// vanished notes that a path is not there.
func (v *volume) vanished(path string) {
	v.now.Delete(path)
	v.dirty.Delete(path)
	v.notEarly(path)
	if v.base.Get(path) != nil {
		v.gone[path] = struct{}{}
	}
}

// todo is what is dirty, in order, while it may become less.
func (v *volume) todo() iter.Seq[string] {
	return func(yield func(string) bool) {
		v.mu.Lock()
		path, more := v.dirty.Min()
		v.mu.Unlock()
		for more && yield(path) {
			path, more = v.dirtyAfter(path)
		}
	}
}

func (v *volume) dirtyAfter(path string) (next string, more bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dirty.AscendGreaterOrEqual(path, func(p string) bool {
		next, more = p, p != path
		return !more
	})
	return next, more
}

// node is a path of now.
func (v *volume) node(path string) tree.Node {
	st, _ := v.now.Get(path)
	return tree.Node{Path: path, Stat: st}
}

// linksTo is, for a path of an inode that has several, the first of them where
// that is another: the one whose entry has content and metadata. Else "".
func (v *volume) linksTo(n tree.Node) string {
	if lead := v.now.Leader(n.Path, n.Stat); lead != n.Path {
		return lead
	}
	return ""
}

// unsettled: a write to it may have been going on when it was read.
func (j *job) unsettled(v *volume, path string) bool {
	st, ok := v.now.Get(path)
	return ok && st.Unsettled(j.at, j.c.settle)
}

// index is the result's index.
func (j *job) index(id replication.ID) *tree.Index {
	x := &tree.Index{ID: id, At: j.at, Volumes: map[string]*tree.Nodes{}, Unsure: map[string][]string{}}
	for _, v := range j.vols {
		x.Volumes[v.Name] = v.now
		// What was neither dirty nor read early was older than the look that the index came from.
		x.Unsure[v.Name] = v.unsettled
		for path := range v.todo() {
			if j.unsettled(v, path) {
				x.Unsure[v.Name] = append(x.Unsure[v.Name], path)
			}
		}
	}
	if j.r.Hints != nil {
		j.c.pending.next = x
	}
	return x
}
