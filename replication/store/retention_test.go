package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// chain commits n generations of term 1, each with a chunk of its own in a pack of its own.
func chain(t testing.TB, s *Store, n uint64) {
	t.Helper()
	spread(t, s, n, func() {})
}

// spread is chain with something between two commits.
func spread(t testing.TB, s *Store, n uint64, between func()) {
	t.Helper()
	parent := replication.ID{}
	for i := uint64(1); i <= n; i++ {
		if i > 1 {
			between()
		}
		put(t, s, noise(i, 5000))
		commit(t, s, manifest(id(1, i), parent, noise(i, 5000)))
		parent = id(1, i)
	}
}

func generations(t testing.TB, s *Store) []replication.ID {
	t.Helper()
	ids, err := s.Generations()
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// prune looks ahead, prunes, and makes sure that both say the same of generations.
func prune(t testing.TB, s *Store, p Policy) Pruned {
	t.Helper()
	plan, err := s.PlanPrune(p)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Prune(p)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(plan.Generations, out.Generations); d != "" || plan.Packs < out.Packs {
		t.Errorf("planned %+v, done %+v", plan, out)
	}
	return out
}

func TestPruneHasAFloor(t *testing.T) {
	c := &clock{}
	s := open(t, t.TempDir(), Options{Now: c.now, Steady: c.steady, PackGrace: 100 * time.Hour})
	spread(t, s, 6, func() { c.ahead += 2 * time.Hour })
	put(t, s, []byte("just shipped, its manifest is to come"))
	div := manifest(id(1, 9), id(1, 2), noise(1, 5000))
	if _, err := s.Diverge(div); err != nil {
		t.Fatal(err)
	}
	if out := prune(t, s, Policy{Hourly: 6}); len(out.Generations) != 0 {
		t.Errorf("six hours of six: %+v", out)
	}
	if out, err := s.PlanPrune(Policy{}); err != nil || len(out.Generations) != 4 || out.Packs != 4 || len(generations(t, s)) != 6 { // 2, 3, 4, and the one that was shipped for nothing
		t.Errorf("a plan: %+v, %v", out, err)
	}
	out := prune(t, s, Policy{KeepLast: -3, Hourly: -1, Applied: []replication.ID{id(1, 3)}})
	if d := cmp.Diff([]replication.ID{id(1, 3), id(1, 5), id(1, 6)}, generations(t, s)); d != "" {
		t.Errorf("kept (-want +got):\n%s", d)
	}
	if len(out.Generations) != 3 || out.Packs != 0 {
		t.Errorf("within the grace period: %+v", out)
	}
	c.ahead += 200 * time.Hour
	if out := prune(t, s, Policy{Applied: []replication.ID{id(1, 3)}}); out.Packs != 3 { // 2, 4, and the one that was shipped for nothing
		t.Errorf("after the grace period: %+v", out)
	}
	for i, want := range map[uint64]bool{1: true, 2: false, 3: true, 4: false, 5: true, 6: true} {
		if got := s.Has(hashOf(noise(i, 5000))); got != want {
			t.Errorf("chunk of generation %d: %v; 1 is of the diverged one", i, got)
		}
	}
	if out := prune(t, s, Policy{Applied: []replication.ID{id(1, 3)}}); len(out.Generations)+out.Packs != 0 {
		t.Errorf("pruned again: %+v", out)
	}
}

func TestPruneRemovesNothingNextToAnUnreadableManifest(t *testing.T) {
	c := &clock{ahead: 3 * time.Hour}
	s := open(t, t.TempDir(), Options{Now: c.now})
	chain(t, s, 3)
	put(t, s, []byte("unreferenced"))
	if err := os.Chmod(s.manifestFile(id(1, 2)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.manifestFile(id(1, 2)), 40); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Prune(Policy{KeepLast: 9}); err == nil || out.Packs != 0 {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestIncomingIsSwept(t *testing.T) {
	c := &clock{ahead: 25 * time.Hour}
	s := open(t, t.TempDir(), Options{Now: c.now})
	old, young := filepath.Join(s.IncomingDir(), "old"), filepath.Join(s.IncomingDir(), "young")
	for p, at := range map[string]time.Time{old: time.Now(), young: c.now()} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Prune(Policy{}); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(s.IncomingDir())
	if err != nil || len(left) != 1 || left[0].Name() != "young" {
		t.Errorf("%v, %v", left, err)
	}
}

func TestDivergeAndReset(t *testing.T) {
	c := &clock{}
	s := open(t, t.TempDir(), Options{Now: c.now, Steady: c.steady})
	chain(t, s, 5)
	if err := s.Fence(4); err != nil {
		t.Fatal(err)
	}
	div := manifest(id(1, 6), id(1, 5), noise(5, 5000))
	name, err := s.Diverge(div)
	if err != nil || name != "1.6.1" {
		t.Fatal(name, err)
	}
	if again, err := s.Diverge(div); err != nil || again != name {
		t.Errorf("the same again is %s, %v", again, err)
	}
	if other, err := s.Diverge(manifest(id(1, 6), id(1, 5), noise(4, 5000))); err != nil || other != "1.6.2" {
		t.Errorf("another is %s, %v", other, err)
	}
	if err := s.Reset(id(1, 9)); !errors.Is(err, replication.ErrNotFound) {
		t.Errorf("to what is not there: %v", err)
	}
	if err := s.Reset(id(1, 3)); err != nil {
		t.Fatal(err)
	}
	if err := s.Reset(id(1, 3)); err != nil {
		t.Errorf("again: %v", err)
	}
	if ids := generations(t, s); ids[len(ids)-1] != id(1, 3) {
		t.Errorf("%v", ids)
	}
	if _, err := s.Load(id(1, 4)); !errors.Is(err, replication.ErrNotFound) {
		t.Errorf("a superseded generation loads: %v", err)
	}
	st, err := s.State()
	if err != nil || st.Head != id(1, 3) || st.Term != 4 {
		t.Errorf("%+v, %v", st, err)
	}
	commit(t, s, manifest(id(4, 1), id(1, 3), noise(1, 5000)))
	ds, err := s.Diverged()
	if err != nil || len(ds) != 2 {
		t.Fatalf("%v, %v", ds, err)
	}
	m, err := s.LoadDiverged(name)
	if err != nil || !m.Diverged || m.ID != id(1, 6) {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, bad := range []string{"", "x", "../1.6.1", "1.6", "1.6.01", "1.6.1/../../head"} {
		if _, err := s.LoadDiverged(bad); !errors.Is(err, replication.ErrFormat) && !errors.Is(err, replication.ErrNotFound) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := s.Reset(replication.ID{}); err != nil {
		t.Fatal(err)
	}
	if head, err := s.Head(); err != nil || !head.IsZero() {
		t.Fatal(head, err)
	}
	commit(t, s, manifest(id(5, 7), id(5, 6), noise(2, 5000))) // a chain's continuation, into a store without a head
	c.ahead = 72 * time.Hour
	if _, err := s.Prune(Policy{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadDiverged(name); err != nil {
		t.Errorf("pruned: %v", err)
	}
	if !s.Has(hashOf(noise(5, 5000))) || !s.Has(hashOf(noise(4, 5000))) || s.Has(hashOf(noise(3, 5000))) {
		t.Error("content of diverged generations stays, of superseded ones goes after a while")
	}
}

var errKilled = errors.New("killed here")

// Whatever step a commit, a fence or a reset stops at, the store is as before
// or as after, and doing it again completes it.
func TestKilledAtEveryStep(t *testing.T) {
	acts := map[string]func(*Store) error{
		"commit": func(s *Store) error { return s.Commit(manifest(id(2, 1), id(1, 3), noise(2, 5000))) },
		"accept": func(s *Store) error {
			w := s.NewPack()
			defer w.Abort()
			if err := w.Put(hashOf([]byte("new")), []byte("new"), nil, 0); err != nil {
				return err
			}
			_, err := w.Seal()
			return err
		},
		"reset":   func(s *Store) error { return s.Reset(id(1, 1)) },
		"diverge": func(s *Store) error { _, err := s.Diverge(manifest(id(1, 4), id(1, 3), noise(1, 5000))); return err },
		"prune":   func(s *Store) error { _, err := s.Prune(Policy{}); return err },
	}
	for name, act := range acts {
		t.Run(name, func(t *testing.T) {
			for n, done := 0, false; !done; n++ {
				root := t.TempDir()
				c := &clock{}
				spread(t, open(t, root, Options{Steady: c.steady}), 3, func() { c.ahead += 2 * time.Hour })
				step := 0
				dying := open(t, root, Options{Steady: c.steady, PackGrace: time.Nanosecond, Hook: func(string) error {
					if step++; step > n {
						return errKilled
					}
					return nil
				}})
				err := act(dying)
				if done = err == nil; !done && !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				s := open(t, root, Options{Steady: c.steady})
				st, err := s.State()
				if err != nil {
					t.Fatal(err)
				}
				ids := generations(t, s)
				if len(ids) == 0 || ids[len(ids)-1] != st.Head {
					t.Fatalf("step %d: head %s, generations %v", n, st.Head, ids)
				}
				for _, g := range ids {
					m, err := s.Load(g)
					if err != nil {
						t.Fatal(err)
					}
					if missing, err := s.Missing(treetest.Chunks(m)); err != nil || len(missing) > 0 {
						t.Fatalf("step %d: generation %s lacks %d chunks, %v", n, g, len(missing), err)
					}
				}
				if err := act(s); err != nil {
					t.Fatalf("step %d, again: %v", n, err)
				}
			}
		})
	}
}

// A generation that a kill left beyond the head, and that comes again with
// other content, gives way: it was never acknowledged.
func TestOrphanGivesWay(t *testing.T) {
	root := t.TempDir()
	chain(t, open(t, root, Options{}), 2)
	dying := open(t, root, Options{Hook: func(step string) error {
		if step == "write head" {
			return errKilled
		}
		return nil
	}})
	if err := dying.Commit(manifest(id(1, 3), id(1, 2), noise(1, 5000))); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	s := open(t, root, Options{})
	if _, err := s.Load(id(1, 3)); !errors.Is(err, replication.ErrNotFound) {
		t.Errorf("it can be seen: %v", err)
	}
	commit(t, s, manifest(id(1, 3), id(1, 2), noise(2, 5000)))
	if m, err := s.Load(id(1, 3)); err != nil || m.Volumes[0].Entries.Get("f0000").Chunks[0].Hash != hashOf(noise(2, 5000)) {
		t.Error(err)
	}
}

// What is removed hangs on the files: what is in memory may be what was there before another process rewrote one.
func TestPruneGoesByTheFiles(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	chain(t, s, 1)
	ids := generations(t, s)
	path := s.manifestFile(ids[0])
	m, err := s.Load(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	other := *m
	other.Volumes, other.Delta = nil, nil
	s.loaded.keep(path, fi, &other)
	refs := marks{}
	if err := s.reference(refs, map[string]fs.FileInfo{}, nil); err != nil {
		t.Fatal(err)
	}
	for _, h := range treetest.Chunks(m) {
		if !refs.has(h) {
			t.Errorf("chunk %s of %s counts as needed by nobody", h, ids[0])
		}
	}
	if len(refs) == 0 {
		t.Error("nothing counts as needed")
	}
}
