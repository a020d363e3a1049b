package apply

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/tree"
)

// worker changes one tree from some entries to others. All it does is
// computed from the two, and each step makes a path what it has to be,
// whatever it was: so all of it can be done again after a kill.
type worker struct {
	root     *tree.Root
	near     *tree.Near // of root; while it runs
	g        Generations
	hook     durable.Hook
	from, to *replication.Entries
	stats    *tree.Nodes // of files whose content is as from says; for reuse
	res      *Result
	volume   string              // its name
	memory   *remembered         // nil: of no live tree
	fresh    bool                // from is what the tree is: nothing is in it that an interrupted apply left
	apart    bool                // content gets blocks of its own: those that a pack has may be the damaged ones
	changed  map[string]struct{} // paths whose stat is not what it was
	replaced map[string]struct{} // hard links, and paths that have some, that got a new inode: links to them are made again
	touched  map[string]struct{} // directories whose entries changed: their mtime is set again
}

// run: removals, then what is new or changed in order, then hard links to
// what was replaced, then the directories' metadata, because making files in them
// changes their mtimes, then the flags, because with them nothing else can be
// changed. put and del are how to differs from from.
func (w *worker) run(ctx context.Context, put []*replication.Entry, del []string) (err error) {
	w.near = w.root.Near()
	defer func() { err = errors.Join(err, w.near.Close()) }()
	w.changed, w.replaced, w.touched = map[string]struct{}{}, map[string]struct{}{}, map[string]struct{}{}
	w.memory.outdate(w.volume, put, del)
	if err := w.remove(ctx, put, del); err != nil {
		return err
	}
	for _, e := range put {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.entry(ctx, w.from.Get(e.Path), e); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
	}
	if err := w.relink(); err != nil {
		return err
	}
	for _, path := range w.directories(put) {
		if err := w.dir(w.from.Get(path), w.to.Get(path)); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	}
	return w.protect(put, del)
}

// renewed notes that e got a new inode, where that matters to hard links.
func (w *worker) renewed(e *replication.Entry) {
	linked := e.Link != ""
	for range w.to.LinksTo(e.Path) {
		linked = true
		break
	}
	if linked {
		w.replaced[e.Path] = struct{}{}
	}
}

// relink makes hard links again whose file is a new inode, and notes those whose
// file has other metadata: their stat is another too.
func (w *worker) relink() error {
	for path := range w.changed { // what is added on the way are links, and nothing links to those
		_, replaced := w.replaced[path]
		for l := range w.to.LinksTo(path) {
			if _, made := w.replaced[l]; made {
				continue
			}
			if !replaced {
				w.changed[l] = struct{}{}
				continue
			}
			if err := w.link(w.to.Get(l)); err != nil {
				return fmt.Errorf("%q: %w", l, err)
			}
		}
	}
	return nil
}

// directories are those to set the metadata of, what is below before what is above.
func (w *worker) directories(put []*replication.Entry) []string {
	dirs := maps.Clone(w.touched)
	for _, e := range put {
		if e.Type == replication.TypeDir {
			dirs[e.Path] = struct{}{}
		}
	}
	// One that was touched by a removal may be gone itself.
	maps.DeleteFunc(dirs, func(path string, _ struct{}) bool {
		e := w.to.Get(path)
		return e == nil || e.Type != replication.TypeDir
	})
	return slices.SortedFunc(maps.Keys(dirs), func(a, b string) int { return replication.ComparePaths(b, a) })
}

// remove removes what is not in to, and directories that become something else.
func (w *worker) remove(ctx context.Context, put []*replication.Entry, del []string) error {
	gone := map[string]struct{}{}
	for _, e := range put {
		if old := w.from.Get(e.Path); old != nil && old.Type == replication.TypeDir && e.Type != replication.TypeDir {
			gone[e.Path] = struct{}{}
		}
	}
	for _, path := range del {
		gone[path] = struct{}{}
	}
	for _, path := range slices.SortedFunc(maps.Keys(gone), replication.ComparePaths) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, above := gone[tree.Dir(path)]; !above {
			if err := w.hook.At("remove " + path); err != nil {
				return err
			}
			if err := w.root.RemoveAll(path); err != nil {
				return err
			}
			w.touch(path)
		}
		w.changed[path] = struct{}{}
		w.res.Changed++
	}
	return nil
}

// touch notes that path's directory gets another mtime by what is done to path.
func (w *worker) touch(path string) { w.touched[tree.Dir(path)] = struct{}{} }

func (w *worker) entry(ctx context.Context, old, e *replication.Entry) error {
	switch {
	case e.Type == replication.TypeDir:
		if old != nil && old.Type == replication.TypeDir {
			return nil
		}
		return w.mkdir(e)
	case e.Link != "":
		return w.link(e)
	case old == nil || !old.SameContent(e):
		if e.Type == replication.TypeFile {
			return w.file(ctx, old, e)
		}
		w.renewed(e)
		return w.place(e, func(temp string) error { return w.make(temp, e) })
	case !old.SameMeta(e):
		return w.meta(e)
	}
	return nil
}

func (w *worker) link(e *replication.Entry) error {
	w.renewed(e)
	return w.place(e, func(temp string) error { return w.root.Link(e.Link, temp) })
}

func (w *worker) mkdir(e *replication.Entry) error {
	if err := w.hook.At("mkdir " + e.Path); err != nil {
		return err
	}
	w.done(e.Path)
	if e.Path == "." {
		return nil
	}
	err := w.root.Mkdir(e.Path)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	st, err := w.root.Lstat(e.Path)
	if err != nil || st.Type() == replication.TypeDir {
		return err
	}
	if err := w.clear(e.Path); err != nil {
		return err
	}
	return w.root.Mkdir(e.Path)
}

func (w *worker) done(path string) {
	w.touch(path)
	w.changed[path] = struct{}{}
	w.res.Changed++
}

// tempName is where path's next content is written: the same name each time,
// so that what a kill left is overwritten when the work is done again.
func tempName(path string) string {
	sum := blake3.Sum256([]byte(path))
	return tree.Join(tree.Dir(path), ".understudy-"+hex.EncodeToString(sum[:12]))
}

// clear removes what is in the way at path.
func (w *worker) clear(path string) error {
	return errors.Join(w.near.Close(), w.root.RemoveAll(path))
}

// place makes e under a temporary name in its directory and renames it over what is there.
func (w *worker) place(e *replication.Entry, make func(temp string) error) error {
	if err := w.hook.At("make " + e.Path); err != nil {
		return err
	}
	w.touch(e.Path)
	temp := tempName(e.Path)
	err := make(temp)
	if errors.Is(err, unix.EEXIST) { // a kill left it
		if err = w.clear(temp); err == nil {
			err = make(temp)
		}
	}
	if err != nil {
		return errors.Join(err, w.root.RemoveAll(temp))
	}
	return w.rename(temp, e.Path, w.root.Rename)
}

func (w *worker) rename(temp, path string, rename func(from, to string) error) error {
	if err := w.hook.At("rename " + path); err != nil {
		return err
	}
	err := rename(temp, path)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTEMPTY) { // not as from says
		if err = w.clear(path); err == nil {
			err = rename(temp, path)
		}
	}
	if err != nil {
		return err
	}
	w.done(path)
	return nil
}

func (w *worker) make(temp string, e *replication.Entry) error {
	if err := w.root.Make(temp, e); err != nil {
		return err
	}
	return w.setMeta(temp, e)
}

func (w *worker) setMeta(path string, e *replication.Entry) error {
	refused, err := w.root.SetMeta(path, e)
	w.unkept(e.Path, false, refused)
	return err
}

// unkept notes what of a path's attributes, or of its flags, was refused in an attempt.
func (w *worker) unkept(path string, flags bool, refused []string) {
	w.res.Unkept.add(w.volume, path, refused)
	w.memory.set(w.volume, path, flags, refused)
}

func (w *worker) meta(e *replication.Entry) error {
	if err := w.hook.At("meta " + e.Path); err != nil {
		return err
	}
	w.changed[e.Path] = struct{}{}
	w.res.Changed++
	return w.setMeta(e.Path, e)
}

// dir sets a directory's metadata, or only its mtime where nothing else changed.
func (w *worker) dir(old, e *replication.Entry) error {
	if old == nil || !old.SameMeta(e) {
		return w.meta(e)
	}
	if _, ok := w.touched[e.Path]; !ok {
		return nil
	}
	if err := w.hook.At("mtime " + e.Path); err != nil {
		return err
	}
	w.changed[e.Path] = struct{}{}
	return w.root.SetMtime(e.Path, e.MtimeNs)
}
