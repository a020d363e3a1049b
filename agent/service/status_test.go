package service

import (
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/agent/api"
)

// TestStatusSaysLoose: of the node that captures, where it does so without a freeze.
func TestStatusSaysLoose(t *testing.T) {
	for _, consistency := range []string{"", api.ConsistencyFrozen, api.ConsistencyNone} {
		spec := testSpec
		spec.Consistency = consistency
		s := newNode(t).agent()
		for _, action := range []string{api.ActionStart, api.ActionPromote, api.ActionDemote} {
			if _, _, err := doSpec(s, action, spec); err != nil {
				t.Fatal(err)
			}
			if want := action == api.ActionPromote && consistency == api.ConsistencyNone; s.Status().Loose != want {
				t.Errorf("consistency %q, after %s: loose is %v", consistency, action, !want)
			}
		}
	}
}

// TestStatusCountsSockets, of the node that captures, as of its last capture.
func TestStatusCountsSockets(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	for _, want := range []int{2, 3, 0, 1} {
		n.with(func() { n.sockets = want })
		if _, err := s.Replicate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.Status().Sockets; got != want {
			t.Errorf("%d sockets shown, there are %d", got, want)
		}
	}
	must(t, s, api.ActionDemote)
	if got := s.Status().Sockets; got != 0 {
		t.Errorf("%d sockets shown on a standby", got)
	}
}

// TestStatusSaysUnkept: of a standby, for as long as what it has applied is so.
func TestStatusSaysUnkept(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	wants := func(want bool) {
		t.Helper()
		st := s.Status()
		if told := slices.ContainsFunc(st.Warnings, func(w string) bool { return strings.Contains(w, "2 × some label") }); told != want || len(st.Blockers) > 0 {
			t.Errorf("%s: %q, %q", st.Role, st.Warnings, st.Blockers)
		}
	}
	must(t, s, api.ActionStart, api.ActionPromote)
	n.with(func() { n.unkept = "2 × some label" })
	wants(false)
	must(t, s, api.ActionDemote)
	wants(true)
	n.with(func() { n.unkept = "" })
	wants(false)
}
