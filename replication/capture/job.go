package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// racy is how much older than a scan a file's ctime must be for the next scan
// to tell a later change: a few ticks of the slowest kernel clock (10 ms).
const racy = 20 * time.Millisecond

// quiet is how long a file must have been at rest to be worth reading before
// the freeze. More than racy.
const quiet = 200 * time.Millisecond

// job is one attempt at a capture.
type job struct {
	c    *Capturer
	r    Request
	at   int64 // Unix ns, before the last look
	vols []*volume
	res  *Result
}

// volume is one tree of a job.
type volume struct {
	Volume
	root  *tree.Root
	base  map[string]*replication.Entry // of Base; empty when it cannot be compared with
	index map[string]tree.Stat          // of Index, what can be trusted of it
	racy  map[string]struct{}           // of Index, what looks the same but may have changed
	nodes []tree.Node                   // of the last look, without sockets
	skip  int                           // sockets seen
	dirty []int                         // nodes that must be read, of the last look
	gone  int                           // entries of base that are not there any more
	early map[string]reading            // read before the freeze
	aside []*staged                     // set aside in the freeze
}

// reading is an entry with its content, and the stat it was read at.
type reading struct {
	stat  tree.Stat
	entry replication.Entry
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
		jv := &volume{Volume: v, root: root, early: map[string]reading{}}
		j.vols = append(j.vols, jv)
		if err := jv.emptyStage(); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		jv.compareWith(j.r.Base, j.r.Index)
	}
	slices.SortFunc(j.vols, func(a, b *volume) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// close leaves nothing behind: neither open roots nor staged files.
func (j *job) close() error {
	var errs []error
	for _, v := range j.vols {
		for _, s := range v.aside {
			errs = append(errs, s.close())
		}
		errs = append(errs, v.emptyStage(), v.root.Close())
	}
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
	v.base, v.index, v.racy = map[string]*replication.Entry{}, map[string]tree.Stat{}, map[string]struct{}{}
	if base == nil {
		return
	}
	for i := range base.Volumes {
		if base.Volumes[i].Name != v.Name {
			continue
		}
		es := base.Volumes[i].Entries
		for k := range es {
			v.base[es[k].Path] = &es[k]
		}
	}
	if x == nil || x.ID != base.ID {
		return
	}
	for _, n := range x.Volumes[v.Name] {
		v.index[n.Path] = n.Stat
		if n.Stat.CtimeNs >= x.At-int64(racy) {
			v.racy[n.Path] = struct{}{}
		}
	}
}

// look scans all trees by stat and finds what must be read.
func (j *job) look(ctx context.Context) error {
	j.at = j.c.now().UnixNano()
	for _, v := range j.vols {
		nodes, err := v.root.Scan(ctx)
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		v.nodes = slices.DeleteFunc(nodes, func(n tree.Node) bool { return n.Stat.Type() == 0 })
		v.skip = len(nodes) - len(v.nodes)
		v.compare()
	}
	return nil
}

// compare finds the dirty nodes: those that differ from the index or may, and
// those whose base entry has no content because another path had it.
func (v *volume) compare() {
	v.dirty, v.gone = nil, 0
	leads := v.leaders()
	known := 0
	for i, n := range v.nodes {
		old, inBase := v.base[n.Path]
		if inBase {
			known++
		}
		if lead, linked := leads[inode(n)]; linked && lead != n.Path {
			continue // a hard link: its leader is read
		}
		_, unsure := v.racy[n.Path]
		if st, ok := v.index[n.Path]; inBase && ok && st == n.Stat && !unsure && old.Link == "" {
			continue
		}
		v.dirty = append(v.dirty, i)
	}
	v.gone = len(v.base) - known
}

type inodeKey struct{ dev, ino uint64 }

func inode(n tree.Node) inodeKey { return inodeKey{n.Stat.Dev, n.Stat.Ino} }

// leaders is, for inodes with several paths, the first of them: the one whose
// entry has content and metadata.
func (v *volume) leaders() map[inodeKey]string {
	m := map[inodeKey]string{}
	for _, n := range v.nodes {
		if n.Stat.Nlink > 1 && n.Stat.Type() != replication.TypeDir {
			if _, ok := m[inode(n)]; !ok {
				m[inode(n)] = n.Path
			}
		}
	}
	return m
}

// index is the result's index; racy nodes are told by At.
func (j *job) index(id replication.ID) *tree.Index {
	x := &tree.Index{ID: id, At: j.at, Volumes: map[string][]tree.Node{}}
	for _, v := range j.vols {
		x.Volumes[v.Name] = v.nodes
	}
	return x
}
