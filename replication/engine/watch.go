package engine

import (
	"maps"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/capture"
	"github.com/understudy-ha/understudy/replication/watch"
)

// watcher tells captures where the live trees of an active service changed.
type watcher struct {
	w     *watch.Watcher // nil: it cannot be had for these roots; every capture looks at everything
	roots map[string]string
}

// hints are for a capture of running containers, and for the last one when they
// have ended; nil where there are none to be had. Nobody else writes to a
// service's trees, so a standby needs none.
func (e *Engine) hints(r replication.SealRequest) capture.Hints {
	running := r.Freezer != nil || r.Loose
	if !running && (e.watcher == nil || !maps.Equal(e.watcher.roots, r.Roots)) {
		return nil
	}
	if e.watcher == nil || !maps.Equal(e.watcher.roots, r.Roots) {
		e.unwatch()
		e.watcher = &watcher{roots: maps.Clone(r.Roots)}
		w, err := watch.New(watch.Options{Logger: e.log})
		for name, root := range r.Roots {
			if err == nil {
				err = w.Add(name, root)
			}
		}
		if err != nil {
			e.log.Warn("changes are not told by the kernel here, so every cycle looks at every file", "error", err)
			if w != nil {
				e.closeWatch(w)
			}
		} else {
			e.watcher.w = w
		}
	}
	if e.watcher.w == nil {
		return nil
	}
	return e.watcher.w
}

// unwatch is for when containers do not write any more, or others do.
func (e *Engine) unwatch() {
	if e.watcher != nil && e.watcher.w != nil {
		e.closeWatch(e.watcher.w)
	}
	e.watcher = nil
}

func (e *Engine) closeWatch(w *watch.Watcher) {
	if err := w.Close(); err != nil {
		e.log.Warn("a watch on the live trees was not closed", "error", err)
	}
}
