package service

import (
	"maps"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/agent/api"
)

// TestVolumeIsGone: somebody has removed a volume of the active node. Nothing is sealed
// without it; with the next demotion or start the node goes on from the last generation.
func TestVolumeIsGone(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, n *node, s *Service) *Service{
		"demote": func(t *testing.T, _ *node, s *Service) *Service { must(t, s, api.ActionDemote); return s },
		"stop": func(t *testing.T, _ *node, s *Service) *Service {
			must(t, s, api.ActionStop, api.ActionStart)
			return s
		},
		"power cut": func(t *testing.T, n *node, s *Service) *Service {
			s.loop.stop()
			n.with(func() {
				for c := range n.states {
					n.states[c] = "created"
				}
				clear(n.held)
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
			n.with(func() { n.gone = true })
			_, err := s.Replicate(t.Context())
			if err == nil || !strings.Contains(err.Error(), "volume data of service registry is not on n1") || !strings.Contains(err.Error(), "pcs resource restart registry") {
				t.Errorf("captured without its volume: %v", err)
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
			if r := s.snapshot(); r.Dirty || r.Role != api.RoleStandby {
				t.Errorf("%+v", r)
			}
			must(t, s, api.ActionPromote)
			wantActive(t, n, s)
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
				for c := range n.states {
					n.states[c] = "created"
				}
				clear(n.held)
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
