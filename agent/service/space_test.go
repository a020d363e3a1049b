package service

import (
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication/store"
)

// TestSpace: status tells how the disk stands, and the journal when that gets worse and when it
// is well again; a takeover is not stood against.
func TestSpace(t *testing.T) {
	n, s, _, _ := aged(t)
	must(t, s, api.ActionDemote)
	disk := func(free int64) {
		n.with(func() { n.room = store.Room{Free: free << 20, Size: 1000 << 20, Spare: 200 << 20, Least: 64 << 20} })
		s.Poke()
	}
	wants := func(state string) {
		t.Helper()
		st := s.Status()
		told := slices.ContainsFunc(st.Warnings, func(w string) bool { return strings.Contains(w, "the store's file system has") })
		if st.Space != state || told != (state != "") || len(st.Blockers) > 0 {
			t.Errorf("%+v", st)
		}
	}
	disk(500)
	wants("")
	disk(100)
	wants(api.SpaceShort)
	n.said(t, "SHORT OF ROOM: the store's file system has 100 MiB left of 1000")
	disk(10)
	wants(api.SpaceFull)
	n.said(t, "FULL: the store's file system has 10 MiB left", "nothing new is sealed or received")
	disk(100)
	wants(api.SpaceShort)
	disk(500)
	n.said(t, "the store has room again")
	wants("")
}

func (r replica) Room() (room store.Room, _ store.Policy, _ error) {
	r.n.with(func() { room = r.n.room })
	return room, store.Policy{}, nil
}

func (r replica) Lacks() (lost int) { r.n.with(func() { lost = r.n.lost }); return lost }
