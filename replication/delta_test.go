package replication_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/replication"
)

// seed is printed, so that a failure can be played again.
func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func randomEntry(r *rand.Rand) *replication.Entry {
	e := &replication.Entry{
		Path: randomPath(r), Type: replication.TypeFile, Mode: uint32(r.IntN(3)), Size: int64(r.IntN(3)),
	}
	switch r.IntN(4) {
	case 0:
		e.Link = randomPath(r)
	case 1:
		e.Xattrs = map[string][]byte{"user.a": {byte(r.IntN(2))}, "user.b": nil}
	case 2:
		e.Chunks = []replication.Chunk{{Length: 1, Hash: replication.Hash{byte(r.IntN(2))}, Skip: int64(r.IntN(2))}}
	case 3:
		e.Flags = replication.FlagImmutable << r.IntN(2)
	}
	return e
}

func randomPath(r *rand.Rand) string {
	parts := []string{"a", "b", "a-b", "\xff", "é\n"}
	out := parts[r.IntN(len(parts))]
	for range r.IntN(3) {
		out += "/" + parts[r.IntN(len(parts))]
	}
	return out
}

// Entries are a map with an order, and clones do not see each other.
func TestEntriesAreAMap(t *testing.T) {
	r := seeded(t)
	es, want := replication.NewEntries(&replication.Entry{Path: "."}), map[string]*replication.Entry{".": {Path: "."}}
	for step := range 3000 {
		if r.IntN(4) == 0 {
			path := randomPath(r)
			es.Delete(path)
			delete(want, path)
		} else {
			e := randomEntry(r)
			es.Set(e)
			want[e.Path] = e
		}
		if step%10 == 0 {
			before, sum := es, es.Sum()
			es = es.Clone()
			es.Set(&replication.Entry{Path: "only in the clone"})
			if before.Get("only in the clone") != nil || before.Sum() != sum {
				t.Fatal("a clone's change shows in the original")
			}
			es.Delete("only in the clone")
			if es.Sum() != sum {
				t.Fatal("the sum depends on what was there once")
			}
		}
		check(t, es, want)
	}
}

func check(t *testing.T, es *replication.Entries, want map[string]*replication.Entry) {
	t.Helper()
	if es.Len() != len(want) {
		t.Fatalf("%d entries, not %d", es.Len(), len(want))
	}
	paths := slices.SortedFunc(maps.Keys(want), replication.ComparePaths)
	at := 0
	for e := range es.All() {
		if e.Path != paths[at] || !e.Equal(want[e.Path]) {
			t.Fatalf("entry %d is %+v, not %+v", at, e, want[paths[at]])
		}
		at++
	}
	dir := paths[len(paths)/2]
	var below, links []string
	for e := range es.Below(dir) {
		below = append(below, e.Path)
	}
	for l := range es.LinksTo(dir) {
		links = append(links, l)
	}
	wantBelow := slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return p == "." || dir != "." && !strings.HasPrefix(p, dir+"/") })
	wantLinks := slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return want[p].Link != dir })
	if !slices.Equal(below, wantBelow) || !slices.Equal(links, wantLinks) {
		t.Fatalf("below %q: %q, not %q; links %q, not %q", dir, below, wantBelow, links, wantLinks)
	}
	if other := replication.NewEntries(slices.Collect(maps.Values(want))...); other.Sum() != es.Sum() {
		t.Fatal("the sum depends on the order of the changes")
	}
}

func generation(seq uint64, volumes map[string]*replication.Entries) *replication.Manifest {
	m := &replication.Manifest{ID: replication.ID{Term: 1, Seq: seq}}
	for _, name := range slices.Sorted(maps.Keys(volumes)) {
		m.Volumes = append(m.Volumes, replication.Volume{Name: name, Entries: volumes[name], Skipped: int(seq % 2)})
	}
	return m
}

// What DeltaFrom finds, ApplyTo makes of the base; and of nothing else.
func TestDeltaMakesTheGeneration(t *testing.T) {
	r := seeded(t)
	volumes := func(from map[string]*replication.Entries) map[string]*replication.Entries {
		out := map[string]*replication.Entries{}
		for n := range 3 {
			name := fmt.Sprintf("v%d", n)
			if r.IntN(4) == 0 {
				continue
			}
			es := from[name].Clone()
			for range r.IntN(20) {
				es.Set(randomEntry(r))
				es.Delete(randomPath(r))
			}
			out[name] = es
		}
		return out
	}
	for range 200 {
		first := volumes(nil)
		second := volumes(first)
		a, b := generation(1, first), generation(2, second)
		d := b.DeltaFrom(a)
		got, err := d.ApplyTo(a)
		if err != nil {
			t.Fatal(err)
		}
		made := &replication.Manifest{ID: b.ID, Volumes: got, Delta: d}
		if made.Sum() != b.Sum() {
			t.Fatal("the delta makes something else")
		}
		if made.DeltaFrom(a) != d {
			t.Error("a delta that is known is worked out again")
		}
		other := generation(1, second)
		if a.Sum() == other.Sum() {
			continue
		}
		if _, err := d.ApplyTo(other); !errors.Is(err, replication.ErrWrongParent) {
			t.Fatalf("applied to a base of other content: %v", err)
		}
	}
}
