package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/apply"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/store"
)

// unfinished is in a directory while a restore writes to it: one that was
// interrupted can be gone on with, and is not taken for a whole one.
const unfinished = ".understudy-restore"

// restoring is what it holds.
type restoring struct {
	Service    string `json:"service"`
	Generation string `json:"generation"`
	Sum        string `json:"sum"` // of the content
}

// Restore writes a generation of a service out of this node's store into dir, one
// folder per volume, verified by hash on the way: a diverged generation by the
// name that history shows it under, or a committed one by its ID. dir must not
// exist, be empty, or be what an interrupted restore of the same left: that is
// gone on with, and what it had written is verified. Live trees are not touched. It
// returns what could not be written as it was.
func (k Kept) Restore(ctx context.Context, name, dir string) (warnings []string, err error) {
	st, err := k.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	m, err := find(st, name)
	if err != nil {
		return nil, err
	}
	if err := beginRestore(dir, restoring{k.Service, name, m.Sum().String()}); err != nil {
		return nil, err
	}
	if !m.Diverged { // it could be pruned meanwhile
		if err := st.Pin(m.ID, pinnedForRestore); err != nil {
			return nil, err
		}
	}
	unkept, err := apply.Materialize(ctx, oneGeneration{st, m}, m.ID, dir)
	if what := unkept.String(); what != "" {
		warnings = append(warnings, "not taken by the system here: "+what)
	}
	if err != nil {
		return warnings, fmt.Errorf("%w; the same command goes on where this one stopped", err)
	}
	if err := durable.Remove(filepath.Join(dir, unfinished), nil); err != nil {
		return warnings, err
	}
	return warnings, letGo(st, m.ID)
}

const pinnedForRestore = "a restore of it is not finished"

// letGo unpins what a restore had pinned.
func letGo(st *store.Store, id replication.ID) error {
	pins, err := st.Pins()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(pins, func(p store.Pin) bool { return p.ID == id && p.Why == pinnedForRestore }) {
		return st.Unpin(id)
	}
	return nil
}

// beginRestore makes sure that nothing foreign is written over, and marks dir.
func beginRestore(dir string, r restoring) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	mark := filepath.Join(dir, unfinished)
	if len(entries) == 0 {
		return durable.WriteFile(mark, b, 0o600, nil)
	}
	old, err := os.ReadFile(mark)
	if errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.KindArgs, "name a directory that is empty or does not exist", "%s is not empty", dir)
	}
	if err == nil && string(old) != string(b) {
		return api.Errorf(api.KindArgs, "finish that one, or name another directory", "%s holds an unfinished restore of something else: %s", dir, old)
	}
	return err
}

// find looks for a diverged generation of that name, then for a committed one;
// "head" is the newest.
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
	if name == "head" {
		id, err = st.Head()
	}
	if err == nil && !id.IsZero() {
		if m, err := st.Load(id); err == nil {
			return m, nil
		} else if !errors.Is(err, replication.ErrNotFound) {
			return nil, err
		}
	}
	return nil, api.Errorf(api.KindNotFound, "understudy history lists them", "this node has no generation %q of service %s", name, st.Service())
}

// oneGeneration gives Materialize a manifest that is known already.
type oneGeneration struct {
	*store.Store
	m *replication.Manifest
}

func (g oneGeneration) Load(replication.ID) (*replication.Manifest, error) { return g.m, nil }
