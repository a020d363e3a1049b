package apply

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/tree"
)

// worker changes one tree from one list of entries to another. All it does is
// computed from the two lists, and each step makes a path what it has to be,
// whatever it was: so all of it can be done again after a kill.
type worker struct {
	root     *tree.Root
	g        Generations
	hook     durable.Hook
	stats    map[string]tree.Stat // of files whose content is as from says; for reuse
	res      *Result
	changed  map[string]struct{} // paths whose stat is not what it was
	replaced map[string]struct{} // paths that got a new inode: hard links to them are made again
	touched  map[string]struct{} // directories whose entries changed: their mtime is set again
}

// run: removals, then everything in order, then the directories' metadata,
// because making files in them changes their mtimes.
func (w *worker) run(ctx context.Context, from, to []replication.Entry) error {
	w.changed, w.replaced, w.touched = map[string]struct{}{}, map[string]struct{}{}, map[string]struct{}{}
	old := make(map[string]*replication.Entry, len(from))
	for i := range from {
		old[from[i].Path] = &from[i]
	}
	if err := w.remove(ctx, from, to); err != nil {
		return err
	}
	for i := range to {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.entry(ctx, old[to[i].Path], &to[i]); err != nil {
			return fmt.Errorf("%q: %w", to[i].Path, err)
		}
	}
	for _, e := range slices.Backward(to) {
		if e.Type != replication.TypeDir {
			continue
		}
		if err := w.dir(old[e.Path], &e); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
	}
	return nil
}

// remove removes what is not in to, and directories that become something else.
func (w *worker) remove(ctx context.Context, from, to []replication.Entry) error {
	want := make(map[string]replication.Type, len(to))
	for i := range to {
		want[to[i].Path] = to[i].Type
	}
	gone := map[string]struct{}{}
	for i := range from {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e := &from[i]
		t, ok := want[e.Path]
		if ok && (e.Type != replication.TypeDir || t == replication.TypeDir) {
			continue
		}
		if _, above := gone[tree.Dir(e.Path)]; !above {
			if err := w.hook.At("remove " + e.Path); err != nil {
				return err
			}
			if err := w.root.RemoveAll(e.Path); err != nil {
				return err
			}
			w.touch(e.Path)
		}
		gone[e.Path] = struct{}{}
		w.changed[e.Path] = struct{}{}
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
		if _, moved := w.replaced[e.Link]; !moved && old != nil && old.Link == e.Link {
			w.followed(e)
			return nil
		}
		return w.place(e, func(temp string) error { return w.root.Link(e.Link, temp) })
	case old == nil || !tree.SameContent(old, e):
		w.replaced[e.Path] = struct{}{}
		return w.place(e, func(temp string) error { return w.make(ctx, temp, old, e) })
	case !tree.SameMeta(old, e):
		return w.meta(e)
	}
	return nil
}

// followed: a link of a file whose metadata changed has another ctime too.
func (w *worker) followed(e *replication.Entry) {
	if _, ok := w.changed[e.Link]; ok {
		w.changed[e.Path] = struct{}{}
	}
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
	if err := w.root.RemoveAll(e.Path); err != nil {
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

// place makes e under a temporary name in its directory and renames it over what is there.
func (w *worker) place(e *replication.Entry, make func(temp string) error) error {
	if err := w.hook.At("make " + e.Path); err != nil {
		return err
	}
	temp := tempName(e.Path)
	if err := w.root.RemoveAll(temp); err != nil {
		return err
	}
	w.touch(e.Path)
	if err := make(temp); err != nil {
		return errors.Join(err, w.root.RemoveAll(temp))
	}
	if err := w.hook.At("rename " + e.Path); err != nil {
		return err
	}
	err := w.root.Rename(temp, e.Path)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTEMPTY) { // not as from says
		if err = w.root.RemoveAll(e.Path); err == nil {
			err = w.root.Rename(temp, e.Path)
		}
	}
	if err != nil {
		return err
	}
	w.done(e.Path)
	return nil
}

func (w *worker) make(ctx context.Context, temp string, old, e *replication.Entry) error {
	var err error
	if e.Type == replication.TypeFile {
		err = w.write(ctx, temp, old, e)
	} else {
		err = w.root.Make(temp, e)
	}
	if err != nil {
		return err
	}
	return w.setMeta(temp, e)
}

func (w *worker) setMeta(path string, e *replication.Entry) error {
	warnings, err := w.root.SetMeta(path, e)
	w.res.Warnings = append(w.res.Warnings, warnings...)
	return err
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
	if old == nil || !tree.SameMeta(old, e) {
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
