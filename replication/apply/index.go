package apply

import (
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// saveEvery is how often the index is written out by itself. One that is older
// than the trees only costs reads.
const saveEvery = time.Minute

// liveIndex is a tree.Index that is kept up to date path by path.
type liveIndex struct {
	at   int64
	vols map[string]map[string]tree.Stat
}

// loadLive reads the saved index when it is of the generation the trees are at.
func loadLive(path string, at *replication.Manifest) *liveIndex {
	l := &liveIndex{vols: map[string]map[string]tree.Stat{}}
	x := tree.LoadIndex(path)
	if x == nil || at == nil || x.ID != at.ID {
		return l
	}
	l.at = x.At
	for name, nodes := range x.Volumes {
		for _, n := range nodes {
			l.volume(name)[n.Path] = n.Stat
		}
	}
	return l
}

func (l *liveIndex) volume(name string) map[string]tree.Stat {
	m := l.vols[name]
	if m == nil {
		m = map[string]tree.Stat{}
		l.vols[name] = m
	}
	return m
}

// update takes the stat of what was changed, or of everything. A path without
// one is read at the next capture. Nobody but apply writes to a standby's
// trees, so what was changed in earlier applies needs no second look.
func (l *liveIndex) update(now time.Time, root *tree.Root, v *replication.Volume, changed map[string]struct{}, all bool) error {
	l.at = now.UnixNano()
	m := l.volume(v.Name)
	if all {
		clear(m)
		for i := range v.Entries {
			changed[v.Entries[i].Path] = struct{}{}
		}
	}
	for path := range changed {
		st, err := root.Lstat(path)
		switch {
		case err == nil:
			m[path] = st
		case tree.Vanished(err):
			delete(m, path)
		default:
			return err
		}
	}
	return nil
}

func (l *liveIndex) index(id replication.ID) *tree.Index {
	x := &tree.Index{ID: id, At: l.at, Volumes: map[string][]tree.Node{}}
	for name, m := range l.vols {
		nodes := make([]tree.Node, 0, len(m))
		for path, st := range m {
			nodes = append(nodes, tree.Node{Path: path, Stat: st})
		}
		slices.SortFunc(nodes, func(a, b tree.Node) int { return tree.ComparePaths(a.Path, b.Path) })
		x.Volumes[name] = nodes
	}
	return x
}

// Index is what the live trees looked like to stat when they were at the
// generation it names, for the first capture after a promotion. It stays true
// after SetApplied(none): it says what was, and a capture compares. Nil when it
// is not known; then everything is read once.
func (a *Applier) Index() *tree.Index {
	a.mu.Lock()
	defer a.mu.Unlock()
	if j, err := a.pendingLocked(); err != nil || j != nil {
		return nil
	}
	id, err := a.appliedLocked()
	switch {
	case err != nil:
		return nil
	case id.IsZero():
		return a.left
	case a.index != nil:
		return a.index.index(id)
	}
	if x := tree.LoadIndex(a.IndexPath()); x != nil && x.ID == id {
		return x
	}
	return nil
}

// SaveIndex makes the index durable, so that it outlives the process. It is
// also saved about once a minute by itself.
func (a *Applier) SaveIndex() error {
	x := a.Index()
	if x == nil {
		return nil
	}
	return x.Save(a.IndexPath())
}

func (a *Applier) saveIndexLocked(id replication.ID) {
	if now := a.o.Now(); now.Sub(a.saved) >= saveEvery {
		a.saved = now
		if err := a.index.index(id).Save(a.IndexPath()); err != nil {
			a.o.Logger.Warn("the index of the live trees was not saved; a promotion after a restart reads everything once", "error", err)
		}
	}
}
