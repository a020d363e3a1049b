package store

import (
	"errors"
	"maps"
	"testing"

	"github.com/understudy-ha/understudy/replication"
)

// TestEnds: where terms ended is known of the line that leads to the head, and of no other.
func TestEnds(t *testing.T) {
	var fail string
	s, err := Open(t.TempDir(), "registry", Options{Hook: func(step string) error {
		if step == fail {
			return errors.New("killed")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tryPut := func(at, parent replication.ID) error { return s.Commit(manifest(at, parent)) }
	put := func(at, parent replication.ID) {
		t.Helper()
		commit(t, s, manifest(at, parent))
	}
	reset := func(to replication.ID) {
		t.Helper()
		if err := s.Reset(to); err != nil {
			t.Fatal(err)
		}
	}
	want := func(ends map[uint64]uint64) {
		t.Helper()
		if got, err := s.Ends(); err != nil || !maps.Equal(got, ends) {
			t.Errorf("%v, %v; want %v", got, err, ends)
		}
	}
	want(nil)
	put(id(1, 1), replication.ID{})
	put(id(1, 2), id(1, 1))
	put(id(1, 3), id(1, 2))
	want(nil)
	put(id(3, 1), id(1, 3)) // term 2 wrote nothing
	want(map[uint64]uint64{1: 3})
	put(id(4, 1), id(3, 1))
	want(map[uint64]uint64{1: 3, 3: 1})

	reset(id(1, 2)) // that line is left
	want(nil)
	for _, fail = range []string{"write ends", "rename ends", "syncdir ends", "write head"} {
		if err := tryPut(id(5, 1), id(1, 2)); err == nil {
			t.Errorf("not killed at %q", fail)
		}
		want(nil)
	}
	fail = ""
	put(id(6, 1), id(1, 2))
	want(map[uint64]uint64{1: 2})

	reset(replication.ID{})
	want(nil)
	put(id(7, 1), replication.ID{})
	want(nil)
	put(id(8, 1), id(7, 1))
	want(map[uint64]uint64{7: 1})
	put(id(9, 1), id(8, 1))
	want(map[uint64]uint64{7: 1, 8: 1})
	put(id(12, 40), id(9, 1)) // squashed: 10 and 11 may lie between
	want(nil)
	put(id(13, 1), id(12, 40))
	want(map[uint64]uint64{12: 40})
}
