package service

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// attacked is a standby whose newest generation is suspect.
func attacked(t *testing.T, onSuspect string) (n *node, s *Service, old, head replication.ID, was int) {
	t.Helper()
	n, s, old, was = aged(t)
	must(t, s, api.ActionDemote)
	head, _ = replica{n}.Head()
	// Before the list, which may be looked at any moment.
	if err := s.persist(func(r *record) { r.Spec.OnSuspect = onSuspect }); err != nil {
		t.Fatal(err)
	}
	n.with(func() {
		n.suspect = []store.Suspect{{First: head, Last: head, Before: old, At: time.Now(), Why: "all is noise"}}
	})
	s.Poke()
	return n, s, old, head, was
}

func wantApplied(t *testing.T, n *node, id replication.ID) {
	t.Helper()
	for range 1000 {
		if (replica{n}).Applied() == id {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("the tree is at %s, not %s", replica{n}.Applied(), id)
}

// said waits for a decision with all the parts.
func (n *node) said(t *testing.T, parts ...string) {
	t.Helper()
	for range 1000 {
		found := false
		n.with(func() {
			found = slices.ContainsFunc(n.journal, func(d api.Decision) bool {
				return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(d.Reason, p) })
			})
		})
		if found {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.with(func() { t.Fatalf("nobody said %q: %+v", parts, n.journal) })
}

// TestSuspectIsAnAlarm by default, and nothing else.
func TestSuspectIsAnAlarm(t *testing.T) {
	n, s, old, head, _ := attacked(t, "")
	n.said(t, "generation "+head.String()+" looks like an attack", "all is noise", old.String(), "applied as always")
	wantApplied(t, n, head)
	st := s.Status()
	if len(st.Suspects) != 1 || st.Held != "" || !slices.ContainsFunc(st.Warnings, func(w string) bool { return strings.Contains(w, "SUSPECT") }) {
		t.Errorf("%+v", st)
	}
	if len(st.Blockers) > 0 {
		t.Errorf("it stands against a takeover: %v", st.Blockers)
	}
	n.with(func() { n.suspect = nil })
	n.said(t, "were released")
	must(t, s, api.ActionPromote)
	n.with(func() {
		if n.trees[head] > n.tree {
			t.Error("the promotion went back")
		}
	})
}

// TestSuspectIsHeld: with on-suspect=hold the tree stays before what is suspect until a
// person releases it.
func TestSuspectIsHeld(t *testing.T) {
	n, s, old, head, _ := attacked(t, api.OnSuspectHold)
	n.said(t, "generation "+head.String()+" looks like an attack", "not applied until understudy release")
	wantApplied(t, n, old)
	st := s.Status()
	if st.Held != old.String() || len(st.Blockers) > 0 {
		t.Errorf("%+v", st)
	}
	n.with(func() { n.suspect[0].Undone = head }) // somebody took the data back on the active
	wantApplied(t, n, head)
	n.with(func() { n.suspect[0].Undone = replication.ID{} })
	wantApplied(t, n, old)
	n.with(func() { n.suspect = nil })
	wantApplied(t, n, head)
}

// TestPromotedWhileHeld: a takeover goes on from the generation before what is suspect,
// wherever it is killed, and what is left behind is pinned and said.
func TestPromotedWhileHeld(t *testing.T) {
	for _, killed := range []string{"", "promote:term", "promote:fenced", "promote:tree", "promote:containers"} {
		t.Run(killed, func(t *testing.T) {
			n, s, old, head, was := attacked(t, api.OnSuspectHold)
			wantApplied(t, n, old)
			spec := testSpec
			spec.OnSuspect = api.OnSuspectHold
			if killed != "" {
				n.with(func() { n.crashAt = killed })
				if _, crashed, err := doSpec(s, api.ActionPromote, spec); !crashed {
					t.Fatalf("not killed: %v", err)
				}
				s = n.agent()
				s.Resume()
			}
			if _, _, err := doSpec(s, api.ActionPromote, spec); err != nil {
				t.Fatal(err)
			}
			wantActive(t, n, s)
			n.with(func() {
				i := slices.IndexFunc(n.history, func(m *replication.Manifest) bool { return m.ID == replication.ID{Term: 2, Seq: 1} })
				if i < 0 || n.history[i].Parent != head || n.trees[n.history[i].ID] != was {
					t.Errorf("the term does not begin with %s on top of %s: %+v", old, head, n.trees)
				}
				if !slices.Contains(n.pinned, head.String()) {
					t.Errorf("%s was left behind and is not pinned: %v", head, n.pinned)
				}
			})
			n.said(t, "goes on from generation "+old.String(), "on-suspect=hold", head.String())
		})
	}
}

// TestForeignWritesAreKept: what a scrub finds that somebody wrote on a standby is
// archived, never sealed, and replaced.
func TestForeignWritesAreKept(t *testing.T) {
	n, s, _, was := aged(t)
	must(t, s, api.ActionDemote)
	head, _ := replica{n}.Head()
	wantApplied(t, n, head)
	n.with(func() { n.tree += 100 })
	s.KeepForeign()
	n.said(t, "outside the cluster is archived as archive")
	wantHeadIs(t, n, was+10)
	n.with(func() {
		if n.archived != was+110 || n.history[len(n.history)-1].ID != head {
			t.Errorf("archived is version %d, the head %s", n.archived, n.history[len(n.history)-1].ID)
		}
	})
}

// TestForeignWhereSomethingIsMade: also where a container has to be made again, after which the trees are at no
// generation.
func TestForeignWhereSomethingIsMade(t *testing.T) {
	n, s, was := standingBy(t)
	if err := s.standbyOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.with(func() {
		n.tree += 100
		delete(n.states, "web")
	})
	s.tidy.Wait()
	s.prepared = ""
	s.KeepForeign()
	if err := s.standbyOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.archived != was+110 {
		t.Errorf("archived is version %d, and not %d", n.archived, was+110)
	}
}

// TestForeignCannotBeKept: a node on which that goes on is none to take over, as what is to be made on it is not.
func TestForeignCannotBeKept(t *testing.T) {
	n, s, _ := standingBy(t)
	if err := s.standbyOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.bound.Store(true)
	n.with(func() { n.gone = true })
	s.forgetDefinition()
	s.KeepForeign()
	if err := s.standbyOnce(t.Context()); err == nil || s.unready["what was written outside the cluster"].since.IsZero() {
		t.Errorf("%v, against it is %v", err, s.unready)
	}
}

// ArchiveForeign archives a tree that is not what was applied.
func (r replica) ArchiveForeign(context.Context, replication.SealRequest) (name string, err error) {
	r.n.with(func() {
		if !r.n.applied.IsZero() && r.n.trees[r.n.applied] != r.n.tree {
			r.n.archived, r.n.applied, name = r.n.tree, replication.ID{}, "archive"
		}
	})
	return name, nil
}

func (r replica) Suspects() (list []store.Suspect) {
	r.n.with(func() { list = slices.Clone(r.n.suspect) })
	return list
}
