package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/apply"
	"github.com/understudy-ha/understudy/replication/store"
)

// Restore writes a generation of a service out of this node's store into dir, one
// folder per volume, verified by hash on the way: a diverged generation by the
// name that status shows it under, or a committed one by its ID. dir must not
// exist or be empty; live trees are not touched. No agent is needed. It returns
// what could not be written as it was.
func (k Kept) Restore(ctx context.Context, name, dir string) (warnings []string, err error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, api.Errorf(api.KindArgs, "name a directory that is empty or does not exist", "%s is not empty", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	st, err := k.open()
	if err != nil {
		return nil, err
	}
	defer st.Close()
	m, err := find(st, name)
	if err != nil {
		return nil, err
	}
	return apply.Materialize(ctx, oneGeneration{st, m}, m.ID, dir)
}

// find looks for a diverged generation of that name, then for a committed one.
func find(st *store.Store, name string) (*replication.Manifest, error) {
	diverged, err := st.Diverged()
	if err != nil {
		return nil, err
	}
	for _, d := range diverged {
		if d.Name == name {
			return st.LoadDiverged(name)
		}
	}
	id, err := replication.ParseID(name)
	if err == nil && !id.IsZero() {
		if m, err := st.Load(id); err == nil {
			return m, nil
		} else if !errors.Is(err, replication.ErrNotFound) {
			return nil, err
		}
	}
	return nil, api.Errorf(api.KindNotFound, "understudy status shows the diverged ones and the newest", "this node has no generation %q of service %s", name, st.Service())
}

// oneGeneration gives Materialize a manifest that is known already.
type oneGeneration struct {
	*store.Store
	m *replication.Manifest
}

func (g oneGeneration) Load(replication.ID) (*replication.Manifest, error) { return g.m, nil }
