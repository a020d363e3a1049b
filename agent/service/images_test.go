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
