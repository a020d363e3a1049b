package capture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/watch"
)

// fullEvery is how often the whole trees are looked at although the hints say
// where: a hint is a hint.
const fullEvery = 10 * time.Minute

// Hints is what a capture asks for where to look; *watch.Watcher is one.
type Hints interface {
	Take() watch.Hints
}

// pending are hints that no index covers yet. A capture takes them from where they
// come from, and may be dropped, or its generation may not be committed: only the
// index that the next capture starts from tells what is covered.
type pending struct {
	since *tree.Index // the hints are of what changed after it
	next  *tree.Index // the last result's: where that is what the next capture starts from, all is covered
	hints watch.Hints
	whole time.Time // of the last look at everything
}

// hints gives where to look, and the inodes to look at whatever the hints say. No
// hint of a volume: look at everything. again: since the last look of the same
// capture, else since the index that the capture starts from.
func (c *Capturer) hints(r Request, again bool) (watch.Hints, map[uint64]struct{}) {
	if r.Hints == nil {
		return nil, nil
	}
	// The mappings come first: of what is mapped from now on, the next look knows.
	mapped, err := mappedBy(r.Processes)
	told := r.Hints.Take()
	out := watch.Hints{}
	p := &c.pending
	switch {
	case again:
	case r.Index == nil || r.Index != p.next && r.Index != p.since || c.now().Sub(p.whole) > fullEvery:
		p.since, p.hints, p.whole = r.Index, allOf(r), c.now()
	case r.Index == p.next:
		p.since, p.hints = p.next, watch.Hints{}
	}
	p.next = nil
	merge(p.hints, told)
	if err != nil {
		c.log.Warn("the mappings of the service's processes cannot be read; looking at all files instead", "error", err)
		return nil, nil
	}
	if !again {
		told = p.hints
	}
	for _, v := range r.Volumes {
		out[v.Name] = told[v.Name]
	}
	return out, mapped
}

// mappedIn is what is remembered of the mapped files of a volume.
func (c *Capturer) mappedIn(volume string) map[uint64]string {
	if c.mapped[volume] == nil {
		c.mapped[volume] = map[uint64]string{}
	}
	return c.mapped[volume]
}

// mappedBy lists inode numbers only: a device's number in /proc is not what stat
// says of it on every file system, and one look too many does no harm.
func mappedBy(processes func() ([]int, error)) (map[uint64]struct{}, error) {
	if processes == nil {
		return nil, nil
	}
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	mapped, err := watch.Mapped(pids)
	inos := make(map[uint64]struct{}, len(mapped))
	for m := range mapped {
		inos[m.Ino] = struct{}{}
	}
	return inos, err
}

func allOf(r Request) watch.Hints {
	h := watch.Hints{}
	for _, v := range r.Volumes {
		h[v.Name] = watch.VolumeHints{All: true}
	}
	return h
}

func merge(into, from watch.Hints) {
	for name, h := range from {
		sum := into[name]
		sum.Merge(h)
		into[name] = sum
	}
}

// errWhole: only a look at the whole tree can tell.
var errWhole = errors.New("the whole tree must be looked at")

// lookAt looks at the paths that hints name, their directories, and what changes
// without a hint: files that are mapped, and inodes with several names, which may
// be written to through one outside of the volume.
func (v *volume) lookAt(ctx context.Context, h watch.VolumeHints, mapped map[uint64]struct{}) error {
	if v.now == nil {
		v.begin()
	}
	look := map[string]struct{}{".": {}}
	for path := range h.Paths {
		look[path], look[tree.Dir(path)] = struct{}{}, struct{}{}
	}
	for path := range v.unsure {
		look[path] = struct{}{}
	}
	for path := range v.now.AllLinked() {
		look[path] = struct{}{}
	}
	v.addMapped(look, mapped)
	for _, path := range slices.SortedFunc(maps.Keys(look), replication.ComparePaths) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := v.lookAtPath(ctx, path, h.Trees); err != nil {
			return err
		}
	}
	return nil
}

// addMapped finds the paths of mapped inodes. The whole tree is gone through for
// one that was not met before.
func (v *volume) addMapped(look map[string]struct{}, mapped map[uint64]struct{}) {
	maps.DeleteFunc(v.mapped, func(ino uint64, _ string) bool {
		_, ok := mapped[ino]
		return !ok
	})
	missing := false
	for ino := range mapped {
		path, known := v.mapped[ino]
		if st, ok := v.now.Get(path); known && (path == "" || ok && st.Ino == ino) {
			continue
		}
		v.mapped[ino] = ""
		missing = true
	}
	if missing {
		for n := range v.now.All() {
			if _, ok := mapped[n.Stat.Ino]; ok {
				v.mapped[n.Stat.Ino] = n.Path
			}
		}
	}
	for _, path := range v.mapped {
		if path != "" {
			look[path] = struct{}{}
		}
	}
}

// lookAtPath notes what a path is now, and what is below it where it is a
// directory that was not there before, or one of trees.
func (v *volume) lookAtPath(ctx context.Context, path string, trees map[string]struct{}) error {
	st, err := v.root.Lstat(path)
	if err != nil && !tree.Vanished(err) {
		return fmt.Errorf("%q: %w", path, err)
	}
	was, known := v.now.Get(path)
	isDir := err == nil && st.Type() == replication.TypeDir
	_, anew := trees[path]
	same := !anew && known && isDir && was.Type() == replication.TypeDir && was.Ino == st.Ino
	if !same {
		v.vanishedBelow(path)
	}
	if err != nil {
		v.vanished(path)
		return nil
	}
	if path != "." {
		if dir, ok := v.now.Get(tree.Dir(path)); !ok || dir.Type() != replication.TypeDir {
			return errWhole
		}
	}
	if st.Linked() && (!known || was.Nlink != st.Nlink) {
		return errWhole // another name of it may lie anywhere in the tree, and says nothing
	}
	if !isDir || same {
		v.found(&tree.Node{Path: path, Stat: st})
		return nil
	}
	nodes, err := v.root.ScanBelow(ctx, path)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Stat.Linked() {
			return errWhole
		}
		v.found(n)
	}
	return nil
}

func (v *volume) vanishedBelow(path string) {
	var below []string
	for n := range v.now.Below(path) {
		below = append(below, n.Path)
	}
	for _, p := range below {
		v.vanished(p)
	}
}
