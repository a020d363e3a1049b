package apply

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// protect sets the flags of whatever may have lost them: tree.Root takes away those
// that are in the way of a change, and who is killed after that has to find the same
// paths again. So all that such a change can have been in the way of is looked at,
// and nothing is remembered.
func (w *worker) protect(put []*replication.Entry, del []string) error {
	paths := map[string]struct{}{}
	flagged := func(path string) {
		if e := w.to.Get(path); e != nil && e.Flags != 0 {
			paths[path] = struct{}{}
		}
	}
	for path := range w.changed {
		flagged(path)
	}
	for path := range w.touched {
		flagged(path)
	}
	links := func(e *replication.Entry) { // flags are the inode's, and so its first path's
		if e != nil && e.Link != "" {
			flagged(e.Link)
		}
	}
	for _, e := range put {
		flagged(e.Path)
		links(e)
		links(w.from.Get(e.Path))
	}
	for _, path := range del {
		links(w.from.Get(path))
	}
	for _, path := range slices.SortedFunc(maps.Keys(paths), replication.ComparePaths) {
		e := w.to.Get(path)
		if err := w.hook.At("flags " + path); err != nil {
			return err
		}
		w.changed[path] = struct{}{}
		err := w.root.SetFlags(path, e.Flags)
		var refused []string
		if errors.Is(err, tree.ErrNoFlags) {
			refused, err = []string{"immutable or append-only flag"}, nil
		}
		w.unkept(path, true, refused)
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	}
	return nil
}
