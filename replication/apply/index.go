package apply

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// saveEvery is how often the index is written out by itself, the less often the
// more there is in it: a million files make it 18 minutes. One that is older
// than the trees only costs reads.
const (
	saveEvery = time.Minute
	saveEach  = time.Millisecond
)

// liveIndex is a tree.Index that is kept up to date path by path.
type liveIndex struct {
	at   int64
	vols map[string]*tree.Nodes
}

// loadLive reads the saved index when it is of the generation the trees are at.
func loadLive(path string, at *replication.Manifest) *liveIndex {
	l := &liveIndex{vols: map[string]*tree.Nodes{}}
	x := tree.LoadIndex(path)
	if x == nil || at == nil || x.ID != at.ID {
		return l
	}
	l.at = x.At
	l.vols = x.Volumes
	return l
}

func (l *liveIndex) len() (n int) {
	for _, ns := range l.vols {
		n += ns.Len()
	}
	return n
}

func (l *liveIndex) volume(name string) *tree.Nodes {
	if l.vols[name] == nil {
		l.vols[name] = tree.NewNodes()
	}
	return l.vols[name]
}

// update takes the stat of what was changed, or of everything. A path without
// one is read at the next capture. Nobody but apply writes to a standby's
// trees, so what was changed in earlier applies needs no second look.
func (l *liveIndex) update(now time.Time, root *tree.Root, v *replication.Volume, changed map[string]struct{}, all bool) (err error) {
	l.at = now.UnixNano()
	ns := l.volume(v.Name)
	if all {
		ns = tree.NewNodes()
		l.vols[v.Name] = ns
		for e := range v.Entries.All() {
			changed[e.Path] = struct{}{}
		}
	}
	near := root.Near()
	defer func() { err = errors.Join(err, near.Close()) }()
	for _, path := range slices.SortedFunc(maps.Keys(changed), replication.ComparePaths) {
		st, err := near.Lstat(path)
		switch {
		case err == nil:
			ns.Set(&tree.Node{Path: path, Stat: st})
		case tree.Vanished(err):
			ns.Delete(path)
		default:
			return err
		}
	}
	return nil
}

// index is a copy that stays as it is.
func (l *liveIndex) index(id replication.ID) *tree.Index {
	x := &tree.Index{ID: id, At: l.at, Volumes: map[string]*tree.Nodes{}}
	for name, ns := range l.vols {
		x.Volumes[name] = ns.Clone()
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
	if j, err := a.Pending(); err != nil || j != nil {
		return nil
	}
	id, err := a.Applied()
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
	if now := a.o.Now(); now.Sub(a.saved) >= saveEvery+time.Duration(a.index.len())*saveEach {
		a.saved = now
		if err := a.index.index(id).Save(a.IndexPath()); err != nil {
			a.o.Logger.Warn("the index of the live trees was not saved; a promotion after a restart reads everything once", "error", err)
		}
	}
}
