package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// scatter writes n blocks at random places of a file.
func scatter(t testing.TB, rnd *rand.Rand, f *os.File, n int) {
	t.Helper()
	st, err := f.Stat()
	treetest.Must(t, err)
	for range n {
		_, err := f.WriteAt(noise(rnd, block), rnd.Int64N(st.Size()/block)*block)
		treetest.Must(t, err)
	}
}

func noise(rnd *rand.Rand, n int) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rnd.Uint32())
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

// clone is the one that is kept of db.
func (b *bench) clone(t testing.TB) *clone {
	t.Helper()
	s := b.with.shadows["v"].of[b.entry(t, "db")]
	if s == nil || s.clone == nil {
		t.Fatal("no clone is kept")
	}
	return s.clone
}

// edits are what an application does to a large file.
var edits = map[string]func(t testing.TB, rnd *rand.Rand, path string, f *os.File){
	"scatter": func(t testing.TB, rnd *rand.Rand, _ string, f *os.File) { scatter(t, rnd, f, 1+rnd.IntN(20)) },
	"append": func(t testing.TB, rnd *rand.Rand, _ string, f *os.File) {
		st, err := f.Stat()
		treetest.Must(t, err)
		_, err = f.WriteAt(noise(rnd, 1+rnd.IntN(3*block)), st.Size())
		treetest.Must(t, err)
	},
	"odd write": func(t testing.TB, rnd *rand.Rand, _ string, f *os.File) {
		_, err := f.WriteAt(noise(rnd, 1+rnd.IntN(2*block)), rnd.Int64N(largeFile))
		treetest.Must(t, err)
	},
	"punch": func(t testing.TB, rnd *rand.Rand, _ string, f *os.File) {
		treetest.Must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, rnd.Int64N(largeFile), 1+rnd.Int64N(9*block)))
	},
	"cut": func(t testing.TB, rnd *rand.Rand, _ string, f *os.File) {
		treetest.Must(t, f.Truncate(largeFile+rnd.Int64N(1<<20)))
	},
	"grow by a hole": func(t testing.TB, rnd *rand.Rand, _ string, f *os.File) {
		st, err := f.Stat()
		treetest.Must(t, err)
		treetest.Must(t, f.Truncate(min(st.Size()+rnd.Int64N(20*block), 2*largeFile)))
	},
	"cut and grow": func(t testing.TB, rnd *rand.Rand, _ string, f *os.File) {
		st, err := f.Stat()
		treetest.Must(t, err)
		treetest.Must(t, f.Truncate(largeFile+rnd.Int64N(block)))
		treetest.Must(t, f.Truncate(st.Size()))
	},
	"another file": func(t testing.TB, rnd *rand.Rand, path string, _ *os.File) {
		treetest.Write(t, path+".new", noise(rnd, largeFile+rnd.IntN(1<<20)))
		treetest.Must(t, os.Rename(path+".new", path))
	},
	"a small one": func(t testing.TB, _ *rand.Rand, path string, _ *os.File) {
		treetest.Write(t, path, []byte("small"))
		treetest.Must(t, os.Truncate(path, largeFile+1))
	},
}

// Whatever is done to a large file between captures, before the freeze and while a generation is given up: what
// is captured is what the file was in the freeze.
func TestCloneFollowsTheFile(t *testing.T) {
	for _, extents := range []int64{keptExtents, 3, 0} {
		t.Run(fmt.Sprint(extents, " extents are remembered"), func(t *testing.T) {
			defer func(was int64) { keptExtents = was }(keptExtents)
			keptExtents = extents
			testCloneFollowsTheFile(t, "xfs")
		})
	}
	t.Run("btrfs", func(t *testing.T) { testCloneFollowsTheFile(t, "btrfs") })
}

func testCloneFollowsTheFile(t *testing.T, fs string) {
	rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
	b := newBench(t, treetest.Mount(t, fs))
	ahead := time.Duration(0)
	b.with = New(Options{Settle: racy, Now: func() time.Time { return time.Now().Add(ahead) }})
	t.Cleanup(func() { treetest.Must(t, b.with.Close()) })
	db := b.in("db")
	treetest.Write(t, db, noise(rnd, largeFile+1<<20))
	b.must(t)
	names := slices.Sorted(maps.Keys(edits))
	edit := func() (did string) {
		f, err := os.OpenFile(db, os.O_RDWR, 0)
		treetest.Must(t, err)
		defer f.Close()
		did = names[rnd.IntN(len(names))]
		edits[did](t, rnd, db, f)
		return did
	}
	for range 100 {
		var did []string
		for range 1 + rnd.IntN(2) {
			did = append(did, edit())
		}
		atRest := rnd.IntN(2) == 0
		if atRest {
			ahead += time.Second
		}
		b.freeze.in = nil
		if rnd.IntN(3) == 0 {
			b.freeze.in = func() { did = append(did, "in the freeze: "+edit()) }
		}
		base, index := b.base, b.index
		if _, err := b.capture(); err != nil && !errors.Is(err, replication.ErrUnchanged) {
			t.Fatal(did, err)
		}
		is, err := os.ReadFile(db)
		treetest.Must(t, err)
		if got := b.content(t, "db"); !bytes.Equal(got, is) {
			t.Fatalf("at rest: %v; %q: something else was captured", atRest, did)
		}
		if rnd.IntN(3) == 0 { // the generation is not committed
			b.base, b.index = base, index
		}
		if is := b.with.layouts.extents.Load(); is > keptExtents {
			t.Fatalf("%d extents are remembered, of %d", is, keptExtents)
		}
	}
	treetest.Must(t, b.with.Close())
	if is := b.with.layouts.extents.Load(); is != 0 {
		t.Errorf("%d extents are remembered of no clone", is)
	}
}

// What changes a part of a file is no reason to clone all of it anew.
func TestSameCloneIsKept(t *testing.T) {
	rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
	b := newBench(t, treetest.Mount(t, "xfs"))
	b.with = New(Options{Settle: racy})
	t.Cleanup(func() { treetest.Must(t, b.with.Close()) })
	db := b.in("db")
	treetest.Write(t, db, noise(rnd, largeFile+1<<20+1))
	b.must(t)
	for _, name := range slices.Sorted(maps.Keys(edits)) {
		was := b.clone(t)
		f, err := os.OpenFile(db, os.O_RDWR, 0)
		treetest.Must(t, err)
		edits[name](t, rnd, db, f)
		treetest.Must(t, f.Close())
		b.must(t)
		now := b.clone(t)
		if another := name == "another file" || name == "a small one"; (now == was) == another {
			t.Errorf("%s: the same clone: %v", name, now == was)
		} else if !another && now.layout == nil {
			t.Errorf("%s: it is forgotten where the clone lies", name)
		}
		treetest.Must(t, now.look())
		st, err := tree.FileStat(now.f)
		treetest.Must(t, err)
		if elsewhere, sure, err := now.layout.Changed(now.f, st.Size); err != nil || !sure || len(elsewhere) > 0 {
			t.Errorf("%s: in %v the clone lies elsewhere than is remembered: %v, %v", name, elsewhere, sure, err)
		}
	}
}

// A busy file's clone is brought up to it before the freeze: what is left for that is what changes until then.
func TestBusyFileIsClonedBeforeTheFreeze(t *testing.T) {
	ctx, rnd := t.Context(), rand.New(rand.NewPCG(treetest.Seed(t), 0))
	b := newBench(t, treetest.Mount(t, "xfs"))
	b.with = New(Options{})
	t.Cleanup(func() { treetest.Must(t, b.with.Close()) })
	treetest.Write(t, b.in("db"), noise(rnd, 2*largeFile))
	b.must(t)
	f, err := os.OpenFile(b.in("db"), os.O_RDWR, 0)
	treetest.Must(t, err)
	defer f.Close()
	scatter(t, rnd, f, 300)

	j := &job{c: b.with, r: Request{Volumes: []Volume{b.vol}, Base: b.base, Index: b.index, Sink: b, Freezer: b.freeze}, res: &Result{}}
	treetest.Must(t, j.open())
	defer func() { treetest.Must(t, j.close()) }()
	v := j.vols[0]
	treetest.Must(t, j.look(ctx))
	busy := func(want int) {
		t.Helper()
		if is, err := j.flushBusy(ctx); err != nil || is != want {
			t.Errorf("%d files are busy, not %d: %v", is, want, err)
		}
	}
	busy(1)
	treetest.Must(t, j.bringEarly(ctx, v, "db", f))
	busy(0)
	v.brought["db"].clone.behind = true
	busy(1)
	scatter(t, rnd, f, 3)
	now, pieces, err := j.snapshot(ctx, v, "db", f, 2*largeFile)
	treetest.Must(t, err)
	defer now.close()
	if pieces < 1 || pieces > 3 {
		t.Errorf("%d pieces were cloned again, of 3 that changed", pieces)
	}
	if stale := v.known("db").shadow.stale; length(stale) > 303*block {
		t.Errorf("%d bytes count as changed of %d", length(stale), 303*block)
	}
}

// tired is a context that is cancelled after it was asked so often.
type tired struct {
	context.Context
	left int
}

func (c *tired) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// Whatever cuts the bringing up short, the next capture knows where the clone is not what the base is.
func TestBringingUpIsCutShort(t *testing.T) {
	rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
	b := newBench(t, treetest.Mount(t, "xfs"))
	b.with = New(Options{Settle: racy})
	t.Cleanup(func() { treetest.Must(t, b.with.Close()) })
	treetest.Write(t, b.in("db"), noise(rnd, 2*largeFile))
	b.must(t)
	for after := range 8 { // pieces
		f, err := os.OpenFile(b.in("db"), os.O_RDWR, 0)
		treetest.Must(t, err)
		if after == 4 { // the clone is cut, too
			treetest.Must(t, f.Truncate(2*largeFile-block))
			treetest.Must(t, f.Truncate(2*largeFile))
		}
		scatter(t, rnd, f, 20)
		c := b.clone(t)
		_, _, err = c.bring(&tired{t.Context(), after}, f, 2*largeFile-int64(after/4)*block)
		if err == nil {
			t.Fatal("it was to be cut short")
		}
		treetest.Must(t, f.Close())
		b.must(t)
		is, err := os.ReadFile(b.in("db"))
		treetest.Must(t, err)
		if !bytes.Equal(b.content(t, "db"), is) {
			t.Fatalf("cut short after %d pieces, something else was captured", after)
		}
	}
}

// gate is a freezer of a writer in this process, which looks at the file in the freeze.
type gate struct {
	mu   sync.Mutex // held by the writer for each write
	path string
	is   []byte
	err  error
}

func (g *gate) Freeze(context.Context) (func() error, error) {
	g.mu.Lock()
	g.is, g.err = os.ReadFile(g.path)
	return func() error { g.mu.Unlock(); return g.err }, nil
}

// A file that is written to all the time, scattered, appended to and cut, is what it was in the freeze.
func TestWrittenToAllTheTime(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
			b := newBench(t, treetest.Mount(t, fs))
			b.with = New(Options{Settle: racy})
			t.Cleanup(func() { treetest.Must(t, b.with.Close()) })
			g := &gate{path: b.in("db")}
			b.freezer = g
			treetest.Write(t, g.path, noise(rnd, largeFile+1<<20))
			f, err := os.OpenFile(g.path, os.O_RDWR, 0)
			treetest.Must(t, err)
			defer f.Close()
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				names := []string{"append", "cut and grow", "grow by a hole", "odd write", "punch", "scatter", "scatter", "scatter"}
				for {
					select {
					case <-stop:
						return
					default:
					}
					g.mu.Lock()
					edits[names[rnd.IntN(len(names))]](t, rnd, g.path, f)
					g.mu.Unlock()
				}
			}()
			defer func() {
				close(stop)
				<-stopped
			}()
			for captured := 0; captured < 10; {
				was := g.is
				_, err := b.capture()
				if errors.Is(err, replication.ErrUnchanged) && bytes.Equal(g.is, was) {
					continue // the writer has not had its turn
				}
				treetest.Must(t, err)
				captured++
				if !bytes.Equal(b.content(t, "db"), g.is) {
					t.Fatal("something else was captured")
				}
			}
		})
	}
}

// A file that grows between being found and being taken as it is, each time: what it has beyond what was found is
// captured the next time.
func TestGrowsWhileItIsTakenAsItIs(t *testing.T) {
	rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
	b := newBench(t, treetest.Mount(t, "xfs"))
	b.freeze, b.loose = nil, true
	var f *os.File // nil: it stands still
	b.with = New(Options{Settle: racy, Hook: func(step string) error {
		if f == nil || step != "set aside db" {
			return nil
		}
		_, err := f.Write(noise(rnd, 1+rnd.IntN(4*block)))
		return err
	}})
	t.Cleanup(func() { treetest.Must(t, b.with.Close()) })
	treetest.Write(t, b.in("db"), noise(rnd, largeFile))
	b.must(t)
	grows, err := os.OpenFile(b.in("db"), os.O_RDWR|os.O_APPEND, 0)
	treetest.Must(t, err)
	defer grows.Close()
	for range 5 {
		_, err := grows.Write(noise(rnd, block)) // there is something to capture
		treetest.Must(t, err)
		f = grows
		if r := b.must(t); r.Moved != 1 {
			t.Errorf("%d files moved", r.Moved)
		}
		f = nil
		b.must(t)
		is, err := os.ReadFile(b.in("db"))
		treetest.Must(t, err)
		if !bytes.Equal(b.content(t, "db"), is) {
			t.Fatal("something else was captured")
		}
	}
}

// BenchmarkFreezeOfAScatteredFile has a file written to at random before each freeze, and a little in it, so
// that it comes to lie in ever more extents, and reports next to the freezes what it takes to clone it whole.
func BenchmarkFreezeOfAScatteredFile(b *testing.B) {
	rnd := rand.New(rand.NewPCG(treetest.Seed(b), 0))
	s := newBench(b, treetest.Mount(b, "xfs"))
	s.with = New(Options{Now: func() time.Time { return time.Now().Add(-time.Hour) }}) // nothing is at rest to it
	b.Cleanup(func() { treetest.Must(b, s.with.Close()) })
	f, err := os.Create(s.in("db"))
	treetest.Must(b, err)
	defer f.Close()
	treetest.Must(b, f.Truncate(256<<20))
	scatter(b, rnd, f, 1)
	s.must(b)
	s.freeze.in = func() { scatter(b, rnd, f, 20) }
	var freeze, whole time.Duration
	for b.Loop() {
		scatter(b, rnd, f, 5000)
		treetest.Must(b, f.Sync())
		freeze = s.must(b).Freeze
		to, err := tree.Nameless(s.vol.StageDir)
		treetest.Must(b, err)
		began := time.Now()
		if ok, err := tree.Clone(to, f); !ok || err != nil {
			b.Fatal(ok, err)
		}
		whole = time.Since(began)
		treetest.Must(b, to.Close())
	}
	b.ReportMetric(float64(freeze.Microseconds())/1000, "ms-last-freeze")
	b.ReportMetric(float64(whole.Microseconds())/1000, "ms-last-clone")
}

// BenchmarkFreezeOfABusyFile is the same where there are no clones: all of the file is read in the freeze.
func BenchmarkFreezeOfABusyFile(b *testing.B) {
	rnd := rand.New(rand.NewPCG(treetest.Seed(b), 0))
	s := newBench(b, treetest.Mount(b, "ext4"))
	s.with = New(Options{Now: func() time.Time { return time.Now().Add(-time.Hour) }}) // nothing is at rest to it
	b.Cleanup(func() { treetest.Must(b, s.with.Close()) })
	f, err := os.Create(s.in("db"))
	treetest.Must(b, err)
	defer f.Close()
	_, err = f.Write(noise(rnd, 256<<20))
	treetest.Must(b, err)
	s.must(b)
	s.freeze.in = func() { scatter(b, rnd, f, 20) }
	var freezes []time.Duration
	for b.Loop() {
		scatter(b, rnd, f, 1000)
		freezes = append(freezes, s.must(b).Freeze)
	}
	slices.Sort(freezes)
	b.ReportMetric(float64(freezes[len(freezes)/2].Microseconds())/1000, "ms-median-freeze")
}
