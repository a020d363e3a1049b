package service

import (
	"context"
	"slices"
	"testing"

	"github.com/understudy-ha/understudy/agent/api"
)

// pods is a Runtime on whose node the workload comes to what it says.
type pods struct {
	*node
	names, absent []string
}

func (p pods) Members(context.Context, api.Spec) (names, absent []string, err error) {
	return p.names, p.absent, nil
}

func TestMembersOfADefinition(t *testing.T) {
	def := Definition{Names: []string{"shop-infra", "web", "db", "cron"}, Infra: map[string]string{"web": "shop-infra", "db": "shop-infra"}}
	for name, tc := range map[string]struct {
		spec api.Spec
		want []string
	}{
		"recorded before there were pods": {api.Spec{Containers: []string{"web"}}, []string{"web"}},
		"containers":                      {api.Spec{Named: []string{"cron"}}, []string{"cron"}},
		"containers of a pod":             {api.Spec{Named: []string{"web", "cron", "db"}}, []string{"shop-infra", "web", "cron", "db"}},
		"not defined yet":                 {api.Spec{Named: []string{"web", "new"}}, []string{"shop-infra", "web", "new"}},
		"a pod":                           {api.Spec{Pods: []string{"shop"}}, def.Names},
	} {
		if got := members(tc.spec, def); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// A start looks at the node; every other order goes on with what is known; where not
// all of the workload is here, the node is no origin, and what its replica says counts.
func TestResolve(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	order := testSpec
	order.Containers, order.Pods = nil, []string{"shop"}
	s.Runtime = pods{n, nil, []string{"pod shop"}}
	spec, err := s.Resolve(t.Context(), api.ActionStart, order)
	if err != nil || len(spec.Containers) > 0 || !slices.Equal(spec.Absent, []string{"pod shop"}) {
		t.Fatalf("a pod that is not here: %+v, %v", spec, err)
	}
	if err := s.adopt(spec); err != nil {
		t.Fatal(err)
	}
	if origin, err := s.isOrigin(t.Context()); origin || err != nil {
		t.Errorf("a node without the pod is the origin (%v)", err)
	}
	if err := s.takeMembers(Definition{Names: []string{"db", "web"}}); err != nil {
		t.Fatal(err)
	}
	s.Runtime = pods{n, []string{"other"}, nil}
	for _, action := range []string{api.ActionStop, api.ActionPromote, api.ActionMonitor} {
		spec, err := s.Resolve(t.Context(), action, order)
		if err != nil || !slices.Equal(spec.Containers, []string{"db", "web"}) || len(spec.Absent) > 0 {
			t.Errorf("%s: %+v, %v", action, spec, err)
		}
	}
	if spec, err := s.Resolve(t.Context(), api.ActionStart, order); err != nil || !slices.Equal(spec.Containers, []string{"other"}) {
		t.Errorf("start: %+v, %v", spec, err)
	}
	if err := s.persist(func(r *record) { r.Role = api.RoleStandby }); err != nil {
		t.Fatal(err)
	}
	if spec, err := s.Resolve(t.Context(), api.ActionStart, order); err != nil || !slices.Equal(spec.Containers, []string{"db", "web"}) {
		t.Errorf("start of what has started: %+v, %v", spec, err)
	}
	if spec, err := s.Resolve(t.Context(), api.ActionStop, api.Spec{}); err != nil || !spec.Empty() {
		t.Errorf("stop without parameters: %+v, %v", spec, err)
	}
}

// A pod that was made again has other containers: that is no failure.
func TestMonitorOfAPodMadeAgain(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	s.loop.stop()
	spec := s.snapshot().Spec
	spec.Pods, spec.Containers = []string{"shop"}, []string{"old-infra", "db"}
	if err := s.persist(func(r *record) { r.Spec = spec }); err != nil {
		t.Fatal(err)
	}
	s.Runtime = pods{n, []string{"db"}, []string{"pod shop"}}
	if health, why := s.look(t.Context()); health != api.HealthFailed || why != "container old-infra does not exist" {
		t.Errorf("the pod is gone: %s, %s", health, why)
	}
	s.Runtime = pods{n, []string{"web", "db"}, nil}
	if health, why := s.look(t.Context()); health == api.HealthFailed {
		t.Errorf("the pod was made again: %s, %s", health, why)
	}
	if got := s.snapshot().Spec.Containers; !slices.Equal(got, []string{"web", "db"}) {
		t.Errorf("known are %q", got)
	}
}
