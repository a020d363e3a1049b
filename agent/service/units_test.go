package service

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/agent/api"
)

// units is a Runtime whose workload systemd runs.
type units struct {
	*node
	problems []string
	asked    []bool // whether to make what is described
}

func (u *units) UnitProblems(api.Spec) ([]string, error) { return u.problems, nil }

func (u *units) Adopt(_ context.Context, _ api.Spec, create bool) ([]string, error) {
	u.asked = append(u.asked, create)
	return []string{"unit web.service: stopped and masked"}, nil
}

// Units are taken out of systemd's hands at the start, on every node; made is only what
// no replica defines.
func TestUnitsAreAdopted(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	u := &units{node: n, problems: []string{"web.container: it was made with --device"}}
	s.Runtime = u
	order := testSpec
	order.Quadlet = []string{"web.container"}
	for _, action := range []string{api.ActionValidate, api.ActionStart} {
		if _, err := s.Resolve(t.Context(), action, order); err == nil || !strings.Contains(err.Error(), "--device") || len(u.asked) > 0 {
			t.Errorf("%s: %v, asked %v", action, err, u.asked)
		}
	}
	u.problems = nil
	resolve := func(action string) {
		t.Helper()
		if _, err := s.Resolve(t.Context(), action, order); err != nil {
			t.Fatal(err)
		}
	}
	resolve(api.ActionValidate)
	resolve(api.ActionStart)
	must(t, s, api.ActionStart, api.ActionPromote, api.ActionStop)
	resolve(api.ActionStart)
	resolve(api.ActionStop)
	if !slices.Equal(u.asked, []bool{true, false}) {
		t.Errorf("asked to make what the units describe: %v", u.asked)
	}
	if !slices.ContainsFunc(n.journal, func(d api.Decision) bool { return strings.Contains(d.Reason, "stopped and masked") }) {
		t.Error("the journal does not say that a unit was masked")
	}
}
