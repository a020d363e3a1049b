package agent

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/apply"
	"github.com/understudy-ha/understudy/replication/store"
)

// Kept is what a node keeps of a service. It is looked at in the store itself:
// no agent is needed, and one that runs is not disturbed.
type Kept struct {
	Store   string // root of the stores
	Service string
	Logger  *slog.Logger
}

// open opens the service's store, which must be there.
func (k Kept) open() (*store.Store, error) {
	if !api.ValidServiceName(k.Service) {
		return nil, api.Errorf(api.KindArgs, "understudy status lists the services", "%q is not a service's name", k.Service)
	}
	if _, err := os.Stat(filepath.Join(k.Store, "services", k.Service)); err != nil {
		return nil, api.Errorf(api.KindNotFound, "understudy status lists the services", "no service %s in the store %s", k.Service, k.Store)
	}
	return store.Open(k.Store, k.Service, store.Options{Logger: k.Logger})
}

// live are the generations that the live trees are at, or are being brought from or to.
func (k Kept) live(st *store.Store) (applied replication.ID, between []replication.ID, err error) {
	a, err := apply.New(filepath.Join(k.Store, "live", k.Service), st, apply.Options{Logger: k.Logger})
	if err != nil {
		return applied, nil, err
	}
	j, err := a.Pending()
	if err != nil || j != nil {
		if j != nil {
			between = []replication.ID{j.From, j.To}
		}
		return applied, between, err
	}
	applied, err = a.Applied()
	return applied, []replication.ID{applied}, err
}

// History lists what is kept. It costs what reading the oldest generation and the
// changes since costs.
func (k Kept) History() (res api.History, err error) {
	st, err := k.open()
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	list, err := st.History()
	if err != nil {
		return res, err
	}
	pins, err := st.Pins()
	if err != nil {
		return res, err
	}
	suspects, err := st.Suspects()
	if err != nil {
		return res, err
	}
	applied, _, err := k.live(st)
	if err != nil {
		return res, err
	}
	head, err := st.Head()
	if err != nil {
		return res, err
	}
	res = api.History{Service: k.Service, Head: head.String(), Applied: applied.String(), Generations: []api.Generation{}, Diverged: []api.Generation{}}
	var before *replication.Manifest
	var g api.Generation
	for _, c := range list {
		m, err := st.Load(c.ID)
		if errors.Is(err, replication.ErrNotFound) {
			continue // pruned meanwhile
		}
		if err != nil {
			return res, err
		}
		g = describe(m, before, g)
		g.At, g.Head, g.Applied = c.At, c.ID == head, c.ID == applied
		if i := slices.IndexFunc(pins, func(p store.Pin) bool { return p.ID == c.ID }); i >= 0 {
			g.Pinned = pins[i].Why
		}
		g.Suspect = ""
		if i := slices.IndexFunc(suspects, func(r store.Suspect) bool { return r.Holds(c.ID) }); i >= 0 {
			g.Suspect = suspects[i].Why
		}
		res.Generations = append(res.Generations, g)
		before = m
	}
	if res.Diverged, err = archived(st); err != nil {
		return res, err
	}
	res.StoreBytes, err = diskUse(st.Dir())
	return res, err
}

// describe tells of a generation, given the one before it in the list, and what was told of that.
func describe(m, before *replication.Manifest, told api.Generation) api.Generation {
	g := api.Generation{ID: m.ID.String(), Parent: m.Parent.String(), CapturedAt: m.CapturedAt, Final: m.Final, Loose: m.Loose}
	if before == nil {
		for i := range m.Volumes {
			for e := range m.Volumes[i].Entries.All() {
				g.Entries++
				g.Size += e.Size
				g.New += replication.Fresh(nil, e.Chunks)
			}
		}
		g.Changed = g.Entries
		return g
	}
	g.Entries, g.Size = told.Entries, told.Size
	for _, c := range m.Compare(before) {
		g.Changed++
		g.New += c.Bytes
		g.Size += sizeOf(c.After) - sizeOf(c.Before)
		switch {
		case c.Before == nil:
			g.Entries++
		case c.After == nil:
			g.Entries--
		}
	}
	return g
}

func archived(st *store.Store) ([]api.Generation, error) {
	list, err := st.Diverged()
	if err != nil {
		return nil, err
	}
	out := []api.Generation{}
	for _, d := range list {
		m, err := st.LoadDiverged(d.Name)
		if err != nil {
			return nil, err
		}
		g := describe(m, nil, api.Generation{})
		g.ID, g.At = d.Name, d.At
		g.Changed, g.New = 0, 0
		out = append(out, g)
	}
	return out, nil
}

// diskUse is how much a directory takes on disk, bytes.
func diskUse(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return nil // it went meanwhile
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			total += st.Blocks * 512
		}
		return nil
	})
	return total, err
}

// Pin keeps a generation whatever the retention says, until Unpin.
func (k Kept) Pin(name, why string) error {
	return k.pin(name, func(st *store.Store, id replication.ID) error { return st.Pin(id, cmp.Or(why, "by hand")) })
}

// Release says that what is suspect is not, or was dealt with.
func (k Kept) Release() (released []store.Suspect, err error) {
	st, err := k.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	released, err = st.Release()
	if errors.Is(err, replication.ErrNotFound) {
		err = api.Errorf(api.KindNotFound, "understudy status shows on which node there is", "nothing of service %s is suspect on this node", k.Service)
	}
	return released, err
}

// Unpin leaves a generation to the retention again.
func (k Kept) Unpin(name string) error {
	return k.pin(name, func(st *store.Store, id replication.ID) error {
		err := st.Unpin(id)
		if errors.Is(err, replication.ErrNotFound) {
			return api.Errorf(api.KindNotFound, "understudy history shows which are", "generation %s of %s is not pinned", id, k.Service)
		}
		return err
	})
}

func (k Kept) pin(name string, do func(*store.Store, replication.ID) error) (err error) {
	st, err := k.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	m, err := find(st, name)
	if err != nil {
		return err
	}
	if m.Diverged {
		return api.Errorf(api.KindArgs, "", "%s is an archived generation: those are always kept", name)
	}
	return do(st, m.ID)
}

// Prune applies the policy now; dry: it only says what that would do.
func (k Kept) Prune(policy store.Policy, dry bool) (res api.PruneResult, err error) {
	st, err := k.open()
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if _, policy.Applied, err = k.live(st); err != nil {
		return res, err
	}
	prune := st.Prune
	if dry {
		prune = st.PlanPrune
	}
	out, err := prune(policy)
	if err != nil {
		return res, err
	}
	left, err := st.Generations()
	res = api.PruneResult{Service: k.Service, DryRun: dry, Generations: []string{}, Kept: len(left), Packs: out.Packs, Bytes: out.Bytes}
	for _, id := range out.Generations {
		res.Generations = append(res.Generations, id.String())
	}
	if dry {
		res.Kept -= len(out.Generations)
	}
	return res, err
}
