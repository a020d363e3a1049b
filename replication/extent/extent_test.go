package extent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

const block = 4096

// bench is a live file and the clone of it that was taken before it changed.
type bench struct {
	dir          string
	live, before *os.File
}

// newBench makes a file of blocks, none alike, and its clone.
func newBench(t testing.TB, mnt string, blocks int) *bench {
	t.Helper()
	b := &bench{dir: mnt}
	b.live = b.create(t, "live")
	write(t, b.live, 0, noise(blocks*block, 1))
	b.before = b.clone(t, "before")
	return b
}

func (b *bench) create(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(b.dir, name))
	treetest.Must(t, err)
	t.Cleanup(func() { f.Close(); os.Remove(f.Name()) })
	return f
}

func (b *bench) clone(t testing.TB, name string) *os.File {
	t.Helper()
	f := b.create(t, name)
	if ok, err := tree.Clone(f, b.live); err != nil || !ok {
		t.Fatalf("clone: %v, %v", ok, err)
	}
	return f
}

// noise is bytes, none zero, of which no two blocks are alike, and no two salts either.
func noise(n int, salt uint64) []byte {
	b := make([]byte, 0, n+8)
	for x := salt*0x9e3779b97f4a7c15 + 1; len(b) < n; {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b = binary.NativeEndian.AppendUint64(b, x|0x0101010101010101)
	}
	return b[:n]
}

func write(t testing.TB, f *os.File, at int64, data []byte) {
	t.Helper()
	_, err := f.WriteAt(data, at)
	treetest.Must(t, err)
}

func size(t testing.TB, f *os.File) int64 {
	t.Helper()
	st, err := f.Stat()
	treetest.Must(t, err)
	return st.Size()
}

// changed asks for the changes, and has them checked against the bytes.
func changed(t testing.TB, a, b *os.File) []Range {
	t.Helper()
	n := size(t, b)
	ranges, ok, err := Changed(a, b, n)
	if err != nil || !ok {
		t.Fatalf("Changed: %v, %v", ok, err)
	}
	if why := wrong(t, a, b, ranges); why != "" {
		t.Fatal(why)
	}
	return ranges
}

// wrong says in what the ranges are not as promised, by reading both files.
func wrong(t testing.TB, a, b *os.File, ranges []Range) string {
	t.Helper()
	n := size(t, b)
	pos := int64(-1)
	for _, r := range ranges {
		if r.Offset <= pos || r.Length <= 0 || r.Offset+r.Length > n {
			return "not in order, touching, empty or beyond the end"
		}
		pos = r.Offset + r.Length
	}
	ba, bb := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < n; at += int64(len(ba)) {
		na, nb := read(t, a, ba, at), read(t, b, bb, at)
		clear(ba[na:])
		if bytes.Equal(ba[:nb], bb[:nb]) {
			continue
		}
		for i := range bb[:nb] {
			off := at + int64(i)
			if ba[i] != bb[i] && !slices.ContainsFunc(ranges, func(r Range) bool { return r.Offset <= off && off < r.Offset+r.Length }) {
				return "byte " + strconv.FormatInt(off, 10) + " differs and is in no range"
			}
		}
	}
	return ""
}

func read(t testing.TB, f *os.File, b []byte, at int64) int {
	t.Helper()
	n, err := f.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return n
}

func TestOneBlockOfALargeFile(t *testing.T) {
	b := &bench{dir: treetest.Mount(t, "xfs")}
	b.live = b.create(t, "live")
	treetest.Must(t, b.live.Truncate(500<<20))
	for at := int64(0); at < 500<<20; at += 50 << 20 {
		write(t, b.live, at, noise(1<<20, uint64(at)))
	}
	b.before = b.clone(t, "before")
	write(t, b.live, 100<<20+5*block, noise(block, 2))
	got := changed(t, b.before, b.clone(t, "after"))
	if want := []Range{{100<<20 + 5*block, block}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOperations(t *testing.T) {
	falloc := func(mode uint32, at, n int64) func(testing.TB, *os.File) {
		return func(t testing.TB, f *os.File) {
			t.Helper()
			treetest.Must(t, unix.Fallocate(int(f.Fd()), mode, at*block, n*block))
		}
	}
	truncate := func(to int64) func(testing.TB, *os.File) {
		return func(t testing.TB, f *os.File) { t.Helper(); treetest.Must(t, f.Truncate(to)) }
	}
	put := func(at int64, data []byte) func(testing.TB, *os.File) {
		return func(t testing.TB, f *os.File) { t.Helper(); write(t, f, at, data) }
	}
	tests := []struct {
		name string
		do   func(testing.TB, *os.File) // to a file of 64 blocks
		want []Range
	}{
		{"nothing", func(testing.TB, *os.File) {}, nil},
		{"one byte", put(9*block+17, []byte{0}), []Range{{9 * block, block}}},
		{"across two blocks", put(10*block-1, []byte{0, 0}), []Range{{9 * block, 2 * block}}},
		{"the same bytes again", put(0, noise(block, 1)), []Range{{0, block}}},
		{"first and last", func(t testing.TB, f *os.File) {
			put(0, []byte{0})(t, f)
			put(64*block-1, []byte{0})(t, f)
		}, []Range{{0, block}, {63 * block, block}}},
		{"punch", falloc(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5, 3), []Range{{5 * block, 3 * block}}},
		{"zero", falloc(unix.FALLOC_FL_ZERO_RANGE, 5, 3), []Range{{5 * block, 3 * block}}},
		{"allocate what is there", falloc(0, 5, 3), nil},
		{"allocate beyond the end", falloc(unix.FALLOC_FL_KEEP_SIZE, 64, 3), nil},
		{"allocate a longer file", falloc(0, 64, 3), []Range{{64 * block, 3 * block}}},
		{"append", put(64*block, noise(100, 3)), []Range{{64 * block, 100}}},
		{"longer by a hole", truncate(64*block + 5000), []Range{{64 * block, 5000}}},
		{"shorter by blocks", truncate(60 * block), nil},
		{"empty", truncate(0), nil},
		{"all written anew", func(t testing.TB, f *os.File) {
			truncate(0)(t, f)
			put(0, noise(64*block, 1))(t, f)
		}, []Range{{0, 64 * block}}},
		{"collapse", falloc(unix.FALLOC_FL_COLLAPSE_RANGE, 8, 4), []Range{{8 * block, 52 * block}}},
		{"insert", falloc(unix.FALLOC_FL_INSERT_RANGE, 8, 4), []Range{{8 * block, 60 * block}}},
	}
	mnt := treetest.Mount(t, "xfs")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, mnt, 64)
			tt.do(t, b.live)
			if got := changed(t, b.before, b.clone(t, "after")); !slices.Equal(got, tt.want) {
				t.Errorf("clone and clone: %v, want %v", got, tt.want)
			}
			if got := changed(t, b.before, b.live); !slices.Equal(got, tt.want) { // its dirty pages, too
				t.Errorf("clone and live file: %v, want %v", got, tt.want)
			}
		})
	}
}

// A write into a preallocated file: unwritten reads as the hole it is in the clone.
func TestUnwritten(t *testing.T) {
	b := &bench{dir: treetest.Mount(t, "xfs")}
	b.live = b.create(t, "live")
	treetest.Must(t, unix.Fallocate(int(b.live.Fd()), 0, 0, 64*block))
	b.before = b.clone(t, "before")
	write(t, b.live, 7*block, noise(block, 1))
	if got, want := changed(t, b.before, b.live), []Range{{7 * block, block}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The tail of a block beyond the end of the file may hold anything once the file grows.
func TestGrowthWithinABlock(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"), 4)
	treetest.Must(t, b.live.Truncate(3*block+100))
	b.before = b.clone(t, "before2")
	treetest.Must(t, b.live.Truncate(3*block+200))
	got := changed(t, b.before, b.clone(t, "after"))
	if n := len(got); n != 1 || got[0].Offset+got[0].Length != 3*block+200 || got[0].Offset < 3*block {
		t.Errorf("got %v", got)
	}
}

// A store dirties as much as the page cache holds in one piece, which may be
// more than a block.
func TestStoreThroughAMapping(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"), 64)
	m, err := unix.Mmap(int(b.live.Fd()), 0, 64*block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	treetest.Must(t, err)
	m[20*block]++
	if got := changed(t, b.before, b.live); len(got) == 0 { // changed compares the bytes
		t.Error("dirty page: nothing changed")
	}
	between := b.clone(t, "between")
	m[30*block]++
	if got := changed(t, between, b.clone(t, "after")); len(got) == 0 {
		t.Error("cloned: nothing changed")
	}
	treetest.Must(t, unix.Munmap(m))
}

// fragmented is a file of n extents, each a block with a hole after it.
func fragmented(t testing.TB, mnt string, n int) *bench {
	t.Helper()
	b := &bench{dir: mnt}
	b.live = b.create(t, "live")
	treetest.Must(t, b.live.Truncate(int64(n)*2*block))
	for i := range n {
		write(t, b.live, int64(i)*2*block, noise(block, uint64(i)))
	}
	b.before = b.clone(t, "before")
	return b
}

func TestManyExtents(t *testing.T) {
	const n = 3000
	b := fragmented(t, treetest.Mount(t, "xfs"), n)
	if got := changed(t, b.before, b.clone(t, "same")); got != nil {
		t.Errorf("nothing was written, and %v changed", got)
	}
	var want []Range
	for _, i := range []int64{0, perCall - 1, perCall, perCall + 1, 2 * perCall, n - 1} {
		write(t, b.live, i*2*block, noise(block, 99))
		want = append(want, Range{i * 2 * block, block})
	}
	write(t, b.live, 1001*block, noise(block, 99)) // a hole until now
	want = slices.Insert(want, 1, Range{1001 * block, block})
	slices.SortFunc(want, func(a, b Range) int { return int(a.Offset - b.Offset) })
	if got := changed(t, b.before, b.clone(t, "after")); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSizes(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"), 4)
	for _, tt := range []struct {
		size int64
		want []Range
	}{{0, nil}, {-1, nil}, {2*block + 1, nil}, {4 * block, nil}, {5 * block, []Range{{4 * block, block}}}} {
		got, ok, err := Changed(b.before, b.live, tt.size)
		if err != nil || !ok || !slices.Equal(got, tt.want) {
			t.Errorf("size %d: %v, %v, %v; want %v", tt.size, got, ok, err, tt.want)
		}
	}
	nothing := b.create(t, "nothing")
	if got := changed(t, nothing, b.live); !slices.Equal(got, []Range{{0, 4 * block}}) {
		t.Errorf("against an empty file: %v", got)
	}
	if got := changed(t, b.live, nothing); got != nil {
		t.Errorf("an empty file: %v", got)
	}
}

// Files that are no clones of each other differ everywhere but in their holes.
func TestStrangers(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"), 4)
	other := b.create(t, "other")
	treetest.Must(t, other.Truncate(8*block))
	write(t, other, block, noise(block, 1))
	if got := changed(t, b.before, other); !slices.Equal(got, []Range{{0, 8 * block}}) {
		t.Errorf("got %v", got)
	}
}

func TestWhereNobodyCanTell(t *testing.T) {
	ext4, xfs, xfs2 := treetest.Mount(t, "ext4"), treetest.Mount(t, "xfs"), treetest.Mount(t, "xfs")
	on := func(dir, name string) *os.File { return (&bench{dir: dir}).create(t, name) }
	a, b := on(ext4, "a"), on(ext4, "b")
	x, y := on(xfs, "x"), on(xfs2, "y")
	dir, err := os.Open(xfs)
	treetest.Must(t, err)
	defer dir.Close()
	for name, pair := range map[string][2]*os.File{"ext4": {a, b}, "one on ext4": {x, a}, "two file systems": {x, y}, "directory": {x, dir}} {
		if _, ok, err := Changed(pair[0], pair[1], block); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	closed := on(xfs, "closed")
	closed.Close()
	if _, _, err := Changed(x, closed, block); err == nil {
		t.Error("no error from a closed file")
	}
}

// btrfs shows compressed and inline extents: they count as changed, never as the same.
func TestBtrfs(t *testing.T) {
	mnt := treetest.Mount(t, "btrfs")
	b := newBench(t, mnt, 64)
	write(t, b.live, 9*block, noise(block, 2))
	if got := changed(t, b.before, b.clone(t, "after")); !slices.Equal(got, []Range{{9 * block, block}}) {
		t.Errorf("got %v", got)
	}
	if out, err := exec.Command("mount", "-o", "remount,compress-force=zstd", mnt).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := &bench{dir: mnt}
	c.live = c.create(t, "compressed")
	write(t, c.live, 0, bytes.Repeat([]byte("0123456789abcde\n"), 64*block/16))
	before := c.clone(t, "compressed before")
	write(t, c.live, 9*block, noise(block, 2))
	changed(t, before, c.clone(t, "compressed after"))
	d := &bench{dir: mnt}
	d.live = d.create(t, "inline")
	write(t, d.live, 0, []byte("short"))
	changed(t, d.clone(t, "inline before"), d.live)
}

func BenchmarkChanged1000Extents(b *testing.B) {
	f := fragmented(b, treetest.Mount(b, "xfs"), 1000)
	after := f.clone(b, "after")
	for b.Loop() {
		if _, ok, err := Changed(f.before, after, 2000*block); err != nil || !ok {
			b.Fatal(ok, err)
		}
	}
}
