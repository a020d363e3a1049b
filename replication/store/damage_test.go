package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/replication"
)

func unhurried(int) error { return nil }

// flip changes a bit of a file of the store, as a disk does: under its name, in place.
func flip(t testing.TB, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // root may
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b[at] ^ 16}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can write to what is sealed")
	}
}

// Whichever byte of a pack is hit, header, content, index or trailer, it is found, unless
// the content is what it was all the same: a bit of a compressed frame may say nothing.
func TestEveryFlipInAPackIsFound(t *testing.T) {
	needRoot(t)
	const frame = 6 // the beginning of a compressed chunk
	s := open(t, t.TempDir(), Options{})
	text := bytes.Repeat([]byte("text "), 100)
	pack := put(t, s, noise(1, 300), text, noise(2, 70))[0]
	if err := s.CheckPack(pack.Hash, unhurried); err != nil {
		t.Fatal(err)
	}
	for at := range int(pack.Size) {
		flip(t, pack.Path, at)
		var damaged *DamagedPack
		err := s.CheckPack(pack.Hash, unhurried)
		same := false
		if err == nil && at >= packHeader+300 && at < packHeader+300+frame {
			got, gerr := s.Get(hashOf(text))
			same = gerr == nil && bytes.Equal(got, text)
		}
		if !same && (!errors.As(err, &damaged) || damaged.Pack != pack.Hash) {
			t.Fatalf("byte %d: %v", at, err)
		}
		flip(t, pack.Path, at)
	}
	if err := s.CheckPack(hashOf(nil), unhurried); err != nil {
		t.Errorf("a pack that was pruned: %v", err)
	}
	if err := s.CheckPack(pack.Hash, func(int) error { return errKilled }); !errors.Is(err, errKilled) {
		t.Errorf("not to be stopped: %v", err)
	}
}

// A damaged pack is set aside, never deleted; what is whole in it stays in use,
// and what is not counts as missing, so that it is sent again.
func TestDamagedPackIsSetAside(t *testing.T) {
	needRoot(t)
	data := [][]byte{noise(1, 3000), bytes.Repeat([]byte("text "), 1000), noise(2, 3000)}
	for name, tt := range map[string]struct {
		at          func(size int) int
		saved, lost int
	}{
		"header":  {func(int) int { return 1 }, 0, -1},
		"content": {func(int) int { return packHeader + 10 }, 2, 1},
		"index":   {func(size int) int { return size - packTrailer - 10 }, 0, -1},
		"trailer": {func(size int) int { return size - 20 }, 0, -1},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root, Options{})
			pack := put(t, s, data...)[0]
			m := manifest(id(1, 1), id(0, 0), data...)
			commit(t, s, m)
			flip(t, pack.Path, tt.at(int(pack.Size)))
			to, saved, lost, err := s.SetAside(pack.Hash)
			if err != nil || saved != tt.saved || lost != tt.lost {
				t.Fatalf("%q, %d saved, %d lost, %v", to, saved, lost, err)
			}
			if fi, err := os.Stat(s.path(to)); err != nil || fi.Size() != pack.Size {
				t.Errorf("the damaged pack was not kept: %v", err)
			}
			l, err := s.FindLacks()
			if err != nil || len(l.Chunks) != len(data)-tt.saved || len(l.Generations) > 0 {
				t.Fatalf("lacks %+v, %v", l, err)
			}
			st, err := open(t, root, Options{}).State() // as another process tells a sender
			if err != nil || st.Lacks == nil || len(st.Lacks.Chunks) != len(l.Chunks) {
				t.Fatalf("state %+v, %v", st, err)
			}
			for _, d := range data {
				if got, err := s.Get(hashOf(d)); s.Has(hashOf(d)) && (err != nil || !bytes.Equal(got, d)) {
					t.Errorf("%v", err)
				}
			}
			put(t, s, data...) // it was sent again
			if l, err := s.Lacks(); err != nil || !l.None() {
				t.Errorf("still lacking %+v, %v", l, err)
			}
			if l, err := s.FindLacks(); err != nil || !l.None() {
				t.Errorf("still lacking %+v, %v", l, err)
			}
			if _, err := os.Lstat(s.path(lacksFile)); !errors.Is(err, os.ErrNotExist) {
				t.Error("the list of what is lacking stays")
			}
		})
	}
}

// Killed at any step of setting a pack aside, no chunk that was whole is missing after
// it is done again.
func TestSetAsideIsKilled(t *testing.T) {
	needRoot(t)
	data := [][]byte{noise(1, 3000), noise(2, 3000), noise(3, 3000)}
	for n, done := 0, false; !done; n++ {
		root := t.TempDir()
		first := open(t, root, Options{})
		pack := put(t, first, data...)[0]
		commit(t, first, manifest(id(1, 1), id(0, 0), data...))
		flip(t, pack.Path, packHeader+10)
		step := 0
		dying := open(t, root, Options{Hook: func(string) error {
			if step++; step > n {
				return errKilled
			}
			return nil
		}})
		_, _, _, err := dying.SetAside(pack.Hash)
		if done = err == nil; !done && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		s := open(t, root, Options{})
		if err := s.TidyLacks(); err != nil {
			t.Fatal(err)
		}
		l, err := s.Lacks()
		if _, perr := os.Stat(pack.Path); err != nil || (perr != nil) != (len(l.Chunks) == 1) || l.Unsure {
			t.Errorf("step %d: the pack is there (%v), and lacking is %+v, %v", n, perr == nil, l, err)
		}
		if _, _, _, err := s.SetAside(pack.Hash); err != nil {
			t.Fatalf("step %d, again: %v", n, err)
		}
		for i, want := range []bool{false, true, true} {
			if s.Has(hashOf(data[i])) != want {
				t.Errorf("step %d: chunk %d there: %v", n, i, !want)
			}
		}
		kept, err := filepath.Glob(s.path("damaged", "*"))
		if err != nil || len(kept) == 0 {
			t.Errorf("step %d: %v, %v", n, kept, err)
		}
	}
}

func TestEveryFlipInAManifestIsFound(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir(), Options{})
	chain(t, s, 2)
	name := generationName(id(1, 1))
	fi, err := os.Stat(s.path(name))
	if err != nil {
		t.Fatal(err)
	}
	for at := range int(fi.Size()) {
		flip(t, s.path(name), at)
		if got, err := s.CheckManifests(unhurried); err != nil || len(got) != 1 || got[0] != name {
			t.Fatalf("byte %d: %v, %v", at, got, err)
		}
		flip(t, s.path(name), at)
	}
	if got, err := s.CheckManifests(unhurried); err != nil || len(got) > 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// deltas commits a whole generation and two deltas after it.
func deltas(t *testing.T, s *Store) (ms []*replication.Manifest) {
	t.Helper()
	put(t, s, []byte("a"), []byte("b"), []byte("c"))
	m := manifest(id(1, 1), id(0, 0), []byte("a"))
	commit(t, s, m)
	ms = append(ms, m)
	for _, text := range []string{"b", "c"} {
		m = after(m, []*replication.Entry{file("f0000", []byte(text))})
		commit(t, s, m)
		ms = append(ms, m)
	}
	return ms
}

// What is still in memory mends a manifest at once.
func TestManifestIsMendedFromMemory(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir(), Options{})
	ms := deltas(t, s)
	flip(t, s.manifestFile(id(1, 3)), 30)
	if mended, err := s.SetAsideManifest(id(1, 3)); err != nil || !mended {
		t.Fatal(mended, err)
	}
	got, err := open(t, filepath.Dir(filepath.Dir(s.Dir())), Options{}).Load(id(1, 3))
	if err != nil || got.Sum() != ms[2].Sum() {
		t.Error(err)
	}
}

// Without, the generation and all that hangs on it are asked for, and taken in only as
// what they were; nothing else is taken in under their names.
func TestLostManifestComesAgain(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	ms := deltas(t, open(t, root, Options{}))
	s := open(t, root, Options{}) // remembers nothing
	flip(t, s.manifestFile(id(1, 1)), 30)
	if mended, err := s.SetAsideManifest(id(1, 1)); err != nil || mended {
		t.Fatal(mended, err)
	}
	want := []replication.ID{id(1, 1), id(1, 2), id(1, 3)}
	l, err := s.FindLacks()
	if d := cmp.Diff(want, l.Generations); err != nil || d != "" {
		t.Fatalf("%v\n%s", err, d)
	}
	st, err := s.State()
	if err != nil || st.HeadSum != ms[2].Sum().String() || st.Lacks == nil {
		t.Fatalf("a sender cannot be told: %+v, %v", st, err)
	}
	if out, err := s.Prune(Policy{KeepLast: 2}); err == nil {
		t.Errorf("pruned beside what cannot be read: %+v", out)
	}
	send := func(m *replication.Manifest) error {
		whole := *m
		whole.Delta = nil
		b, err := EncodeManifest(&whole)
		if err != nil {
			t.Fatal(err)
		}
		return s.CommitEncoded(incoming(t, s, b), m.ID)
	}
	for name, change := range map[string]func(m *replication.Manifest){
		"definition": func(m *replication.Manifest) { m.Definition = []byte("evil") },
		"image":      func(m *replication.Manifest) { m.Images = nil },
		"content": func(m *replication.Manifest) {
			m.Volumes = manifest(id(1, 1), id(0, 0), []byte("b")).Volumes
		},
		"time": func(m *replication.Manifest) { m.FreezeNs++ },
	} {
		forged := *ms[0]
		change(&forged)
		if err := send(&forged); !errors.Is(err, replication.ErrWrongParent) {
			t.Errorf("another %s was taken in: %v", name, err)
		}
	}
	if err := send(ms[0]); err != nil {
		t.Fatal(err)
	}
	for i, at := range want {
		if m, err := s.Load(at); err != nil || m.Sum() != ms[i].Sum() {
			t.Errorf("generation %s: %v", at, err)
		}
	}
	if l, err := s.FindLacks(); err != nil || !l.None() {
		t.Errorf("still lacking %+v, %v", l, err)
	}
	if h, err := s.History(); err != nil || len(h) != 3 {
		t.Errorf("%+v, %v", h, err)
	}
}

// What was lost, came again, and then goes by the policy, is not lost: nobody would ever send it.
func TestWhatCameAgainAndWasPrunedIsNotLost(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	was := open(t, root, Options{})
	ms := deltas(t, was)
	commit(t, was, after(ms[2], []*replication.Entry{file("f0000", []byte("a"))}))
	s := open(t, root, Options{}) // remembers nothing
	flip(t, s.manifestFile(id(1, 1)), 30)
	if _, err := s.SetAsideManifest(id(1, 1)); err != nil {
		t.Fatal(err)
	}
	if l, err := s.FindLacks(); err != nil || len(l.Generations) != 4 {
		t.Fatalf("lacks %+v, %v", l, err)
	}
	whole := *ms[0]
	whole.Delta = nil
	commit(t, s, &whole)
	out, err := s.Prune(Policy{})
	if err != nil || !slices.Equal(out.Generations, []replication.ID{id(1, 2)}) {
		t.Fatalf("pruned %+v, %v", out, err)
	}
	if l, err := s.Lacks(); err != nil || !l.None() {
		t.Errorf("lacks %+v, %v", l, err)
	}
	if l, err := s.FindLacks(); err != nil || !l.None() {
		t.Errorf("found to lack %+v, %v", l, err)
	}
}

// What nobody has any more can be given up; the newest cannot.
func TestGiveUp(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	deltas(t, open(t, root, Options{}))
	s := open(t, root, Options{})
	whole := manifest(id(1, 4), id(1, 3), []byte("d"))
	put(t, s, []byte("d"))
	commit(t, s, whole)
	flip(t, s.manifestFile(id(1, 2)), 30)
	if _, err := s.SetAsideManifest(id(1, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.FindLacks(); err != nil {
		t.Fatal(err)
	}
	gone, err := s.GiveUp()
	if d := cmp.Diff([]replication.ID{id(1, 2), id(1, 3)}, gone); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if l, err := s.FindLacks(); err != nil || !l.None() {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := s.Prune(Policy{KeepLast: 9}); err != nil {
		t.Error(err)
	}
	flip(t, s.manifestFile(id(1, 4)), 30)
	if _, err := s.GiveUp(); !errors.Is(err, replication.ErrBadHash) {
		t.Errorf("the newest was given up: %v", err)
	}
}

// TestPruneDoesNotWait for one who looks for what is lost: the loop that prunes is on the
// way of a hand-over.
func TestPruneDoesNotWait(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	chain(t, s, 5)
	err := s.lockedAs("prune.lock", func() error {
		out, err := s.Prune(Policy{KeepLast: 1})
		if len(out.Generations) > 0 {
			t.Errorf("pruned beside: %+v", out)
		}
		return err
	})
	if !errors.Is(err, ErrBusy) {
		t.Errorf("it does not say so: %v", err)
	}
}

// TestLacksAreLookedAtAgain when something came, and only then.
func TestLacksAreLookedAtAgain(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir(), Options{})
	data := [][]byte{noise(1, 3000), noise(2, 3000)}
	pack := put(t, s, data...)[0]
	commit(t, s, manifest(id(1, 1), id(0, 0), data...))
	flip(t, pack.Path, packHeader+10)
	if _, _, _, err := s.SetAside(pack.Hash); err != nil {
		t.Fatal(err)
	}
	if l, err := s.FindLacks(); err != nil || len(l.Chunks) != 1 {
		t.Fatalf("%+v, %v", l, err)
	}
	time.Sleep(2 * racy) // the folders' times say from now on whether anything came
	for range 2 {
		if l, err := s.Lacks(); err != nil || len(l.Chunks) != 1 {
			t.Errorf("%+v, %v", l, err)
		}
	}
	put(t, s, data[0])
	if l, err := s.Lacks(); err != nil || !l.None() {
		t.Errorf("%+v, %v", l, err)
	}
}

// A pack that was cut short is said to be damaged also where only a part of it is to be sent.
func TestCutPackIsDamaged(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir(), Options{})
	p := put(t, s, noise(1, 3000), noise(2, 3000))[0]
	if !s.Has(hashOf(noise(1, 3000))) {
		t.Fatal("it is not there")
	}
	if err := os.Truncate(p.Path, 4000); err != nil {
		t.Fatal(err)
	}
	_, cleanup, err := s.PacksFor([]replication.Hash{hashOf(noise(2, 3000))})
	cleanup()
	if damaged := new(DamagedPack); !errors.As(err, &damaged) || damaged.Pack != p.Hash {
		t.Errorf("it is said: %v", err)
	}
}
