package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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
		for _, h := range treetest.Chunks(m) {
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

// repack is Repack, alone.
func repack(t testing.TB, s *Store) Repacked {
	t.Helper()
	out, err := s.Repack(t.Context(), unhurried, func(f func() error) error { return f() })
	if err != nil {
		t.Fatal(err)
	}
	return out
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
		for _, h := range treetest.Chunks(m) {
			get(t, s, h)
		}
	}
}

func TestManySmallPacksAreWrittenAnew(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, repacks(Options{}))
	mail(t, s, 3)
	if out := repack(t, s); out != (Repacked{}) {
		t.Errorf("three small packs are not many: %+v", out)
	}
	letters := mail(t, s, 3)
	young := open(t, root, Options{ManySmall: 4})
	if out := repack(t, young); out != (Repacked{}) {
		t.Errorf("packs that may be on their way were written anew: %+v", out)
	}
	before := packs(t, s)
	out := repack(t, s)
	left := packs(t, s)
	if out.Packs != 6 || out.Made != 1 || len(left) != 1 || slices.Contains(before, left[0]) {
		t.Errorf("%+v, of %v there are %v", out, before, left)
	}
	for i, l := range letters {
		if !bytes.Equal(get(t, young, hashOf(l)), l) { // which knows the packs that are gone
			t.Errorf("letter %d is another", i)
		}
	}
	complete(t, root)
	if out := repack(t, s); out != (Repacked{}) || !slices.Equal(packs(t, s), left) {
		t.Errorf("again: %+v", out)
	}
	for i := range 40 { // what comes out is small itself: it is not left behind
		mail(t, s, 3)
		repack(t, s)
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
	if out := repack(t, s); out != (Repacked{}) {
		t.Errorf("more than half of it is needed: %+v", out)
	}
	at := id(1, 1)
	for range 2 {
		c.ahead += 2 * time.Hour
		next := id(1, at.Seq+1)
		commit(t, s, manifest(next, at, data[:19]...))
		at = next
	}
	prune(t, s, Policy{KeepLast: 2})
	out := repack(t, s)
	ps, sizes, err := s.Packs()
	if err != nil || len(ps) != 1 || out.Packs != 1 || ps[0] == first.Hash {
		t.Fatalf("%v, %v, %+v", ps, err, out)
	}
	if size := sizes[ps[0]]; size > first.Size/2 || out.Freed != first.Size-size {
		t.Errorf("%d bytes of %d are left, and %d went", size, first.Size, out.Freed)
	}
	if !s.Has(hashOf(data[18])) || s.Has(hashOf(data[19])) {
		t.Error("what is needed stays, the rest goes")
	}
	complete(t, root)
	if out := repack(t, s); out != (Repacked{}) {
		t.Errorf("again: %+v", out)
	}
}

// Killed at any step, all that is committed can be read, and the next call takes away what is
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
		_, err := dying.Repack(t.Context(), unhurried, func(f func() error) error { return f() })
		if done = err == nil; !done && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		complete(t, root)
		s := open(t, root, repacks(Options{}))
		for letters := 6; letters <= 10; letters += 4 {
			repack(t, s)
			complete(t, root)
			all, err := s.index.all()
			if err != nil {
				t.Fatal(err)
			}
			distinct := map[replication.Hash]struct{}{}
			for _, p := range all {
				for _, c := range p.chunks {
					distinct[c.hash] = struct{}{}
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
	packing := open(t, root, repacks(Options{}))
	_, err := packing.Repack(t.Context(), unhurried, func(f func() error) error {
		if came = true; len(generations(t, receiving)) == 6 {
			commit(t, receiving, manifest(id(1, 7), id(1, 6), append(letters, last, back)...))
		}
		return f()
	})
	if err != nil || !came {
		t.Fatal("nothing was written anew", err)
	}
	complete(t, root)
}

// A damaged pack stays where it is, for the scrub; the others do not wait for it.
func TestRepackLeavesDamage(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	var told bytes.Buffer
	s := open(t, root, repacks(Options{Logger: slog.New(slog.NewTextHandler(&told, nil))}))
	letters := mail(t, s, 6)
	all, err := s.index.all()
	if err != nil {
		t.Fatal(err)
	}
	bad := all[slices.IndexFunc(all, func(p *pack) bool { return p.chunks[0].hash == hashOf(letters[2]) })]
	flip(t, bad.path(), packHeader+100)
	out := repack(t, s)
	if got := packs(t, s); out.Packs != 5 || len(got) != 2 || !slices.Contains(got, packName(bad.hash)) {
		t.Errorf("%+v, %v", out, got)
	}
	for i, l := range letters {
		if _, err := s.Get(hashOf(l)); (err != nil) != (i == 2) {
			t.Errorf("letter %d: %v", i, err)
		}
	}
	mail1 := func(n uint64) {
		letter := noise(n, 500)
		put(t, s, letter)
		letters = append(letters, letter)
		commit(t, s, manifest(id(1, n), id(1, n-1), letters...))
	}
	for n := range uint64(4) {
		mail1(7 + n)
	}
	repack(t, s)
	if n := strings.Count(told.String(), "understudy scrub"); n != 1 {
		t.Errorf("it was told %d times:\n%s", n, told.String())
	}
}

// A full disk takes nothing away; what was copied before it was full is used.
func TestRepackOnAFullDisk(t *testing.T) {
	root := t.TempDir()
	letters := mail(t, open(t, root, Options{}), 6)
	s := open(t, root, repacks(Options{PackSize: 64 << 10, LeastFree: 1 << 60}))
	if out := repack(t, s); out != (Repacked{}) || len(packs(t, s)) != 6 {
		t.Errorf("%+v", out)
	}
	killed := open(t, root, repacks(Options{PackSize: 64 << 10, Hook: func(step string) error {
		if strings.HasPrefix(step, "remove ") {
			return errKilled
		}
		return nil
	}}))
	if _, err := killed.Repack(t.Context(), unhurried, func(f func() error) error { return f() }); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	put(t, open(t, root, Options{}), []byte("one more"))
	commit(t, s, manifest(id(1, 7), id(1, 6), append(letters, []byte("one more"))...))
	if out := repack(t, s); out.Packs != 6 || out.Made != 0 {
		t.Errorf("of seven packs, six of which are copied: %+v", out)
	}
	complete(t, root)
}

// What was to be copied, and could not be kept, is still where it was.
func TestRepackFillsTheDisk(t *testing.T) {
	root := t.TempDir()
	mail(t, open(t, root, Options{}), 6)
	s := open(t, root, repacks(Options{Hook: func(step string) error {
		if step == "sync pack" {
			return unix.ENOSPC
		}
		return nil
	}}))
	if out := repack(t, s); out != (Repacked{}) || len(packs(t, s)) != 6 {
		t.Errorf("%+v", out)
	}
	complete(t, root)
}

// Where there is room for little, nothing is made that would be to be written anew itself.
func TestRepackNeedsRoomForMore(t *testing.T) {
	defer func(was int64) { repackBytes = was }(repackBytes)
	repackBytes = 1 << 10
	s := open(t, t.TempDir(), repacks(Options{}))
	mail(t, s, 6)
	if out := repack(t, s); out != (Repacked{}) {
		t.Errorf("%+v", out)
	}
}

// Whoever reads meanwhile notices nothing.
func TestRepackUnderReaders(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, repacks(Options{}))
	other := open(t, root, Options{})
	letters := mail(t, s, 8)
	for range 20 {
		over := make(chan struct{})
		done := make(chan error, 2)
		for _, reader := range []*Store{s, other} {
			go func() {
				for again := true; again; {
					select {
					case <-over:
						again = false // once more, of what there is now
					default:
					}
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
		out, err := s.Repack(t.Context(), unhurried, func(f func() error) error { return f() })
		close(over)
		if err := errors.Join(err, <-done, <-done); err != nil || out.Packs == 0 {
			t.Fatalf("%+v, %v", out, err)
		}
		letters = mail(t, s, 4)
	}
}

// Blocks that a pack shares with a live file are shared by the one that takes its place.
func TestRepackKeepsBlocksShared(t *testing.T) {
	const size = 8 << 20
	mnt := treetest.Mount(t, "xfs")
	used := func() int64 {
		d, err := os.Open(mnt)
		treetest.Must(t, err)
		defer d.Close()
		treetest.Must(t, unix.Syncfs(int(d.Fd())))
		var st unix.Statfs_t
		treetest.Must(t, unix.Statfs(mnt, &st))
		return int64(st.Blocks-st.Bfree) * st.Bsize
	}
	before, grown := int64(0), int64(-1)
	s := open(t, mnt, repacks(Options{PackSize: 64 << 20, LeastFree: -1, Hook: func(step string) error {
		if strings.HasPrefix(step, "remove ") { // the copy is there, and nothing went yet
			grown = used() - before
		}
		return nil
	}}))
	live := noise(1, size)
	treetest.Write(t, filepath.Join(mnt, "live"), live)
	f, err := os.Open(filepath.Join(mnt, "live"))
	treetest.Must(t, err)
	defer f.Close()
	treetest.Must(t, f.Sync())
	w := s.NewPack()
	var parts [][]byte
	for at := 0; at < size; at += 1 << 20 {
		part := live[at : at+1<<20]
		parts = append(parts, part)
		treetest.Must(t, w.Put(hashOf(part), part, &tree.Twin{Clone: f}, int64(at)))
	}
	for seed := range uint64(12) { // what nobody needs
		b := noise(100+seed, 1<<20)
		treetest.Must(t, w.Put(hashOf(b), b, nil, 0))
	}
	_, err = w.Seal()
	treetest.Must(t, err)
	commit(t, s, manifest(id(1, 1), id(0, 0), parts...))
	before = used()
	if out := repack(t, s); out.Packs != 1 || grown < 0 {
		t.Fatalf("%+v", out)
	}
	if grown > size/4 {
		t.Errorf("%d bytes were taken for a copy of %d that live files have", grown, size)
	}
	complete(t, mnt)
}

// rottenCopy makes six small packs, the content of one of which is in a large one as well, damaged.
func rottenCopy(t testing.TB, root string, index bool) (s *Store, large replication.Hash) {
	t.Helper()
	s = open(t, root, repacks(Options{}))
	letters := mail(t, s, 6)
	w := s.NewPack()
	stored, flags := s.codec.pack(letters[2])
	treetest.Must(t, w.put(packChunk{hash: hashOf(letters[2]), raw: uint32(len(letters[2])), flags: flags}, stored, nil, 0)) // whether it is there or not
	big := noise(99, 40<<10)
	treetest.Must(t, w.Put(hashOf(big), big, nil, 0))
	made, err := w.Seal()
	treetest.Must(t, err)
	commit(t, s, manifest(id(1, 7), id(1, 6), append(letters, big)...)) // which knows its index from now on
	at := packHeader + 100
	if index {
		at = int(made[0].Size) - packTrailer - 10
	}
	flip(t, made[0].Path, at)
	return s, made[0].Hash
}

// What a pack that stays has as well is not relied on unread.
func TestRepackMistrustsTheOtherCopy(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s, large := rottenCopy(t, root, false)
	if out := repack(t, s); out.Packs != 6 {
		t.Errorf("%+v", out)
	}
	if _, _, lost, err := s.SetAside(large); err != nil || lost != 1 {
		t.Fatalf("%d chunks of the other pack are damaged, %v", lost, err)
	}
	complete(t, root)
}

// Nor on one that could be read where it is known to be, but not found any more after a restart.
func TestRepackMistrustsARottenIndex(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s, large := rottenCopy(t, root, true)
	if out := repack(t, s); out.Packs != 6 {
		t.Errorf("%+v", out)
	}
	if _, _, lost, err := s.SetAside(large); err != nil || lost != -1 {
		t.Fatalf("of the other pack's chunks %d are lost, %v", lost, err)
	}
	after := open(t, root, Options{})
	for i := range uint64(6) {
		get(t, after, hashOf(noise(i+1, 500)))
	}
}

// Nor is it on what is needed only since the other copies were read.
func TestRepackMistrustsWhatItDidNotRead(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s := open(t, root, Options{})
	letters := mail(t, s, 5)
	last, back, big := []byte("the last letter"), noise(98, 600), noise(99, 40<<10)
	put(t, s, last, back)
	w := s.NewPack()
	treetest.Must(t, w.put(packChunk{hash: hashOf(back), raw: uint32(len(back))}, back, nil, 0))
	treetest.Must(t, w.Put(hashOf(big), big, nil, 0))
	large, err := w.Seal()
	treetest.Must(t, err)
	flip(t, large[0].Path, packHeader+100)
	letters = append(letters, last, big)
	commit(t, s, manifest(id(1, 6), id(1, 5), letters...))
	came := false
	packing := open(t, root, repacks(Options{Hook: func(step string) error {
		if step != "sync pack" || came {
			return nil
		}
		came = true
		return s.Commit(manifest(id(1, 7), id(1, 6), append(letters, back)...))
	}}))
	if repack(t, packing); !came {
		t.Fatal("nothing was written anew")
	}
	_, _, lost, err := packing.SetAside(large[0].Hash)
	treetest.Must(t, err)
	if lost != 1 {
		t.Fatalf("%d chunks of the other pack are damaged", lost)
	}
	complete(t, root)
}

// A pack that is larger than a round's share is copied round by round, and the small ones do
// not wait behind it.
func TestRepackInRounds(t *testing.T) {
	defer func(was int64) { repackBytes = was }(repackBytes)
	repackBytes = 256 << 10
	root := t.TempDir()
	s := open(t, root, repacks(Options{PackSize: 8 << 20}))
	mail(t, s, 1) // older than the large one
	var parts, kept [][]byte
	for i := range uint64(140) {
		parts = append(parts, noise(i, 10<<10))
	}
	kept = append(kept, noise(1, 500))
	kept = append(kept, parts[:66]...)
	put(t, s, parts...)
	commit(t, s, manifest(id(1, 2), id(1, 1), kept...))
	for i := range uint64(5) {
		letter := noise(1000+i, 500)
		kept = append(kept, letter)
		put(t, s, letter)
		commit(t, s, manifest(id(1, 3+i), id(1, 2+i), kept...))
	}
	if out := repack(t, s); out.Packs < 7 || out.Made < 3 || len(packs(t, s)) > 3 {
		t.Errorf("%+v, and %d packs are left", out, len(packs(t, s)))
	}
	complete(t, root)
}

// Whoever asks for it to end does not wait for it, and nothing is lost by that.
func TestRepackEnds(t *testing.T) {
	root := t.TempDir()
	mail(t, open(t, root, Options{}), 6)
	s := open(t, root, repacks(Options{}))
	before := packs(t, s)
	ctx, cancel := context.WithCancelCause(t.Context())
	reads := 0
	out, err := s.Repack(ctx, func(n int) error {
		if n == 0 {
			return nil
		}
		if reads++; reads == 3 {
			cancel(errKilled)
		}
		return context.Cause(ctx)
	}, func(f func() error) error { return f() })
	if !errors.Is(err, errKilled) || out.Packs != 0 || reads != 3 || !slices.Equal(packs(t, s), before) {
		t.Errorf("%+v, %v, after %d reads", out, err, reads)
	}
	out, err = s.Repack(ctx, unhurried, func(f func() error) error { return f() })
	if !errors.Is(err, errKilled) || out != (Repacked{}) {
		t.Errorf("%+v, %v", out, err)
	}
	complete(t, root)
}

// Of what a generation needs whose manifest is lost, or hangs on one that is, nothing goes.
func TestRepackBesideALostManifest(t *testing.T) {
	needRoot(t)
	for _, how := range []string{"set aside", "of one that nothing hangs on", "gone, and nobody noticed", "the head's, gone", "all that diverged, gone", "lost while packs were copied"} {
		t.Run(how, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root, Options{})
			var base [][]byte
			for i := range uint64(20) {
				base = append(base, noise(i, 2000))
			}
			late := noise(100, 500)
			put(t, s, append(slices.Clone(base), late)...)
			first := base
			if how == "the head's, gone" || how == "of one that nothing hangs on" {
				first = base[:5]
			}
			m := manifest(id(1, 1), id(0, 0), first...)
			commit(t, s, m)
			next := manifest(id(1, 2), id(1, 1), append(base, late)...)
			lost := id(1, 1)
			if how == "of one that nothing hangs on" {
				commit(t, s, next)
				commit(t, s, manifest(id(1, 3), id(1, 2), first...))
				lost = id(1, 2)
			} else {
				next.Delta = next.DeltaFrom(m)
				commit(t, s, next)
				if b, err := s.baseOf(s.manifestFile(id(1, 2))); err != nil || b != id(1, 1) {
					t.Fatalf("it is no delta: %v, %v", b, err)
				}
			}
			scrubbing := open(t, root, Options{})
			lose := func() error {
				switch how {
				case "gone, and nobody noticed":
					return os.Remove(s.manifestFile(id(1, 1)))
				case "the head's, gone":
					return os.Remove(s.manifestFile(id(1, 2)))
				case "all that diverged, gone":
					return os.Rename(s.path("diverged"), s.path("elsewhere"))
				}
				if err := os.WriteFile(s.manifestFile(lost), []byte("what a disk made of it"), 0o600); err != nil {
					return err
				}
				mended, err := scrubbing.SetAsideManifest(lost)
				if mended {
					return errors.New("it was mended")
				}
				return err
			}
			packing := open(t, root, repacks(Options{}))
			if how == "lost while packs were copied" {
				mail(t, s, 5)
				hooked := false
				packing = open(t, root, repacks(Options{Hook: func(step string) error {
					if step == "sync pack" && !hooked {
						hooked = true
						return lose()
					}
					return nil
				}}))
			} else if err := lose(); err != nil {
				t.Fatal(err)
			}
			out, err := packing.Repack(t.Context(), unhurried, func(f func() error) error { return f() })
			if told := how == "all that diverged, gone"; out.Packs != 0 || (err != nil) != told {
				t.Errorf("%+v, %v", out, err)
			}
			for i, b := range append(base, late) {
				if !packing.Has(hashOf(b)) {
					t.Fatalf("chunk %d of 21 is gone", i)
				}
			}
		})
	}
}

// A copy that a scrub took away meanwhile does not count.
func TestRepackLooksForTheCopy(t *testing.T) {
	root := t.TempDir()
	mail(t, open(t, root, Options{}), 6)
	s := open(t, root, repacks(Options{}))
	before := packs(t, s)
	out, err := s.Repack(t.Context(), unhurried, func(f func() error) error {
		for _, name := range packs(t, s) {
			if !slices.Contains(before, name) {
				treetest.Must(t, os.Remove(s.path("packs", name)))
			}
		}
		return f()
	})
	if err != nil || out.Packs != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	complete(t, root)
}

// A rotten copy elsewhere does not count for one that could not be kept.
func TestRepackMistrustsTheOtherCopyOnAFullDisk(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	_, large := rottenCopy(t, root, false)
	s := open(t, root, repacks(Options{Hook: func(step string) error {
		if step == "sync pack" {
			return unix.ENOSPC
		}
		return nil
	}}))
	if out := repack(t, s); out.Packs != 0 {
		t.Errorf("%+v", out)
	}
	if _, _, lost, err := open(t, root, Options{}).SetAside(large); err != nil || lost != 1 {
		t.Fatalf("%d chunks of the other pack are damaged, %v", lost, err)
	}
	complete(t, root)
}
