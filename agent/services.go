package agent

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/service"
	"github.com/understudy-ha/understudy/replication/engine"
)

// running is one service with the engine that holds its data.
type running struct {
	*service.Service
	engine *engine.Engine
	scrub  *scrubber
}

// openService makes the state machine of a service, with its store.
func (a *Agent) openService(name string) (*running, error) {
	e, err := engine.Open(engine.Options{Root: a.conf.Store, Service: name, Retention: a.conf.Retention, Spare: a.conf.Spare, Logger: a.log.With("service", name)})
	if err != nil {
		return nil, err
	}
	s, err := service.Open(name, a.serviceOptions(e))
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	r := &running{Service: s, engine: e}
	r.scrub = newScrubber(s, e, a.conf.Scrub.Every, a.conf.Scrub.Rate, a.busy, a.log.With("service", name))
	return r, nil
}

func (a *Agent) serviceOptions(replica service.Replica) service.Options {
	return service.Options{
		Node: a.conf.Node, Dir: stateDir(a.conf.Store), RunDir: a.opts.RunDir,
		Runtime: a.runtime, Procs: a.procs, VIP: a.addresses, Cluster: a.cluster,
		Replica: replica, Peers: a.peers, Gossip: a.gossip, Journal: a.journal, Logger: a.log, Crash: a.opts.Crash,
	}
}

// stateDir is where the services' records are.
func stateDir(store string) string { return filepath.Join(store, "state") }

// service finds a service by its name, and takes it in when make is set.
func (a *Agent) service(name string, make bool) (*running, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s, ok := a.services[name]; ok {
		return s, nil
	}
	if !make {
		return nil, api.Errorf(api.KindNotFound, "understudy status lists what this node knows", "no service %s on %s", name, a.conf.Node)
	}
	s, err := a.openService(name)
	if err != nil {
		return nil, err
	}
	a.services[name] = s
	if a.background != nil {
		s.scrub.start(a.background)
	}
	return s, nil
}

// list is the services by name.
func (a *Agent) list() []*running {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*running
	for _, s := range a.services {
		out = append(out, s)
	}
	slices.SortFunc(out, func(x, y *running) int { return strings.Compare(x.Name(), y.Name()) })
	return out
}

// engineOf is where shipping finds a service's store.
func (a *Agent) engineOf(name string) (*engine.Engine, error) {
	s, err := a.service(name, false)
	if err != nil {
		return nil, err
	}
	return s.engine, nil
}

// Do carries out an action of the resource agent. Only a start takes a service
// in that was never heard of: to all else it is stopped here.
func (a *Agent) Do(ctx context.Context, name, action string, req api.ActionRequest) (api.ActionResult, error) {
	stopped := api.ActionResult{Role: api.RoleStopped, Health: api.HealthUnknown}
	s, err := a.service(name, action == api.ActionStart)
	switch {
	case err == nil:
		return do(ctx, s.Service, action, req)
	case api.KindOf(err) != api.KindNotFound:
		return api.ActionResult{}, err
	case action == api.ActionValidate:
		// pcs validates under a name of its own before the resource exists.
		probe, err := service.Open(name, a.serviceOptions(nil))
		if err != nil {
			return stopped, err
		}
		return do(ctx, probe, action, req)
	case action == api.ActionPromote, action == api.ActionDemote:
		return stopped, api.Errorf(api.KindNotRunning, "Pacemaker orders start first", "service %s is stopped on %s", name, a.conf.Node)
	}
	return stopped, nil
}

// do finds out what the order's workload comes to and carries the order out.
func do(ctx context.Context, s *service.Service, action string, req api.ActionRequest) (api.ActionResult, error) {
	var err error
	if req.Spec, err = s.Resolve(ctx, action, req.Spec); err != nil {
		return api.ActionResult{Role: s.Role(), Health: api.HealthUnknown}, err
	}
	return s.Do(ctx, action, req)
}

// Ready says whether a takeover would succeed.
func (a *Agent) Ready(name string) (api.Readiness, error) {
	s, err := a.service(name, false)
	if err != nil {
		return api.Readiness{}, err
	}
	return s.Ready(), nil
}

// local is this node's state as it is gossiped.
func (a *Agent) local() api.NodeStatus {
	n := api.NodeStatus{Version: api.Version, Node: a.conf.Node, Software: api.Software, Health: a.health.get(), Services: []api.ServiceStatus{}}
	for _, s := range a.list() {
		st := s.Status()
		st.Scrubbed = s.scrub.last()
		n.Services = append(n.Services, st)
	}
	return n
}

// Status is this node and its peers.
func (a *Agent) Status() api.Status {
	self := a.local()
	self.Self, self.Alive, self.At = true, true, a.now().UnixNano()
	return api.Status{Nodes: append([]api.NodeStatus{self}, a.gossip.Peers()...)}
}
