package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// standbys are the other nodes.
type standbys struct{ *node }

func (n standbys) Names() []string { return append([]string{"n2"}, n.slow...) }

func (n standbys) Images(context.Context, string, string, []string, func(context.Context, string, string) error) error {
	return nil
}

func (n standbys) Mend(context.Context, string, string) error {
	n.with(func() { n.mended++ })
	return nil
}

func (n standbys) ShipFinal(ctx context.Context, name string) map[string]error {
	return map[string]error{"n2": n.Ship(ctx, name, "n2")}
}

func (n standbys) Ship(ctx context.Context, _, peer string) error {
	if slices.Contains(n.slow, peer) {
		<-ctx.Done()
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.shipErr == nil && len(n.history) > 0 {
		n.shipped = n.history[len(n.history)-1].ID
	}
	return n.shipErr
}

// TestASlowStandbyHoldsUpNoOther: one of three never answers, another gets generation
// after generation, and an operator's replicate is answered.
func TestASlowStandbyHoldsUpNoOther(t *testing.T) {
	n := newNode(t)
	n.slow = []string{"n3", "n4"}
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	for range 3 {
		n.with(func() { n.tree++ })
		s.Poke()
		until(t, "the newest generation to be on n2", func() (done bool) {
			n.with(func() { done = n.trees[n.shipped] == n.tree })
			return done
		})
	}
	n.with(func() { n.tree++ })
	id, err := s.Replicate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.with(func() {
		if n.shipped.String() != id {
			t.Errorf("replicate answered %s, and n2 has %s", id, n.shipped)
		}
	})
}

// TestAlarmOfAPeer: what a person must look at is an alarm, once, in the journal and in
// status for as long as it lasts.
func TestAlarmOfAPeer(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	alarms := func() (list []string) {
		n.with(func() {
			for _, d := range n.journal {
				if d.Event == api.EventAlarm {
					list = append(list, d.Reason)
				}
			}
		})
		return list
	}
	n.with(func() { n.shipErr = fmt.Errorf("%w: it shows another key", ErrAlarm) })
	for range 3 {
		_, _ = s.Replicate(t.Context())
	}
	n.said(t, "n2 does not get what is new") // it may be the loop that says it
	if got := alarms(); len(got) != 1 || !strings.Contains(got[0], "n2 does not get what is new") || !strings.Contains(got[0], "another key") {
		t.Errorf("the journal has %q", got)
	}
	warned := func(w string) bool { return strings.HasPrefix(w, "ALARM: n2") }
	if st := s.Status(); !slices.ContainsFunc(st.Warnings, warned) {
		t.Errorf("status warns of %q", st.Warnings)
	}
	n.with(func() { n.shipErr = nil })
	if _, err := s.Replicate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); slices.ContainsFunc(st.Warnings, warned) {
		t.Errorf("it is over, and status still warns of %q", st.Warnings)
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatal("waited in vain for ", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
