package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// repacks are options of a store that writes anew what four small packs have.
func repacks(o Options) Options {
	o.PackGrace, o.ManySmall = time.Nanosecond, 4
	if o.PackSize == 0 {
		o.PackSize = 1 << 20 // small: below 16 KiB
	}
	return o
}

// mail commits n generations, each with one small file more, in a pack of its own.
func mail(t testing.TB, s *Store, n int) (all [][]byte) {
	t.Helper()
	parent, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	if !parent.IsZero() {
		m, err := s.Load(parent)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range Chunks(m) {
			all = append(all, get(t, s, h))
		}
	}
	for range n {
		letter := noise(parent.Seq+1, 500)
		all = append(all, letter)
		put(t, s, letter)
		next := id(1, parent.Seq+1)
		commit(t, s, manifest(next, parent, all...))
		parent = next
	}
	return all
}

func get(t testing.TB, s *Store, h replication.Hash) []byte {
	t.Helper()
	b, err := s.Get(h)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// packs names the files of the packs.
func packs(t testing.TB, s *Store) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(s.path("packs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// complete fails the test unless all that is committed is there, as whoever opens the store now sees it.
func complete(t testing.TB, root string) {
	t.Helper()
	s := open(t, root, Options{})
	for _, g := range generations(t, s) {
		m, err := s.Load(g)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range Chunks(m) {
			get(t, s, h)
		}
	}
}

func TestManySmallPacksAreWrittenAnew(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, repacks(Options{}))
	mail(t, s, 3)
	if out := prune(t, s, DefaultPolicy); out.Repacked != 0 || len(packs(t, s)) != 3 {
		t.Errorf("three small packs are not many: %+v", out)
	}
	letters := mail(t, s, 3)
	young := open(t, root, Options{ManySmall: 4})
	if out := prune(t, young, DefaultPolicy); out.Repacked != 0 {
		t.Errorf("packs that may be on their way were written anew: %+v", out)
	}
	before := packs(t, s)
	out := prune(t, s, DefaultPolicy)
	left := packs(t, s)
	if out.Repacked != 6 || out.Packs != 0 || len(left) != 1 || slices.Contains(before, left[0]) {
		t.Errorf("%+v, of %v there are %v", out, before, left)
	}
	for i, l := range letters {
		if !bytes.Equal(get(t, young, hashOf(l)), l) { // which knows the packs that are gone
			t.Errorf("letter %d is another", i)
		}
	}
	complete(t, root)
	if out := prune(t, s, DefaultPolicy); out.Repacked != 0 || !slices.Equal(packs(t, s), left) {
		t.Errorf("again: %+v", out)
	}
	for i := range 40 { // what comes out is small itself: it is not left behind
		mail(t, s, 3)
		if _, err := s.Prune(DefaultPolicy); err != nil {
			t.Fatal(err)
		}
		if n := len(packs(t, s)); n > 4+len(letters)*500*(i+2)/(16<<10) {
			t.Fatalf("%d packs after %d letters", n, 6+3*i)
		}
	}
	complete(t, root)
}

// Of a pack that is needed by less than half, that half is kept, in another.
func TestSparsePacksAreWrittenAnew(t *testing.T) {
	root := t.TempDir()
	c := &clock{}
	s := open(t, root, repacks(Options{Steady: c.steady}))
	var data [][]byte
	for i := range uint64(40) {
		data = append(data, noise(i, 2000))
	}
	first := put(t, s, data...)[0]
	commit(t, s, manifest(id(1, 1), id(0, 0), data[:21]...))
	if out := prune(t, s, DefaultPolicy); out.Repacked != 0 {
		t.Errorf("more than half of it is needed: %+v", out)
	}
	at := id(1, 1)
	for range 2 {
		c.ahead += 2 * time.Hour
		next := id(1, at.Seq+1)
		commit(t, s, manifest(next, at, data[:19]...))
		at = next
	}
	out := prune(t, s, Policy{KeepLast: 2})
	ps, sizes, err := s.Packs()
	if err != nil || len(ps) != 1 || out.Repacked != 1 || ps[0] == first.Hash {
		t.Fatalf("%v, %v, %+v", ps, err, out)
	}
	if size := sizes[ps[0]]; size > first.Size/2 || out.Bytes < first.Size-size {
		t.Errorf("%d bytes of %d are left, and %d went", size, first.Size, out.Bytes)
	}
	if !s.Has(hashOf(data[18])) || s.Has(hashOf(data[19])) {
		t.Error("what is needed stays, the rest goes")
	}
	complete(t, root)
	if out := prune(t, s, Policy{KeepLast: 2}); out.Repacked != 0 {
		t.Errorf("again: %+v", out)
	}
}

// Killed at any step, all that is committed can be read, and the next prune takes away what is
// there twice, as far as it is in many packs.
func TestRepackKilledAtEveryStep(t *testing.T) {
	for n, done := 0, false; !done; n++ {
		root := t.TempDir()
		mail(t, open(t, root, Options{}), 6)
		step := 0
		o := repacks(Options{Hook: func(string) error {
			if step++; step > n {
				return errKilled
			}
			return nil
		}})
		dying := open(t, root, o)
		_, err := dying.Prune(Policy{KeepLast: 100})
		if done = err == nil; !done && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		complete(t, root)
		s := open(t, root, repacks(Options{}))
		for letters := 6; letters <= 10; letters += 4 {
			if _, err := s.Prune(Policy{KeepLast: 100}); err != nil {
				t.Fatal(err)
			}
			complete(t, root)
			all, err := s.index.all()
			if err != nil {
				t.Fatal(err)
			}
			distinct := map[replication.Hash]struct{}{}
			for _, p := range all {
				before := len(distinct)
				for _, c := range p.chunks {
					distinct[c.hash] = struct{}{}
				}
				if len(all) == 1 && len(distinct)-before != len(p.chunks) {
					t.Errorf("killed at step %d: a chunk is in a pack twice", n)
				}
			}
			if len(all) >= o.ManySmall || len(distinct) != letters {
				t.Errorf("killed at step %d: %d packs have %d chunks, want %d", n, len(all), len(distinct), letters)
			}
			mail(t, s, 4)
		}
	}
}

// What was committed while packs were copied may need what nobody needed before.
func TestRepackKeepsWhatIsNeededSince(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, Options{})
	letters := mail(t, s, 5)
	last, back := []byte("the last letter"), []byte("content that nobody needs for a while")
	put(t, s, last, back)
	commit(t, s, manifest(id(1, 6), id(1, 5), append(letters, last)...))
	receiving := open(t, root, Options{})
	came := false
	pruning := open(t, root, repacks(Options{Hook: func(step string) error {
		if step != "sync pack" || came {
			return nil
		}
		came = true
		return receiving.Commit(manifest(id(1, 7), id(1, 6), append(letters, last, back)...))
	}}))
	if _, err := pruning.Prune(DefaultPolicy); err != nil {
		t.Fatal(err)
	}
	if !came {
		t.Fatal("nothing was written anew")
	}
	complete(t, root)
}

// A damaged pack stays where it is, for the scrub; the others do not wait for it.
func TestRepackLeavesDamage(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s := open(t, root, repacks(Options{}))
	letters := mail(t, s, 6)
	all, err := s.index.all()
	if err != nil {
		t.Fatal(err)
	}
	bad := all[slices.IndexFunc(all, func(p *pack) bool { return p.chunks[0].hash == hashOf(letters[2]) })]
	flip(t, bad.path(), packHeader+100)
	out := prune(t, s, DefaultPolicy)
	if got := packs(t, s); out.Repacked != 5 || len(got) != 2 || !slices.Contains(got, packName(bad.hash)) {
		t.Errorf("%+v, %v", out, got)
	}
	for i, l := range letters {
		if _, err := s.Get(hashOf(l)); (err != nil) != (i == 2) {
			t.Errorf("letter %d: %v", i, err)
		}
	}
}

// A full disk takes nothing away.
func TestRepackWaitsForRoom(t *testing.T) {
	root := t.TempDir()
	mail(t, open(t, root, Options{}), 6)
	s := open(t, root, repacks(Options{LeastFree: 1 << 60}))
	if out := prune(t, s, DefaultPolicy); out.Repacked != 0 || len(packs(t, s)) != 6 {
		t.Errorf("%+v", out)
	}
	complete(t, root)
}

// Whoever reads meanwhile notices nothing.
func TestRepackUnderReaders(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, repacks(Options{}))
	other := open(t, root, Options{})
	letters := mail(t, s, 8)
	for range 20 {
		done := make(chan error, 2)
		for _, reader := range []*Store{s, other} {
			go func() {
				for range 30 {
					for _, l := range letters {
						if b, err := reader.Get(hashOf(l)); err != nil || !bytes.Equal(b, l) {
							done <- fmt.Errorf("a letter could not be read: %w", err)
							return
						}
					}
				}
				done <- nil
			}()
		}
		_, err := s.Prune(DefaultPolicy)
		if err := errors.Join(err, <-done, <-done); err != nil {
			t.Fatal(err)
		}
		letters = mail(t, s, 4)
	}
}

// Blocks that a pack shares with a live file are shared by the one that takes its place.
func TestRepackKeepsBlocksShared(t *testing.T) {
	const size = 8 << 20
	mnt := treetest.Mount(t, "xfs")
	s := open(t, mnt, repacks(Options{PackSize: 64 << 20, LeastFree: -1}))
	live := noise(1, size)
	treetest.Write(t, filepath.Join(mnt, "live"), live)
	f, err := os.Open(filepath.Join(mnt, "live"))
	treetest.Must(t, err)
	defer f.Close()
	treetest.Must(t, f.Sync())
	free := func() int64 {
		treetest.Must(t, syncFS(mnt))
		var st unix.Statfs_t
		treetest.Must(t, unix.Statfs(mnt, &st))
		return int64(st.Bfree) * st.Bsize
	}
	w := s.NewPack()
	var names [][]byte
	chunk := live[:1<<20]
	for at := 0; at < size; at += len(chunk) {
		chunk := live[at : at+len(chunk)]
		names = append(names, chunk)
		treetest.Must(t, w.Put(hashOf(chunk), chunk, &tree.Twin{Clone: f}, int64(at)))
	}
	for seed := range uint64(12) { // what nobody needs
		b := noise(100+seed, 1<<20)
		treetest.Must(t, w.Put(hashOf(b), b, nil, 0))
	}
	_, err = w.Seal()
	treetest.Must(t, err)
	commit(t, s, manifest(id(1, 1), id(0, 0), names...))
	before := free()
	if out := prune(t, s, DefaultPolicy); out.Repacked != 1 {
		t.Fatalf("%+v", out)
	}
	freed := int64(0)
	for end := time.Now().Add(20 * time.Second); freed < 11<<20 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		freed = free() - before // XFS gives back what was removed a little later
	}
	if freed < 11<<20 {
		t.Errorf("%d bytes came free of 12 MiB that nobody needs: what live files have was copied", freed)
	}
}

func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// Many small packs do not travel one by one.
func TestSmallPacksTravelTogether(t *testing.T) {
	home, away := open(t, t.TempDir(), Options{}), open(t, t.TempDir(), Options{})
	for _, c := range []struct{ n, packs int }{{fewSmall, fewSmall}, {fewSmall + 1, 1}} {
		var missing []replication.Hash
		for i := range c.n {
			b := noise(uint64(100*c.n+i), 700)
			put(t, home, b)
			missing = append(missing, hashOf(b))
		}
		ps, cleanup, err := home.PacksFor(missing)
		treetest.Must(t, err)
		if len(ps) != c.packs {
			t.Errorf("%d small packs travel as %d, want %d", c.n, len(ps), c.packs)
		}
		for _, p := range ps {
			treetest.Must(t, receive(t, away, p, nil))
		}
		cleanup()
		if left, err := away.Missing(missing); err != nil || len(left) > 0 {
			t.Errorf("%d chunks did not arrive, %v", len(left), err)
		}
	}
	if left, err := filepath.Glob(home.path("incoming", "*")); err != nil || len(left) > 0 {
		t.Errorf("%s stays, %v", strings.Join(left, ", "), err)
	}
}
