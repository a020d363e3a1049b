package extent

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

const blocks = 96

// history is a file, what was done to it, and which blocks that touched.
type history struct {
	t       *rapid.T
	dir     string
	live    *os.File
	touched map[int64]bool
	shifted bool // collapsed or inserted: every block after may lie elsewhere
	n       uint64
}

// Whatever is done to a file between two clones, the ranges cover each byte
// that differs, and little else.
func TestAnyChangesShow(t *testing.T) {
	mnt := treetest.Mount(t, "xfs")
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		h := &history{t: rt, dir: filepath.Join(mnt, strconv.Itoa(run))}
		h.must(os.Mkdir(h.dir, 0o700))
		defer os.RemoveAll(h.dir)
		h.live = h.create("live")
		defer h.live.Close()
		before := h.clone("0")
		for i := range rapid.IntRange(1, 4).Draw(rt, "generations") {
			h.touched, h.shifted = map[int64]bool{}, false
			for range rapid.IntRange(0, 8).Draw(rt, "changes") {
				h.change()
			}
			after := h.clone(strconv.Itoa(i + 1))
			h.judge(t, before, after)
			h.judge(t, before, h.live)
			before.Close()
			before = after
		}
		before.Close()
	})
}

func (h *history) judge(t *testing.T, a, b *os.File) {
	n := size(t, b)
	ranges, ok, err := Changed(a, b, n)
	if err != nil || !ok {
		h.t.Fatalf("Changed: %v, %v", ok, err)
	}
	m, err := Take(a)
	if err != nil || m == nil {
		h.t.Fatalf("Take: %v, %v", m, err)
	}
	if again, ok, err := m.Changed(b, n); err != nil || !ok || !slices.Equal(again, ranges) {
		h.t.Fatalf("by what was taken of it %v, %v, %v, by itself %v", again, ok, err, ranges)
	}
	if why := wrong(t, a, b, ranges); why != "" {
		h.t.Fatalf("%v: %s", ranges, why)
	}
	var total int64
	for _, r := range ranges {
		total += r.Length
	}
	if most := int64(len(h.touched)) * block; !h.shifted && total > most {
		h.t.Fatalf("%v: %d bytes, though no more than %d were written", ranges, total, most)
	}
}

func (h *history) must(err error) {
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) create(name string) *os.File {
	f, err := os.Create(filepath.Join(h.dir, name))
	h.must(err)
	return f
}

func (h *history) clone(name string) *os.File {
	f := h.create(name)
	if !StayPut(f) {
		h.t.Fatal("it cannot be kept from being moved")
	}
	if ok, err := tree.Clone(f, h.live); err != nil || !ok {
		h.t.Fatalf("clone: %v, %v", ok, err)
	}
	return f
}

// touch notes the blocks of [at, at+n).
func (h *history) touch(at, n int64) {
	for b := at / block; b*block < at+n; b++ {
		h.touched[b] = true
	}
}

func (h *history) change() {
	at := rapid.Int64Range(0, blocks*block).Draw(h.t, "at")
	n := rapid.Int64Range(1, 9*block).Draw(h.t, "length")
	st, err := h.live.Stat()
	h.must(err)
	fd := int(h.live.Fd())
	h.n++
	switch rapid.IntRange(0, 9).Draw(h.t, "what") {
	case 0, 1, 2:
		_, err = h.live.WriteAt(noise(int(n), h.n), at)
		h.touch(min(at, st.Size()), n+max(0, at-st.Size()))
	case 3: // what is there already
		b := make([]byte, n)
		n, _ := h.live.ReadAt(b, at)
		_, err = h.live.WriteAt(b[:n], at)
		h.touch(at, int64(n))
	case 4:
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
		h.touch(at, n)
	case 5:
		err = unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, at, n)
		h.touch(min(at, st.Size()), n+max(0, at-st.Size()))
	case 6:
		err = unix.Fallocate(fd, 0, at, n)
		h.touch(st.Size(), max(0, at+n-st.Size()))
	case 7:
		err = h.live.Truncate(at)
		h.touch(min(at, st.Size()), max(at, st.Size())-min(at, st.Size()))
	case 8, 9:
		at, n = at/block*block, (n/block+1)*block
		if at+n >= st.Size() {
			return
		}
		h.shifted = true
		mode := uint32(unix.FALLOC_FL_COLLAPSE_RANGE)
		if h.n%2 == 0 && st.Size() < 2*blocks*block {
			mode = unix.FALLOC_FL_INSERT_RANGE
		}
		err = unix.Fallocate(fd, mode, at, n)
	}
	h.must(err)
}

// Extents of any kind, in any order: the walk ends, and what it says is in
// order and within the file.
func TestAnyExtents(t *testing.T) {
	number := rapid.OneOf(rapid.Uint64Range(0, 64), rapid.Uint64Range(math.MaxInt64-64, math.MaxInt64+64), rapid.Uint64())
	extent := rapid.Custom(func(t *rapid.T) fiemapExtent {
		return fiemapExtent{
			logical: number.Draw(t, "logical"), physical: number.Draw(t, "physical"), length: number.Draw(t, "length"),
			flags: rapid.SampledFrom([]uint32{flagShared, flagShared, flagUnwritten, flagLast, flagLast | flagShared, 4, 8, 0}).Draw(t, "flags"),
		}
	})
	pages := rapid.SliceOfN(rapid.SliceOfN(extent, 0, 4), 0, 6)
	rapid.Check(t, func(rt *rapid.T) {
		size := int64(rapid.OneOf(rapid.Uint64Range(0, 64), rapid.Uint64Range(0, math.MaxInt64)).Draw(rt, "size"))
		walk := func(label string) *walker {
			rest := pages.Draw(rt, label)
			return &walker{size: size, fetch: func(int64, int64) ([]fiemapExtent, error) {
				if len(rest) == 0 {
					return nil, nil
				}
				p := rest[0]
				rest = rest[1:]
				return p, nil
			}}
		}
		ranges, err := compare(walk("a"), walk("b"))
		if err != nil {
			return // it did not go on
		}
		pos := int64(-1)
		for _, r := range ranges {
			if r.Offset <= pos || r.Length <= 0 || r.Offset+r.Length > size {
				rt.Fatal(fmt.Sprint(ranges))
			}
			pos = r.Offset + r.Length
		}
	})
}

// A union has each byte of both and no other, in order and none touching the next.
func TestAnyUnion(t *testing.T) {
	const most = 64
	some := func(rt *rapid.T, label string) (ranges []Range, in [most]bool) {
		at := int64(0)
		for _, gap := range rapid.SliceOfN(rapid.Int64Range(1, 9), 0, 8).Draw(rt, label) {
			n := rapid.Int64Range(1, 6).Draw(rt, "length")
			if at += gap; at+n > most {
				break
			}
			ranges = append(ranges, Range{at, n})
			for range n {
				in[at] = true
				at++
			}
		}
		return ranges, in
	}
	rapid.Check(t, func(rt *rapid.T) {
		a, inA := some(rt, "a")
		b, inB := some(rt, "b")
		var in [most]bool
		last := int64(-1)
		for _, r := range Union(a, b) {
			if r.Offset <= last || r.Length <= 0 {
				rt.Fatalf("%v and %v: %v", a, b, Union(a, b))
			}
			for last = r.Offset; last < r.end(); last++ {
				in[last] = true
			}
		}
		for at := range in {
			if in[at] != (inA[at] || inB[at]) {
				rt.Fatalf("%v and %v: %v is wrong at %d", a, b, Union(a, b), at)
			}
		}
	})
}

// A clone that is brought up to its file piece by piece lies where what is remembered of it says, at any time.
func TestMapFollowsItsFile(t *testing.T) {
	mnt := treetest.Mount(t, "xfs")
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		h := &history{t: rt, dir: filepath.Join(mnt, strconv.Itoa(run)), touched: map[int64]bool{}}
		h.must(os.Mkdir(h.dir, 0o700))
		defer os.RemoveAll(h.dir)
		h.live = h.create("live")
		defer h.live.Close()
		kept := h.clone("kept")
		defer kept.Close()
		m, err := Take(kept)
		h.must(err)
		for range rapid.IntRange(1, 6).Draw(rt, "generations") {
			for range rapid.IntRange(0, 8).Draw(rt, "changes") {
				h.change()
			}
			n := size(t, h.live)
			if was := size(t, kept); n < was {
				h.must(kept.Truncate(n))
				m, err = m.Update(kept, []Range{{n - n%block, was - n + n%block}})
				h.must(err)
			}
			ranges, ok, err := m.Changed(h.live, n)
			if err != nil || !ok {
				rt.Fatal(ok, err)
			}
			for i, r := range ranges {
				from := r.Offset - r.Offset%block
				ranges[i] = Range{from, r.end() - from}
				if ok, err := tree.CloneRange(kept, from, h.live, from, r.end()-from); err != nil || !ok {
					rt.Fatal(ok, err)
				}
			}
			m, err = m.Update(kept, ranges)
			h.must(err)
			fresh, err := Take(kept)
			h.must(err)
			if got, want := places(m), places(fresh); !slices.Equal(got, want) {
				rt.Fatalf("after %v it lies at\n%v, and is said to lie at\n%v", ranges, want, got)
			}
			if ranges, ok, err := m.Changed(h.live, n); err != nil || !ok || len(ranges) > 0 {
				rt.Fatalf("it is said to differ in %v: %v, %v", ranges, ok, err)
			}
		}
	})
}

// places is where each block of a file lies; 0: it reads as zeros.
func places(m *Map) (at []uint64) {
	at = make([]uint64, (m.size+block-1)/block)
	for _, e := range m.extents {
		if e.flags&flagUnwritten != 0 {
			continue
		}
		for b := int64(e.logical) / block; b < int64(len(at)) && b*block < e.end(); b++ {
			at[b] = e.physical + uint64(b*block) - e.logical
		}
	}
	return at
}

// Of what may be moved about nothing is remembered.
func TestNoMapOfWhatMayMove(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"), 4)
	if m, err := Take(b.before); m != nil || err != nil {
		t.Errorf("%v, %v", m, err)
	}
	if !StayPut(b.before) {
		t.Fatal("it cannot be kept from being moved")
	}
	if m, err := Take(b.before); m == nil || err != nil {
		t.Errorf("%v, %v", m, err)
	}
}
