package service

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// steps are all the points at which an agent is killed in the tests below.
var steps = map[string][]string{
	api.ActionStart:   {"start:persisted", "start:sealed"},
	api.ActionPromote: {"promote:term", "promote:fenced", "promote:tree", "promote:containers", "promote:address"},
	api.ActionDemote:  {"demote:persisted", "demote:containers", "demote:address", "demote:sealed"},
	api.ActionStop:    {"demote:containers", "demote:address", "demote:sealed"},
}

func must(t *testing.T, s *Service, actions ...string) {
	t.Helper()
	for _, a := range actions {
		if _, crashed, err := do(s, a); err != nil || crashed {
			t.Fatalf("%s: crashed %v, %v", a, crashed, err)
		}
	}
}

func wantActive(t *testing.T, n *node, s *Service) {
	t.Helper()
	if got := n.running(); !slices.Equal(got, []string{"db", "web"}) || !n.holds() {
		t.Errorf("active, but running are %v and the address is held: %v", got, n.holds())
	}
	if rec := s.snapshot(); rec.Role != api.RoleActive || rec.Step != stepNone || !rec.Dirty {
		t.Errorf("active, but the record is %+v", rec)
	}
}

func wantNothing(t *testing.T, n *node) {
	t.Helper()
	if got := n.running(); len(got) > 0 || n.holds() {
		t.Errorf("not active, but running are %v and the address is held: %v", got, n.holds())
	}
}

// wantCloning: the first capture after a promotion is being prepared.
func wantCloning(t *testing.T, n *node, want bool) {
	t.Helper()
	n.with(func() {
		if n.cloning != want {
			t.Errorf("files are cloned for the first capture: %v", n.cloning)
		}
	})
}

// wantSealed: what the containers wrote is the head's content.
func wantSealed(t *testing.T, n *node) {
	t.Helper()
	head, _ := replica{n}.Head()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.trees[head] != n.tree {
		t.Errorf("the tree is at version %d, sealed is %d in %s", n.tree, n.trees[head], head)
	}
}

func TestLifeOfAService(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart)
	wantNothing(t, n) // also the container that ran before the cluster took over
	if got := n.score(); got != scoreOrigin {
		t.Errorf("the origin's score is %d", got)
	}
	must(t, s, api.ActionPromote, api.ActionPromote)
	wantActive(t, n, s)
	wantCloning(t, n, true)
	must(t, s, api.ActionDemote, api.ActionDemote)
	wantCloning(t, n, false)
	wantNothing(t, n)
	wantSealed(t, n)
	head, _ := replica{n}.Head()
	n.with(func() {
		if n.shipped != head {
			t.Errorf("the final generation %s was not shipped: %s was", head, n.shipped)
		}
	})
	must(t, s, api.ActionPromote)
	if term := s.snapshot().Term; term != 2 {
		t.Errorf("the second promotion has term %d", term)
	}
	must(t, s, api.ActionStop, api.ActionStop)
	wantNothing(t, n)
	if got := n.score(); got != 0 {
		t.Errorf("a stopped node has the score %d", got)
	}
	if res, _, err := do(s, api.ActionMonitor); err != nil || res.Role != api.RoleStopped {
		t.Errorf("monitor of a stopped service: %+v, %v", res, err)
	}
}

// TestKilledInPromote: killed at any step, the next promote finishes with the
// same term, and stop leaves nothing; what was written is never lost.
func TestKilledInPromote(t *testing.T) {
	for _, at := range steps[api.ActionPromote] {
		for _, then := range []string{api.ActionPromote, api.ActionDemote, api.ActionStop} {
			t.Run(at+" then "+then, func(t *testing.T) {
				n := newNode(t)
				s := n.agent()
				must(t, s, api.ActionStart, api.ActionPromote, api.ActionDemote) // so that there is a head
				n.with(func() { n.crashAt = at })
				if _, crashed, err := do(s, api.ActionPromote); !crashed {
					t.Fatalf("not killed at %s: %v", at, err)
				}
				wrote := 0
				n.with(func() {
					if slices.Contains(n.runningLocked(), "web") {
						n.tree += 5 // containers that run write
					}
					wrote = n.tree
				})
				s = n.agent()
				wasDirty := s.snapshot().Dirty
				n.with(func() { n.cloning = false }) // with the agent
				s.Resume()
				if res, _, err := do(s, api.ActionMonitor); err != nil || res.Health != api.HealthFailed {
					t.Errorf("monitor of an interrupted promotion: %+v, %v", res, err)
				}
				must(t, s, then)
				if then == api.ActionPromote {
					wantActive(t, n, s)
					if term := s.snapshot().Term; term != 2 {
						t.Errorf("taken up with term %d", term)
					}
					wantCloning(t, n, !wasDirty) // or containers may have written since the tree was at a generation
					n.with(func() {
						if n.tree < wrote {
							t.Errorf("what was written is gone: the tree is at version %d, was at %d", n.tree, wrote)
						}
					})
					return
				}
				wantNothing(t, n)
				wantSealed(t, n)
			})
		}
	}
}

// TestKilledInDemote: killed at any step, demote or stop finish it, nothing
// runs, and everything written is sealed.
func TestKilledInDemote(t *testing.T) {
	for _, at := range steps[api.ActionDemote] {
		for _, then := range []string{api.ActionDemote, api.ActionStop, "reboot"} {
			t.Run(at+" then "+then, func(t *testing.T) {
				n := newNode(t)
				s := n.agent()
				must(t, s, api.ActionStart, api.ActionPromote)
				n.with(func() { n.tree += 5 }) // clients write
				n.with(func() { n.crashAt = at })
				if _, crashed, err := do(s, api.ActionDemote); !crashed {
					t.Fatalf("not killed at %s: %v", at, err)
				}
				if then == "reboot" {
					n.with(n.noProcess)
					s = n.agent()
					if err := s.persist(func(r *record) { r.BootID = "another" }); err != nil {
						t.Fatal(err)
					}
					s = n.agent()
					must(t, s, api.ActionStart)
				} else {
					s = n.agent()
					s.Resume()
					must(t, s, then)
				}
				wantNothing(t, n)
				wantSealed(t, n)
				if s.snapshot().Dirty {
					t.Error("still dirty")
				}
			})
		}
	}
}

// TestAgentIsNotTheService: an agent that dies and returns changes nothing.
func TestAgentIsNotTheService(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	s.Close()
	wantActive(t, n, s)
	s = n.agent()
	s.Resume()
	wantActive(t, n, s)
	if res, _, err := do(s, api.ActionMonitor); err != nil || res.Role != api.RoleActive || res.Health != api.HealthHealthy {
		t.Errorf("monitor after the agent's return: %+v, %v", res, err)
	}
}

func TestPromotionIsRefused(t *testing.T) {
	id := replication.ID{Term: 1, Seq: 7}
	other := func(role api.Role, committed string) []api.NodeStatus {
		return []api.NodeStatus{{Node: "n2", Alive: true, Services: []api.ServiceStatus{{Service: "registry", Role: role, Committed: committed}}}}
	}
	tests := map[string]struct {
		set  func(*node, *Service)
		want string
	}{
		"never synchronised": {func(n *node, _ *Service) { delete(n.states, "db"); delete(n.states, "web") }, "no replica"},
		"newer elsewhere": {func(n *node, _ *Service) {
			n.history = append(n.history, &replication.Manifest{ID: id})
			n.peers = other(api.RoleStandby, "1.8")
		}, "newer generation 1.8"},
		"too old": {func(n *node, s *Service) {
			n.history = append(n.history, &replication.Manifest{ID: id})
			s.freshAt, s.heardAt = time.Now().Add(-time.Hour), time.Now()
		}, "max-rpo"},
		"origin beside an active": {func(n *node, _ *Service) { n.peers = other(api.RoleActive, "3.4") }, "is active"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			s := n.agent()
			n.with(func() { tc.set(n, s) })
			must(t, s, api.ActionStart)
			s.loop.stop() // the test's facts stay as they are
			n.with(func() { tc.set(n, s) })
			_, _, err := do(s, api.ActionPromote)
			if api.KindOf(err) != api.KindRefused || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("promote: %v", err)
			}
			if s.wantScore() != 0 {
				t.Errorf("score %d", s.wantScore())
			}
			wantNothing(t, n)
		})
	}
}

// TestDuplicateAddress: a promotion that finds the address taken undoes itself.
func TestDuplicateAddress(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart)
	n.with(func() { n.refuse = errors.New("192.0.2.100 is held by 02:00:00:00:00:07") })
	if _, _, err := do(s, api.ActionPromote); err == nil {
		t.Fatal("promoted beside a duplicate")
	}
	wantNothing(t, n)
	if rec := s.snapshot(); rec.Role != api.RoleStandby || rec.Step != stepNone {
		t.Errorf("the record is %+v", rec)
	}
	n.with(func() { n.refuse = nil })
	must(t, s, api.ActionPromote)
	wantActive(t, n, s)
	if term := s.snapshot().Term; term != 2 {
		t.Errorf("the second try has term %d: a term is used once", term)
	}
}

// TestStopTellsTheTruth: a process that cannot be ended makes stop fail; a hung
// Podman does not.
func TestStopTellsTheTruth(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	n.with(func() { n.hung = true })
	must(t, s, api.ActionStop)
	n.with(func() { n.hung = false })
	wantNothing(t, n)
	must(t, s, api.ActionStart, api.ActionPromote)
	n.with(func() { n.left = errors.New("process 4711 is in uninterruptible sleep") })
	if _, _, err := do(s, api.ActionStop); err == nil || !strings.Contains(err.Error(), "4711") {
		t.Errorf("stop with a process left: %v", err)
	}
}

// TestFormerActiveTurnsRound: what it wrote unseen is archived before the new history is taken.
func TestFormerActiveTurnsRound(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote, api.ActionDemote)
	s.loop.stop()
	head, _ := replica{n}.Head()
	n.peers = []api.NodeStatus{{Node: "n2", Alive: true, Services: []api.ServiceStatus{{Service: "registry", Role: api.RoleActive, Term: 9, Base: "none", Committed: "9.1"}}}}
	if err := s.turnRound(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(n.journal, func(d api.Decision) bool { return d.Event == api.EventDiverged })
	if i < 0 || !strings.Contains(n.journal[i].Reason, head.String()) {
		t.Errorf("no diverged generation %s in the journal", head)
	}
	if now, _ := (replica{n}).Head(); !now.IsZero() {
		t.Errorf("the head is still %s", now)
	}
}

// TestParting: the active may have been promoted more than once since it was heard of.
func TestParting(t *testing.T) {
	active := api.ServiceStatus{Term: 9, Base: "8.50", Ends: map[uint64]uint64{3: 7, 5: 24, 8: 50}}
	for head, want := range map[string]string{
		"8.50": "8.50", "8.51": "8.50", "8.20": "8.50", // of the term before
		"5.24": "5.24", "5.30": "5.24", "5.2": "5.24", // of an earlier one
		"6.3": "5.24", "4.1": "3.7", // of one that wrote nothing there
		"2.1": "8.50", // of one before all that is known: not turned round
		"9.1": "8.50",
	} {
		id, err := replication.ParseID(head)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parting(id, active); err != nil || got.String() != want {
			t.Errorf("%s: %s (%v), want %s", head, got, err, want)
		}
	}
	if got, err := parting(replication.ID{Term: 4, Seq: 1}, api.ServiceStatus{Term: 9, Base: "8.50"}); err != nil || got.String() != "8.50" {
		t.Errorf("of an active that does not say: %s, %v", got, err)
	}
}

// TestPowerCutThenNewHistory: the active loses power; before it is started again, the
// new active's first generation has arrived. What was written unseen is archived.
func TestPowerCutThenNewHistory(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	s.loop.stop()
	wrote := 0
	n.with(func() {
		n.tree += 7
		wrote = n.tree
		n.noProcess()
		n.history = append(n.history, &replication.Manifest{ID: replication.ID{Term: 5, Seq: 1}, Definition: []byte("def")})
		n.trees[replication.ID{Term: 5, Seq: 1}] = 1000
	})
	if err := s.persist(func(r *record) { r.BootID = "another" }); err != nil {
		t.Fatal(err)
	}
	s = n.agent()
	must(t, s, api.ActionStart)
	n.with(func() {
		if n.archived != wrote {
			t.Errorf("archived is version %d of the tree, written was %d", n.archived, wrote)
		}
	})
	if s.snapshot().Dirty {
		t.Error("still dirty")
	}
}

// TestNewHistoryArrivesDuringTheStart: a former active reads what it has left for long. What it had sealed beyond
// the new active's history must not keep that from arriving meanwhile.
func TestNewHistoryArrivesDuringTheStart(t *testing.T) {
	n, s, old, _ := aged(t)
	if _, err := s.Replicate(t.Context()); err != nil { // nobody has it
		t.Fatal(err)
	}
	wrote := 0
	n.with(func() {
		n.tree += 7
		wrote = n.tree
		n.noProcess()
		n.peers = []api.NodeStatus{{Node: "n2", Alive: true, Services: []api.ServiceStatus{{Service: "registry", Role: api.RoleActive, Term: 9, Base: old.String()}}}}
	})
	if err := s.persist(func(r *record) { r.BootID = "another" }); err != nil {
		t.Fatal(err)
	}
	s = n.agent()
	n.sealingDirty = func() {
		if head, err := (replica{n}).Head(); err != nil || head != old {
			t.Errorf("the head is %s (%v): nothing can follow %s", head, err, old)
		}
	}
	must(t, s, api.ActionStart)
	s.loop.stop()
	n.with(func() {
		if n.archived != wrote {
			t.Errorf("archived is version %d of the tree, written was %d", n.archived, wrote)
		}
	})
	if got := n.journalled(api.EventDiverged, "had received is archived"); got != 2 { // sealed, and not
		t.Errorf("archived %d times: %v", got, n.journal)
	}
}

// TestWrittenOutsideTheCluster: the resource is taken away, somebody works with the
// containers by hand, and the resource is made again: the work is kept.
func TestWrittenOutsideTheCluster(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote, api.ActionStop)
	n.with(func() { n.states["db"] = "running"; n.tree += 3 })
	must(t, s, api.ActionStart)
	wantNothing(t, n)
	wantSealed(t, n)
}

// TestLostGossipKeepsTheScore: after a power cut gossip ends before Pacemaker has
// noticed. The standby must stay a candidate all the while.
func TestLostGossipKeepsTheScore(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote, api.ActionDemote)
	n.with(func() { n.promoted = "n2" })
	s.loop.stop()
	if err := s.standbyOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if why := s.blockers(); len(why) > 0 || s.wantScore() != scoreReplica {
		t.Errorf("score %d, blockers %v", s.wantScore(), why)
	}
}

// TestPeerOfAnotherVersion: nothing it says is known, and whoever asks why there is
// no protection is told what to do.
func TestPeerOfAnotherVersion(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	n.with(func() {
		n.peers = []api.NodeStatus{{Node: "n2", Version: api.Version + 1, Software: "9.9", Alive: true}}
	})
	r := s.Ready()
	if why := strings.Join(r.Blockers, "; "); r.Ready || !strings.Contains(why, "n2 speaks protocol 2 and this node 1: upgrade") {
		t.Errorf("ready %v: %s", r.Ready, why)
	}
}

// TestNewestIsGivenAway: a demotion that reaches nobody leaves this node the better
// candidate; what it has is sent as soon as that is possible, also when it is stopped.
func TestNewestIsGivenAway(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	n.with(func() { n.tree += 3; n.shipErr = errors.New("connection refused") })
	must(t, s, api.ActionDemote)
	if s.wantScore() != scoreNewest {
		t.Errorf("score %d", s.wantScore())
	}
	must(t, s, api.ActionStop)
	n.with(func() { n.shipErr = nil })
	head, _ := replica{n}.Head()
	for end := time.Now().Add(10 * time.Second); ; {
		var shipped replication.ID
		n.with(func() { shipped = n.shipped })
		if shipped == head && !s.snapshot().Newest {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("shipped %s, the head is %s, newest %v", shipped, head, s.snapshot().Newest)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestAnotherServiceOfTheName: the store's data belongs to other containers; it is not
// poured over theirs.
func TestAnotherServiceOfTheName(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote, api.ActionStop)
	other := testSpec
	other.Containers = []string{"mail"}
	n.with(func() { n.states["mail"] = "created" })
	if err := order(t, s, api.ActionStart, other); api.KindOf(err) != api.KindInstalled || !strings.Contains(err.Error(), "other containers") {
		t.Errorf("start: %v", err)
	}
}

// TestNotCompleteYet: a standby is ready once it has everything, not while nothing
// is known to stand against it.
func TestNotCompleteYet(t *testing.T) {
	n := newNode(t)
	must(t, n.agent(), api.ActionStart, api.ActionPromote, api.ActionDemote)
	s := n.agent() // after a restart
	s.loop.stop()
	if why := s.Status().Blockers; len(why) != 1 || !strings.Contains(why[0], "not complete yet") || s.wantScore() != 0 {
		t.Errorf("score %d, blockers %v", s.wantScore(), why)
	}
	if err := s.standbyOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if why := s.Status().Blockers; len(why) != 0 || s.wantScore() == 0 {
		t.Errorf("score %d, blockers %v", s.wantScore(), why)
	}
}

// TestStandbyThatCannotApply: what fails for a while stands against a takeover, what
// fails once does not.
func TestStandbyThatCannotApply(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote, api.ActionDemote)
	s.loop.stop()
	s.unreadyBecause("the live tree", errors.New("no space left"))
	if why := s.blockers(); len(why) > 0 {
		t.Errorf("at once: %v", why)
	}
	s.mu.Lock()
	g := s.unready["the live tree"]
	g.since = g.since.Add(-patience - time.Second)
	s.unready["the live tree"] = g
	s.mu.Unlock()
	if why := s.blockers(); len(why) != 1 || !strings.Contains(why[0], "no space left") || s.wantScore() != 0 {
		t.Errorf("after a while: %v, score %d", why, s.wantScore())
	}
	s.unreadyBecause("the live tree", nil)
	if s.wantScore() == 0 {
		t.Error("healed, and still no candidate")
	}
}

// TestOfflineStopIsHeeded: the resource agent lost patience and evicted the service
// while this agent lived.
func TestOfflineStopIsHeeded(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	n.with(n.noProcess)
	if err := MarkStopped(n.dir, "registry"); err != nil {
		t.Fatal(err)
	}
	if res, _, err := do(s, api.ActionMonitor); err != nil || res.Role != api.RoleStopped {
		t.Errorf("monitor: %+v, %v", res, err)
	}
	must(t, s, api.ActionStart)
	wantNothing(t, n)
	wantSealed(t, n)
	must(t, s, api.ActionPromote)
	wantActive(t, n, s)
}

// TestOfflineStopStays: whatever the background work notes at the same time.
func TestOfflineStopStays(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	s.loop.stop()
	for i := range 50 {
		s.mu.Lock()
		err := s.rec.save(s.Dir) // active again
		s.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		var noting sync.WaitGroup
		noting.Go(func() {
			for k := range 3 {
				_ = s.noteRoots(map[string]string{"data": fmt.Sprint(i, k)})
			}
		})
		if err := MarkStopped(n.dir, "registry"); err != nil {
			t.Error(err)
		}
		noting.Wait()
		if r, err := load(n.dir, "registry"); err != nil || r.Role != api.RoleStopped {
			t.Fatalf("round %d: it is recorded as %s (%v)", i, r.Role, err)
		}
	}
}

// TestOfflineStopIsHeededByTheLoop: where nobody asks, whoever cannot note anything any more sees to it; and what an
// operator asks for does not go on from what was before.
func TestOfflineStopIsHeededByTheLoop(t *testing.T) {
	for name, ask := range map[string]func(s *Service, old string) (refused bool){
		"noted": func(s *Service, _ string) bool {
			return s.noteRoots(map[string]string{"data": "1"}) != nil
		},
		"taken back": func(s *Service, old string) bool {
			res, _, err := restore(s, old) // armed, as where it is stopped
			return err == nil && res.Armed
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, s, old, _ := aged(t)
			if err := MarkStopped(n.dir, "registry"); err != nil {
				t.Fatal(err)
			}
			if !ask(s, old.String()) {
				t.Error("it goes on as if nothing had been")
			}
			n.said(t, "taken off this node by an offline stop")
			if r := s.snapshot(); r.Role != api.RoleStopped {
				t.Errorf("it is %s", r.Role)
			}
		})
	}
}

// What a standby says of its active, and what stood against it, ends with its promotion.
func TestPromotionEndsAStandbysWorries(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart)
	s.loop.stop()
	s.mu.Lock()
	s.cut = "no gossip comes from n2"
	s.mu.Unlock()
	s.unreadyBecause("Podman", errors.New("it hung"))
	must(t, s, api.ActionPromote)
	defer s.loop.stop()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		left := s.cut != "" || len(s.unready) > 0
		s.mu.Unlock()
		if !left {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the active node still says what it said as a standby")
		}
	}
}
