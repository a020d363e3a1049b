package service

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication/durable"
)

// TestVolumeIsGone: somebody has removed a volume of the active node, or put another directory in
// its place. Nothing is sealed without it; with the next demotion or start the node goes on from
// the last generation.
func TestVolumeIsGone(t *testing.T) {
	for how, test := range map[string]struct {
		lose     func(n *node)
		says     string
		archives int
	}{
		"removed": {func(n *node) { n.gone = true }, "volume data of service registry is not on n1", 0},
		"moved": {func(n *node) {
			n.moved = map[string]bool{"web": true}
			swap(t, n.root, "other")
		}, "what is at its path is not what its containers have", 1},
	} {
		t.Run(how, func(t *testing.T) { volumeIsGone(t, test.lose, test.says, test.archives) })
	}
}

func volumeIsGone(t *testing.T, lose func(n *node), says string, archives int) {
	for name, leave := range map[string]func(t *testing.T, n *node, s *Service) *Service{
		"demote": func(t *testing.T, _ *node, s *Service) *Service { must(t, s, api.ActionDemote); return s },
		"stop": func(t *testing.T, _ *node, s *Service) *Service {
			must(t, s, api.ActionStop, api.ActionStart)
			return s
		},
		"power cut": func(t *testing.T, n *node, s *Service) *Service {
			s.loop.stop()
			n.with(func() {
				n.noProcess()
				clear(n.moved)
			})
			if err := s.persist(func(r *record) { r.BootID = "another" }); err != nil {
				t.Fatal(err)
			}
			s = n.agent()
			must(t, s, api.ActionStart)
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, s, old, was := aged(t)
			n.with(func() { lose(n) })
			_, err := s.Replicate(t.Context())
			if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "pcs resource restart registry") {
				t.Errorf("captured without its volume: %v", err)
			}
			if r, err := load(n.dir, "registry"); err != nil || (len(r.Astray) > 0) != (len(n.moved) > 0) {
				t.Errorf("recorded is %v (%v)", r.Astray, err)
			}
			if _, _, err := restore(s, old.String()); err == nil || !strings.Contains(err.Error(), "volume data") {
				t.Errorf("taken back without its volume: %v", err)
			}
			wantActive(t, n, s)
			wrote := 0
			n.with(func() { wrote = n.tree })
			s = leave(t, n, s)
			wantNothing(t, n)
			if head, err := (replica{n}).Head(); err != nil || head != old {
				t.Errorf("the head is %s (%v), and not the last that is whole, %s", head, err, old)
			}
			n.with(func() {
				if n.archived != wrote {
					t.Errorf("what was left is version %d, archived is %d", wrote, n.archived)
				}
			})
			if r := s.snapshot(); r.Dirty || len(r.Astray) > 0 || r.Role != api.RoleStandby {
				t.Errorf("%+v", r)
			}
			must(t, s, api.ActionPromote)
			wantActive(t, n, s)
			if got := n.journalled(api.EventDiverged, "it is archived as archive"); got != archives {
				t.Errorf("archived is %d times what is in its place, and not %d", got, archives)
			}
			n.with(func() {
				if started := len(testSpec.Containers); n.tree != was+started { // each writes when it starts
					t.Errorf("promoted, the tree is version %d, and not %d", n.tree, was+started)
				}
			})
		})
	}
}

// TestFileSystemIsNotMounted: what is not there may only not be mounted, with data that nobody has.
// The node stays dirty and is not started, until it is.
func TestFileSystemIsNotMounted(t *testing.T) {
	for name, unmount := range map[string]func(n *node){
		"of a bind mount":  func(n *node) { n.gone = true; n.bound.Store(true) },
		"of all of Podman": func(n *node) { n.gone = true; clear(n.states) },
	} {
		t.Run(name, func(t *testing.T) {
			n, s, _, _ := aged(t)
			s.loop.stop()
			var whole map[string]string
			n.with(func() {
				n.noProcess()
				whole = maps.Clone(n.states)
				unmount(n)
			})
			if err := s.persist(func(r *record) { r.BootID = "another" }); err != nil {
				t.Fatal(err)
			}
			s = n.agent()
			if _, _, err := do(s, api.ActionStart); err == nil || !strings.Contains(err.Error(), "mount what") {
				t.Errorf("started: %v", err)
			}
			if !s.snapshot().Dirty || n.archived != 0 {
				t.Errorf("what was written last is given up: %+v, archived %d", s.snapshot(), n.archived)
			}
			n.with(func() { n.gone, n.states = false, whole })
			must(t, s, api.ActionStart)
			wantSealed(t, n)
		})
	}
}

// TestDirectoryIsBack: what was put back as it was is captured as before.
func TestDirectoryIsBack(t *testing.T) {
	n, s, _, _ := aged(t)
	n.with(func() { n.moved = map[string]bool{"web": true} })
	if _, err := s.Replicate(t.Context()); err == nil {
		t.Error("captured while a container has another directory")
	}
	n.with(func() { clear(n.moved) })
	if _, err := s.Replicate(t.Context()); err != nil {
		t.Error(err)
	}
	must(t, s, api.ActionDemote)
	wantSealed(t, n)
	if n.archived != 0 {
		t.Error("what is whole was archived")
	}
}

// TestVolumeOfOldIsGone: a container was made again, without the volume and with something that is not
// carried. To say that a restart makes the volume again would be no help.
func TestVolumeOfOldIsGone(t *testing.T) {
	n, s, _, _ := aged(t)
	n.with(func() { n.gone, n.odd = true, errors.New("it mounts a device") })
	s.forgetDefinition()
	_, err := s.Replicate(t.Context())
	if err == nil || !strings.Contains(err.Error(), "it mounts a device") || strings.Contains(err.Error(), "pcs resource restart") {
		t.Errorf("captured: %v", err)
	}
	n.with(func() { n.odd = nil })
	if _, err = s.Replicate(t.Context()); err == nil || !strings.Contains(err.Error(), "pcs resource restart") {
		t.Errorf("captured: %v", err)
	}
}

// TestMovedJustNow: a demotion looks before the containers end.
func TestMovedJustNow(t *testing.T) {
	n, s, old, _ := aged(t)
	n.with(func() { n.moved = map[string]bool{"web": true} })
	swap(t, n.root)
	must(t, s, api.ActionDemote)
	if head, _ := (replica{n}).Head(); head != old || n.archived == 0 {
		t.Errorf("sealed as %s is what the container did not have", head)
	}
}

// TestReplacedUnderAStandby: a container that was set up ahead has the directory that was there then.
// It is set up again before it is started.
func TestReplacedUnderAStandby(t *testing.T) {
	for name, next := range map[string]func(t *testing.T, s *Service) error{
		"a round later": func(t *testing.T, s *Service) error { return s.standbyOnce(t.Context()) },
		"promoted at once": func(t *testing.T, s *Service) error {
			_, _, err := do(s, api.ActionPromote)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, s, _ := standingBy(t)
			if err := s.standbyOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.checkPrepared(t.Context())
			if n.states["web"] != "initialized" {
				t.Fatal(n.states)
			}
			n.with(func() { n.moved = map[string]bool{"web": true} })
			if err := next(t, s); err != nil {
				t.Error(err)
			}
			s.loop.stop()
			n.with(func() {
				if len(n.moved) > 0 || n.states["web"] == "created" {
					t.Errorf("container web still has another directory than the volume: %v", n.states)
				}
			})
		})
	}
}

// TestMountPointIsEmpty: the node was booted without the file system of a volume that had data. Nothing
// is sealed, archived or applied there until it is mounted, or somebody has put a file there; that is archived.
func TestMountPointIsEmpty(t *testing.T) {
	for name, dirty := range map[string]bool{"a former active": true, "a standby": false} {
		t.Run(name, func(t *testing.T) {
			n, s, _, _ := aged(t)
			if !dirty {
				must(t, s, api.ActionDemote)
				if err := s.follow(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			s.loop.stop()
			n.with(n.noProcess)
			if err := s.persist(func(r *record) { r.BootID = "another" }); err != nil {
				t.Fatal(err)
			}
			swap(t, n.root)
			was, tree := len(n.history), n.tree
			s = n.agent()
			if _, _, err := do(s, api.ActionStart); err == nil || !strings.Contains(err.Error(), "mount its file system") {
				t.Errorf("started: %v", err)
			}
			if s.snapshot().Dirty != dirty || n.archived != 0 || len(n.history) != was || n.tree != tree {
				t.Errorf("what is not mounted counts: %+v, archived %d, %d generations", s.snapshot(), n.archived, len(n.history))
			}
			if name := filepath.Join(n.root, "begin"); dirty {
				if err := os.WriteFile(name, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			} else if err := errors.Join(os.Remove(n.root), os.Rename(n.root+".old", n.root)); err != nil {
				t.Fatal(err)
			}
			must(t, s, api.ActionStart)
			if s.loop.stop(); !dirty {
				wantSealed(t, n)
				return
			}
			if err := s.follow(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := n.journalled(api.EventDiverged, "it is archived as archive"); got != 1 || len(n.history) != was {
				t.Errorf("archived %d times, %d generations: %v", got, len(n.history), n.journal)
			}
		})
	}
}

// TestAnotherDirectoryOnAStandby: what is at the path is at no generation, whatever was noted of the
// directory that was there. It is archived before it is replaced; an empty one is not filled, but where
// there was none.
func TestAnotherDirectoryOnAStandby(t *testing.T) {
	for name, test := range map[string]struct {
		swap     func(t *testing.T, dir string)
		refused  bool
		archives int
	}{
		"another": {func(t *testing.T, dir string) { swap(t, dir, "other") }, false, 1},
		"empty":   {func(t *testing.T, dir string) { swap(t, dir) }, true, 0},
		"none": {func(t *testing.T, dir string) {
			if err := os.Rename(dir, dir+".old"); err != nil {
				t.Fatal(err)
			}
		}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n, s, _ := standingBy(t)
			if err := s.standbyOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
			tree := n.tree
			n.with(func() { n.tree, n.moved = empty, map[string]bool{"web": true} })
			test.swap(t, n.root)
			for range 2 { // once, not each time
				if err := s.standbyOnce(t.Context()); (err != nil) != test.refused {
					t.Fatal(err)
				}
			}
			if (n.tree != tree) != test.refused {
				t.Errorf("the tree is at %d, not %d", n.tree, tree)
			}
			if got := n.journalled(api.EventDiverged, "is archived as archive"); got != test.archives {
				t.Errorf("archived %d times", got)
			}
		})
	}
}

// TestArchivedOnce: also where what is to be in its place cannot be applied.
func TestArchivedOnce(t *testing.T) {
	n, s, _, _ := aged(t)
	must(t, s, api.ActionDemote)
	s.loop.stop()
	if err := s.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	swap(t, n.root, "other")
	n.with(func() { n.applyErr = errors.New("no room") })
	for range 3 {
		if err := s.follow(t.Context()); err == nil {
			t.Error("applied")
		}
	}
	if got := n.journalled(api.EventDiverged, "another directory than the one"); got != 1 {
		t.Errorf("archived %d times", got)
	}
}

// TestPutBackLater: the service went on without the directory that the containers had written to. When it
// is mounted again, what nobody has is archived before it is replaced.
func TestPutBackLater(t *testing.T) {
	n, s, _, _ := aged(t)
	n.with(func() { n.moved = map[string]bool{"web": true} })
	swap(t, n.root)
	must(t, s, api.ActionDemote, api.ActionStop, api.ActionStart, api.ActionStop) // it goes on without
	if err := errors.Join(os.Remove(n.root), os.Rename(n.root+".old", n.root)); err != nil {
		t.Fatal(err)
	}
	must(t, s, api.ActionStart)
	s.loop.stop()
	if err := s.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := n.journalled(api.EventDiverged, "it is archived as archive"); got != 1 {
		t.Errorf("archived %d times: %v", got, n.journal)
	}
}

// TestPutBackBeforeItIsMade: as above, where what is to be in its place could not be made yet.
func TestPutBackBeforeItIsMade(t *testing.T) {
	for name, lose := range map[string]func(n *node){
		"moved":   func(n *node) { n.moved = map[string]bool{"web": true} },
		"removed": func(*node) {},
	} {
		t.Run(name, func(t *testing.T) {
			n, s, _, _ := aged(t)
			n.with(func() { n.realiseErr = errors.New("no image") })
			lose(n)
			if err := os.Rename(n.root, n.root+".old"); err != nil {
				t.Fatal(err)
			}
			n.gone = true
			must(t, s, api.ActionDemote)
			s.loop.stop()
			s.handedOver = time.Now().Add(-time.Minute)
			if err := s.standbyOnce(t.Context()); err == nil || len(s.blocked) == 0 || s.complete {
				t.Errorf("prepared: %v, blocked by %v, complete: %v", err, s.blocked, s.complete)
			}
			if err := os.Rename(n.root+".old", n.root); err != nil {
				t.Fatal(err)
			}
			n.with(func() { n.realiseErr, n.gone = nil, false })
			if err := s.standbyOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := n.journalled(api.EventDiverged, "it is archived as archive"); got != 1 {
				t.Errorf("archived %d times: %v", got, n.journal)
			}
		})
	}
}

// TestPutBackBeforeTheBoot: the node went down while the containers had another directory than the path's, and
// came up with the right one.
func TestPutBackBeforeTheBoot(t *testing.T) {
	n, s, _, _ := aged(t)
	n.with(func() { n.moved = map[string]bool{"web": true} })
	swap(t, n.root)
	if _, err := s.Replicate(t.Context()); err == nil {
		t.Error("captured")
	}
	n.with(func() {
		clear(n.moved)
		n.noProcess()
	})
	if err := errors.Join(s.persist(func(r *record) { r.BootID = "another" }), os.Remove(n.root), os.Rename(n.root+".old", n.root)); err != nil {
		t.Fatal(err)
	}
	s = n.agent()
	must(t, s, api.ActionStart)
	wantSealed(t, n)
	if n.archived != 0 {
		t.Error("what is whole was archived")
	}
}

// TestStartedByHandWithAnother: somebody has put another directory in the volume's place and started the
// containers again. It is the service's from then on, unless it is empty; what was before stays.
func TestStartedByHandWithAnother(t *testing.T) {
	n, s, old, _ := aged(t)
	swap(t, n.root)
	if _, err := s.Replicate(t.Context()); err == nil || !strings.Contains(err.Error(), "mount its file system") {
		t.Errorf("captured: %v", err)
	}
	if _, _, err := restore(s, old.String()); err == nil || !strings.Contains(err.Error(), "mount its file system") {
		t.Errorf("taken back, with what cannot be captured before: %v", err)
	}
	s.loop.stop()
	wantActive(t, n, s)
	if err := os.WriteFile(filepath.Join(n.root, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Replicate(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if len(n.pinned) != 1 || n.pinned[0] != old.String() {
		t.Errorf("pinned is %v, not %s", n.pinned, old)
	}
}

// TestStartedByHandJustNow: the same where no capture comes in between.
func TestStartedByHandJustNow(t *testing.T) {
	n, s, old, _ := aged(t)
	swap(t, n.root, "other")
	must(t, s, api.ActionDemote)
	wantSealed(t, n)
	if head, _ := (replica{n}).Head(); head == old {
		t.Error("what the containers wrote there is not sealed")
	}
}

// TestAnotherWhoseContainersAreUnknown: a directory that no container is known to have is not captured as the
// service's, neither while it is active nor when it ends.
func TestAnotherWhoseContainersAreUnknown(t *testing.T) {
	for name, change := range map[string]func(n *node){
		"they have ended":      func(n *node) { clear(n.held); n.states["db"], n.states["web"] = "exited", "exited" },
		"they cannot be asked": func(n *node) { n.hidden = true },
	} {
		t.Run(name, func(t *testing.T) {
			n, s, old, _ := aged(t)
			n.with(func() { change(n) })
			swap(t, n.root, "other")
			if _, err := s.Replicate(t.Context()); err == nil || !strings.Contains(err.Error(), "have or had") {
				t.Errorf("captured: %v", err)
			}
			must(t, s, api.ActionDemote)
			if head, _ := (replica{n}).Head(); head != old {
				t.Errorf("sealed as %s", head)
			}
		})
	}
}

// TestAnotherAtTheStart: what is found in the place of a directory is not what the service has written. The node
// goes on from the last generation.
func TestAnotherAtTheStart(t *testing.T) {
	for name, dirty := range map[string]bool{"after a power cut": true, "after a stop": false} {
		t.Run(name, func(t *testing.T) {
			n, s, _, _ := aged(t)
			if !dirty {
				must(t, s, api.ActionDemote)
				if err := s.follow(t.Context()); err != nil {
					t.Fatal(err)
				}
				must(t, s, api.ActionStop)
			}
			s.loop.stop()
			head, _ := replica{n}.Head()
			n.with(func() {
				n.noProcess()
				n.tree += 100
			})
			if err := s.persist(func(r *record) { r.BootID = "another" }); err != nil {
				t.Fatal(err)
			}
			swap(t, n.root, "other")
			s = n.agent()
			must(t, s, api.ActionStart)
			s.loop.stop()
			if err := s.follow(t.Context()); err != nil {
				t.Fatal(err)
			}
			if now, _ := (replica{n}).Head(); now != head || n.tree != n.trees[head] {
				t.Errorf("sealed as %s, the tree is version %d and not %d", now, n.tree, n.trees[head])
			}
			if got := n.journalled(api.EventDiverged, "it is archived as archive"); got != 1 {
				t.Errorf("archived %d times: %v", got, n.journal)
			}
		})
	}
}

// TestReplacedMeanwhile: another directory comes to be at the path while the one that was there is captured or applied.
func TestReplacedMeanwhile(t *testing.T) {
	t.Run("captured", func(t *testing.T) {
		n, s, old, _ := aged(t)
		n.meanwhile = func() { swap(t, n.root, "other") }
		if _, err := s.Replicate(t.Context()); err == nil || !strings.Contains(err.Error(), "while it was captured") {
			t.Errorf("captured: %v", err)
		}
		if head, _ := (replica{n}).Head(); head != old {
			t.Errorf("sealed as %s", head)
		}
		n.with(func() { n.moved = map[string]bool{"web": true} })
		if _, err := s.Replicate(t.Context()); err == nil || !strings.Contains(err.Error(), "have or had") {
			t.Errorf("captured: %v", err)
		}
	})
	t.Run("applied", func(t *testing.T) {
		n, s, _, _ := aged(t)
		must(t, s, api.ActionDemote)
		s.loop.stop()
		if err := s.persist(func(r *record) { r.Roots = map[string]string{"data": rootToFill} }); err != nil { // the first time
			t.Fatal(err)
		}
		n.meanwhile = func() { swap(t, n.root, "other") }
		if err := s.follow(t.Context()); err == nil || !strings.Contains(err.Error(), "while generation") {
			t.Errorf("applied: %v", err)
		}
		if !n.applied.IsZero() {
			t.Errorf("%s is said to be in a directory that nothing was written to", n.applied)
		}
		if err := s.follow(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := n.journalled(api.EventDiverged, "it is archived as archive"); got != 1 {
			t.Errorf("archived %d times: %v", got, n.journal)
		}
	})
}

// TestBindIsNotMounted: where the directory of a bind mount was, none is made: its file system may not be mounted.
func TestBindIsNotMounted(t *testing.T) {
	n, s, _, _ := aged(t)
	must(t, s, api.ActionDemote)
	s.loop.stop()
	if err := s.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.bound.Store(true)
	n.with(func() { n.gone = true })
	s.forgetDefinition()
	def, err := s.localDefinition(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.prepare(t.Context(), def); err == nil || !strings.Contains(err.Error(), "mount what it is on") || len(s.blocked) != 1 || !n.gone {
		t.Errorf("prepared: %v, blocked by %v", err, s.blocked)
	}
}

// TestDirectoryIsGoneAtTheStart: Podman knows the volume, and its directory is not there. On a node that went down while
// it was active, it may hold what nobody has.
func TestDirectoryIsGoneAtTheStart(t *testing.T) {
	for name, dirty := range map[string]bool{"a former active": true, "a standby": false} {
		t.Run(name, func(t *testing.T) {
			n, s, _, _ := aged(t)
			if !dirty {
				must(t, s, api.ActionDemote)
				s.loop.stop()
				if err := s.follow(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			s.loop.stop()
			n.with(n.noProcess)
			if err := errors.Join(s.persist(func(r *record) { r.BootID = "another" }), os.Rename(n.root, n.root+".old")); err != nil {
				t.Fatal(err)
			}
			s = n.agent()
			_, _, err := do(s, api.ActionStart)
			if refused := err != nil && strings.Contains(err.Error(), "mount what it is on"); refused != dirty || s.snapshot().Dirty != dirty {
				t.Fatalf("started: %v", err)
			}
			if s.loop.stop(); dirty {
				return
			}
			s.handedOver = time.Now().Add(-time.Minute)
			if err := s.standbyOnce(t.Context()); err != nil || n.tree == empty {
				t.Errorf("%v, the tree is version %d", err, n.tree)
			}
		})
	}
}

// TestBindThatNeverWas: nor is that refused at the start whose directory was never here.
func TestBindThatNeverWas(t *testing.T) {
	n, s, _, _ := aged(t)
	must(t, s, api.ActionDemote, api.ActionStop)
	if err := s.persist(func(r *record) { r.Roots = map[string]string{"data": rootToFill} }); err != nil {
		t.Fatal(err)
	}
	n.bound.Store(true)
	n.with(func() { n.gone = true })
	must(t, n.agent(), api.ActionStart)
}

// TestNewTree: what a standby has in the place of a tree that the service did not have before is archived; nobody has
// asked for it to be replaced. Once, and not where the record is of a version that kept no directories.
func TestNewTree(t *testing.T) {
	for name, test := range map[string]struct {
		roots    map[string]string
		archives int
	}{
		"new":            {map[string]string{"other": "1"}, 1},
		"not known":      {nil, 0},
		"known":          {map[string]string{"other": "1", "data": "?"}, 0},
		"to be filled":   {map[string]string{"other": "1", "data": rootToFill}, 0},
		"of another yet": {map[string]string{"other": "1", "data": rootOther}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			n, s, _ := standingBy(t)
			if id, ok := test.roots["data"]; ok && id == "?" {
				test.roots["data"] = rootOf(n.root)
			}
			s.tidy.Wait()
			s.prepared = ""
			if err := s.persist(func(r *record) { r.Roots = test.roots }); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := s.standbyOnce(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got := n.journalled(api.EventDiverged, "it is archived as archive"); got != test.archives {
				t.Errorf("archived %d times, not %d", got, test.archives)
			}
		})
	}
}

// TestOwnDataIsArchivedOnce: what a node had before it was a standby is no other directory besides.
func TestOwnDataIsArchivedOnce(t *testing.T) {
	n, s, _ := standingBy(t)
	s.tidy.Wait()
	s.prepared = ""
	if err := s.persist(func(r *record) { r.Adopted, r.Roots = false, map[string]string{"other": rootToFill} }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.standbyOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if own, other := n.journalled(api.EventDiverged, "is archived as 0.1"), n.journalled(api.EventDiverged, "it is archived as archive"); own != 1 || other != 0 {
		t.Errorf("archived %d times as its own, %d times as another directory", own, other)
	}
}

// TestNoRoomForAnArchive: it is not replaced, and not read over and over.
func TestNoRoomForAnArchive(t *testing.T) {
	n, s, _, _ := aged(t)
	must(t, s, api.ActionDemote)
	s.loop.stop()
	if err := s.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	swap(t, n.root, "other")
	n.with(func() { n.archiveErr, n.tree = syscall.ENOSPC, empty })
	for range 3 {
		if err := s.follow(t.Context()); err == nil || !strings.Contains(err.Error(), "take it away from "+n.root) {
			t.Errorf("applied: %v", err)
		}
	}
	if n.refused != 1 || n.tree != empty {
		t.Errorf("tried %d times, the tree is version %d", n.refused, n.tree)
	}
	s.noArchive = time.Time{}
	n.with(func() { n.archiveErr = nil })
	if err := s.follow(t.Context()); err != nil || n.tree == empty {
		t.Errorf("%v, the tree is version %d", err, n.tree)
	}
}

// TestMadeAndNotFilled: the agent is killed after a directory was made and before that is noted. It does not count
// as what was applied.
func TestMadeAndNotFilled(t *testing.T) {
	n, s, _ := standingBy(t)
	if err := s.standbyOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(n.root, n.root+".old"); err != nil {
		t.Fatal(err)
	}
	n.with(func() { n.realiseErr = errors.New("killed") })
	def, _, err := s.headDefinition()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.prepare(t.Context(), def); err == nil || !n.applied.IsZero() {
		t.Errorf("%v; what is to be made is at generation %s", err, n.applied)
	}
	if err := os.Mkdir(n.root, 0o755); err != nil {
		t.Fatal(err)
	}
	n.with(func() { n.realiseErr, n.tree = nil, empty })
	if head, _ := (replica{n}).Head(); true {
		n.with(func() { n.applied = head }) // as if it were
	}
	if err := s.follow(t.Context()); err != nil || n.tree == empty {
		t.Errorf("%v, the tree is version %d", err, n.tree)
	}
}

// TestRecordOfAnEarlierVersion: it told a tree's directory by another value under another name.
func TestRecordOfAnEarlierVersion(t *testing.T) {
	n, s, _, _ := aged(t)
	must(t, s, api.ActionDemote, api.ActionStop)
	name := recordPath(n.dir, "registry")
	b, err := durable.ReadSummed(name)
	if err == nil {
		b = append([]byte(`{"roots":{"data":12345},`), b[1:]...)
		err = durable.WriteSummed(name, b, 0o600, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	must(t, n.agent(), api.ActionStart)
}

// TestCannotBeTold: what is known of a container stays known when it cannot be looked at any more.
func TestCannotBeTold(t *testing.T) {
	n, s, _, _ := aged(t)
	n.with(func() { n.moved = map[string]bool{"web": true} })
	swap(t, n.root, "other")
	for range 2 {
		if _, err := s.Replicate(t.Context()); err == nil {
			t.Error("captured while a container has another directory")
		}
		n.with(func() { n.hidden = true })
	}
}

// standingBy is aged, demoted a while ago; its loop stands still. was is the tree's version from before the demotion.
func standingBy(t *testing.T) (n *node, s *Service, was int) {
	t.Helper()
	n, s, _, was = aged(t)
	must(t, s, api.ActionDemote)
	s.loop.stop()
	s.handedOver = time.Now().Add(-time.Minute)
	return n, s, was
}

// swap puts another directory, with such files, in the place of one with data.
func swap(t *testing.T, dir string, files ...string) {
	t.Helper()
	if err := errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// journalled counts the decisions of a kind that say so.
func (n *node) journalled(event, text string) (count int) {
	n.with(func() {
		for _, d := range n.journal {
			if d.Event == event && strings.Contains(d.Reason, text) {
				count++
			}
		}
	})
	return count
}
