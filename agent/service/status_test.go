package service

import (
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
