package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"

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
