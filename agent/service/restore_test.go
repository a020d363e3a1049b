package service

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// aged is an active node whose tree was sealed once before it was written to again.
func aged(t *testing.T) (n *node, s *Service, old replication.ID, was int) {
	t.Helper()
	n = newNode(t)
	s = n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	s.loop.stop() // its own captures would be at any time
	if _, err := s.Replicate(t.Context()); err != nil {
		t.Fatal(err)
	}
	old, _ = replica{n}.Head()
	n.with(func() {
		was = n.trees[old]
		n.tree += 10
	})
	return n, s, old, was
}

// restore asks for it; crashed says whether the agent was killed in it.
func restore(s *Service, name string) (res api.RestoreResult, crashed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			if r != errCrash { //nolint:errorlint // the very value that was thrown
				panic(r)
			}
			crashed = true
		}
	}()
	res, err = s.Restore(ctx, name)
	return res, false, err
}

// wantHeadIs waits until the tree is what the head says, and that is the version.
func wantHeadIs(t *testing.T, n *node, version int) {
	t.Helper()
	var head replication.ID
	for range 200 {
		head, _ = replica{n}.Head()
		ok := false
		n.with(func() { ok = n.trees[head] == version && n.tree == version })
		if ok {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.with(func() {
		t.Errorf("the tree is at version %d and the head %s at %d, not %d", n.tree, head, n.trees[head], version)
	})
}

func TestRestoreOnTheActive(t *testing.T) {
	n, s, old, was := aged(t)
	before := s.snapshot()
	res, _, err := restore(s, old.String())
	if err != nil {
		t.Fatal(err)
	}
	wantActive(t, n, s)
	as, _ := replication.ParseID(res.As)
	n.with(func() {
		if got := n.trees[as]; got != was || as.Term != before.Term || n.tree < was || n.tree > was+4 {
			t.Errorf("%s is version %d, not %d, and the tree at %d: %+v", as, got, was, n.tree, res)
		}
		now, _ := replication.ParseID(res.Before)
		if n.trees[now] != was+10 || !slices.Contains(n.pinned, res.Before) {
			t.Errorf("what was written since is not kept: %s is version %d, pinned are %v", now, n.trees[now], n.pinned)
		}
	})
	if res, _, err := do(s, api.ActionMonitor); err != nil || res.Health != api.HealthHealthy || res.Role != api.RoleActive {
		t.Errorf("monitor: %+v, %v", res, err)
	}
	if _, _, err := restore(s, "1.99"); api.KindOf(err) != api.KindNotFound {
		t.Errorf("a generation that there is not: %v", err)
	}
	wantActive(t, n, s)
}

// TestKilledInRestore: killed at any step, Pacemaker's recovery leaves either what was
// written or the old content, whole, in the tree and at the head; and what was
// written is always sealed.
func TestKilledInRestore(t *testing.T) {
	for at, done := range map[string]bool{
		"restore:persisted": false, "restore:stopped": false, "restore:sealed": false,
		"restore:committed": true, "restore:applied": true, "restore:started": true,
	} {
		for _, then := range []string{api.ActionDemote, api.ActionStop} {
			t.Run(at+" then "+then, func(t *testing.T) {
				n, s, old, was := aged(t)
				n.with(func() { n.crashAt = at })
				if _, crashed, err := restore(s, old.String()); !crashed {
					t.Fatalf("not killed at %s: %v", at, err)
				}
				s = n.agent()
				s.Resume()
				if res, _, err := do(s, api.ActionMonitor); err != nil || res.Health != api.HealthFailed {
					t.Errorf("monitor: %+v, %v", res, err)
				}
				must(t, s, then)
				wantNothing(t, n)
				must(t, s, api.ActionStart)
				written := was + 10
				switch {
				case at == "restore:started": // and wrote
					wantSealed(t, n)
				case done:
					wantHeadIs(t, n, was)
				default:
					wantHeadIs(t, n, written)
				}
				sealed := false
				n.with(func() {
					for _, v := range n.trees {
						sealed = sealed || v == written
					}
				})
				if !sealed {
					t.Error("what was written before the restore is nowhere")
				}
				must(t, s, api.ActionPromote)
				wantActive(t, n, s)
			})
		}
	}
}

// TestRestoreThatCannotBegin: the service goes on as it was.
func TestRestoreThatCannotBegin(t *testing.T) {
	n, s, old, was := aged(t)
	n.with(func() { n.left = errCrash })
	if _, _, err := restore(s, old.String()); err == nil {
		t.Error("restored under processes that would not end")
	}
	n.with(func() { n.left = nil })
	wantActive(t, n, s)
	n.with(func() {
		if n.tree < was+10 {
			t.Errorf("the tree is at version %d", n.tree)
		}
	})
}

// TestArmedRestore: on a standby the restore holds the tree, and the next promotion
// here begins its term with that content.
func TestArmedRestore(t *testing.T) {
	for _, killed := range []string{"", "promote:fenced", "promote:tree", "promote:containers"} {
		t.Run(killed, func(t *testing.T) {
			n, s, old, was := aged(t)
			must(t, s, api.ActionDemote)
			head, _ := replica{n}.Head()
			res, _, err := restore(s, old.String())
			if err != nil || !res.Armed {
				t.Fatalf("%+v, %v", res, err)
			}
			for range 200 {
				if (replica{n}).Applied() == old {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if at := (replica{n}).Applied(); at != old {
				t.Errorf("the tree is at %s, not %s", at, old)
			}
			if st := s.Status(); len(st.Warnings) == 0 {
				t.Error("status does not say so")
			}
			if killed != "" {
				n.with(func() { n.crashAt = killed })
				if _, crashed, err := do(s, api.ActionPromote); !crashed {
					t.Fatalf("not killed: %v", err)
				}
				s = n.agent()
				s.Resume()
			}
			must(t, s, api.ActionPromote)
			wantActive(t, n, s)
			n.with(func() {
				i := slices.IndexFunc(n.history, func(m *replication.Manifest) bool { return m.ID == replication.ID{Term: 2, Seq: 1} })
				if i < 0 {
					t.Fatal("nothing begins the term")
				}
				first := n.history[i]
				if first.Parent != head || n.trees[first.ID] != was {
					t.Errorf("the term begins with %s of %s, version %d, not %d", first.ID, first.Parent, n.trees[first.ID], was)
				}
				if !slices.Contains(n.pinned, head.String()) {
					t.Errorf("%s was left behind and is not pinned: %v", head, n.pinned)
				}
			})
			if rec := s.snapshot(); rec.Restore != "" {
				t.Errorf("still armed: %+v", rec)
			}
		})
	}
}

func TestArmedRestoreIsCancelled(t *testing.T) {
	n, s, old, _ := aged(t)
	must(t, s, api.ActionDemote)
	head, _ := replica{n}.Head()
	if _, _, err := restore(s, ""); api.KindOf(err) != api.KindNotFound {
		t.Errorf("nothing is armed: %v", err)
	}
	if _, _, err := restore(s, old.String()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := restore(s, ""); err != nil {
		t.Fatal(err)
	}
	must(t, s, api.ActionPromote, api.ActionDemote)
	n.with(func() {
		if n.history[1].ID != head || n.history[2].Parent != head || n.trees[n.history[2].ID] < n.trees[head] {
			t.Errorf("it went back after all: %+v", n.trees)
		}
	})
}
