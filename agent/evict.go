package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/cgroup"
	"github.com/understudy-ha/understudy/agent/service"
	"github.com/understudy-ha/understudy/agent/vip"
)

// EvictOptions of an offline stop.
type EvictOptions struct {
	RunDir string // default api.RunDir
	Store  string // default api.DefaultStore
	Logger *slog.Logger
}

// Evict is the offline stop of a service (`understudy evict`): neither the agent
// nor Podman is asked. It ends what runs of the service's containers, takes its
// addresses off, and says what proves that none is left. What to look for comes
// from the record that the agent left in RunDir and the one it keeps in its
// store; without either, the service never ran here.
func Evict(ctx context.Context, name string, o EvictOptions) (string, error) {
	if o.RunDir == "" {
		o.RunDir = api.RunDir
	}
	if o.Store == "" {
		o.Store = api.DefaultStore
	}
	spec, ids, err := remembered(name, o)
	if err != nil {
		return "", err
	}
	if len(spec.Containers) == 0 {
		return fmt.Sprintf("service %s was never on this node", name), nil
	}
	m := vip.New(vip.Options{Logger: o.Logger})
	defer m.Close()
	// The address first: without it no client reaches a container that lingers.
	verr := addresses{manager: m}.Remove(ctx, spec)
	evidence, err := cgroup.NewHost(cgroup.Options{Log: o.Logger}).Evict(ctx, cgroup.EvictRequest{Names: spec.Containers, IDs: ids})
	if err := errors.Join(verr, err); err != nil {
		return "", fmt.Errorf("service %s is not off this node: %w", name, err)
	}
	// An agent that returns must not think the service active here.
	if err := service.MarkStopped(stateDir(o.Store), name); err != nil {
		o.Logger.Error("the service is off, but its record still says otherwise", "error", err)
	}
	return fmt.Sprintf("service %s is off this node: %s", name, evidence), nil
}

// remembered collects containers and addresses from both records: either may be
// the newer one after a crash.
func remembered(name string, o EvictOptions) (api.Spec, []string, error) {
	spec, err := service.Remembered(stateDir(o.Store), name)
	if err != nil {
		return spec, nil, err
	}
	local, err := api.ReadRecord(o.RunDir, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return spec, nil, err
	}
	var ids []string
	for _, c := range local.Containers {
		if !slices.Contains(spec.Containers, c.Name) {
			spec.Containers = append(spec.Containers, c.Name)
		}
		if strings.TrimSpace(c.ID) != "" {
			ids = append(ids, c.ID)
		}
	}
	for _, a := range local.Addresses {
		if !slices.Contains(spec.VIPs, a) {
			spec.VIPs = append(spec.VIPs, a)
		}
	}
	return spec, ids, nil
}
