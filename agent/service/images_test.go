package service

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// damage is a Runtime that has lost some of an image.
type damage struct {
	*node
	bad   []string
	kept  bool  // enough of it to load it anew
	fails error // it cannot be removed
}

func (d *damage) DamagedImages([]string) []string { return slices.Clone(d.bad) }

func (d *damage) RepairImage(context.Context, string, []string) (bool, error) {
	if d.fails == nil {
		d.bad = nil
	}
	return d.kept, d.fails
}

// While an image is damaged the node is no candidate, also where nothing can be done about it.
func TestDamagedImage(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote, api.ActionDemote)
	s.loop.stop()
	d := &damage{node: n, bad: []string{"sha256:1"}, fails: errors.New("container cron uses it")}
	s.Runtime = d
	load := func() error {
		s.imagesAt = time.Time{}
		return s.loadImages(t.Context())
	}
	for range 2 {
		if err := load(); err == nil || !strings.Contains(err.Error(), "cron") || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("it cannot be repaired: %v", err)
		}
		if why := s.blockers(); len(why) == 0 || s.wantScore() != 0 {
			t.Errorf("it cannot be repaired, and the node would take over: %q, score %d", why, s.wantScore())
		}
	}
	d.fails, d.kept = nil, true
	if err := load(); err != nil {
		t.Fatal(err)
	}
	if why := s.blockers(); len(why) > 0 {
		t.Errorf("repaired: %q", why)
	}
	if !slices.ContainsFunc(n.journal, func(d api.Decision) bool { return strings.Contains(d.Reason, "loaded anew from what was kept") }) {
		t.Error("the journal does not say that an image was damaged")
	}
	if s.prepared != "" {
		t.Error("containers of the image were removed, and are not looked at again")
	}
}

// sendImage does what the active node does with what it is told: it sends an image that is not here,
// without the layers that are.
func (n *node) sendImage(id string) (sent string) {
	n.with(func() {
		if slices.Contains(n.have, id) {
			return
		}
		sent = "whole " + id
		if len(n.asked) > 0 {
			sent = "thin " + id
		}
		n.archives = append(n.archives, sent)
	})
	return sent
}

// TestARefusedImageIsAskedForWhole: and once that is loaded, images come without the layers again.
func TestARefusedImageIsAskedForWhole(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote, api.ActionDemote)
	s.loop.stop()
	n.with(func() { n.images, n.refusals = nil, 1 })
	look := func(wantMissing int) {
		t.Helper()
		s.imagesAt = time.Time{}
		if err := s.loadImages(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.Status().Missing; len(got) != wantMissing {
			t.Errorf("missing are %q, not %d", got, wantMissing)
		}
		if left := s.Replica.PendingImages(); len(left) > 0 {
			t.Errorf("%q were looked at and are still there", left)
		}
	}
	send := func(id, want string) {
		t.Helper()
		if got := n.sendImage(id); got != want {
			t.Errorf("sent is %q, not %q", got, want)
		}
	}
	look(1)
	send("sha256:1", "thin sha256:1")
	look(1) // refused
	look(1) // on the way
	send("sha256:1", "whole sha256:1")
	look(0)
	send("sha256:1", "")
	send("sha256:2", "thin sha256:2")
	look(0)
	if images, _, err := n.Images(t.Context()); err != nil || !slices.Equal(images, []string{"sha256:1", "sha256:2"}) {
		t.Errorf("loaded are %q, %v", images, err)
	}
}
