package store

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/replication"
)

// TestShortOfRoom: what only pruned generations needed goes at once, however young it is; what
// a sender has just brought does not.
func TestShortOfRoom(t *testing.T) {
	c := &clock{}
	s := open(t, t.TempDir(), Options{Now: c.now, Steady: c.steady, PackGrace: 100 * time.Hour})
	spread(t, s, 6, func() { c.ahead += 2 * time.Hour })
	put(t, s, []byte("just shipped, its manifest is to come"))
	orphan := put(t, s, []byte("of a capture that found no room"))
	out := prune(t, s, Policy{Short: true, Orphans: []replication.Hash{orphan[0].Hash}})
	if len(out.Generations) != 4 || out.Packs != 5 {
		t.Errorf("%+v", out)
	}
	for i, want := range map[uint64]bool{1: false, 4: false, 5: true, 6: true} {
		if got := s.Has(hashOf(noise(i, 5000))); got != want {
			t.Errorf("chunk of generation %d: %v", i, got)
		}
	}
	if !s.Has(hashOf([]byte("just shipped, its manifest is to come"))) || s.Has(hashOf([]byte("of a capture that found no room"))) {
		t.Error("what was shipped went, or what found no room stayed")
	}
}

func TestThinned(t *testing.T) {
	var steps []Policy
	for n := 0; n == 0 || DefaultPolicy.Thins(n); n++ {
		steps = append(steps, DefaultPolicy.Thinned(n))
	}
	if d := cmp.Diff([]Policy{
		{KeepLast: 20, Hourly: 24, Daily: 7, Weekly: 4},
		{KeepLast: 10, Hourly: 12, Daily: 3, Weekly: 2},
		{KeepLast: 5, Hourly: 6, Daily: 2, Weekly: 1},
		{KeepLast: 2, Hourly: 3, Daily: 2},
		Floor,
	}, steps); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestNothingIsPackedBelowTheLeast but what a hand-over, or a repair, needs.
func TestNothingIsPackedBelowTheLeast(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	room, err := s.Room()
	if err != nil {
		t.Fatal(err)
	}
	if room.Full() || room.Least != LeastFree || room.Spare < 2*LeastFree || room.Size < room.Free {
		t.Fatalf("%+v", room)
	}
	s.o.LeastFree = room.Free + room.Free/2
	if err := s.RoomToSeal(false); !errors.Is(err, replication.ErrNoSpace) {
		t.Errorf("%v", err)
	}
	text := []byte("some content")
	for _, final := range []bool{false, true} {
		w := s.NewPack()
		w.Final = final
		err := w.Put(hashOf(text), text, nil, 0)
		w.Abort()
		if final && err != nil || !final && !errors.Is(err, replication.ErrNoSpace) {
			t.Errorf("final %v: %v", final, err)
		}
	}
}
