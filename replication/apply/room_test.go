package apply

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return b
}

// TestNoRoomForTheLiveData: a generation that the tree's file system has no room for is not
// begun: the tree stays at the one before, exactly, and goes on when there is.
func TestNoRoomForTheLiveData(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	r := newRig(t, t.TempDir())
	treetest.Must(t, unix.Mount("understudy-test", r.dst, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { _ = unix.Unmount(r.dst, unix.MNT_DETACH) })
	in := inside(r.src)
	treetest.Write(t, in("kept"), noise(1, 4<<20))
	treetest.Write(t, in("goes"), noise(2, 6<<20))
	r.cycle(t)
	before := r.base

	treetest.Write(t, in("more"), noise(3, 8<<20))
	settle()
	if !r.capture(t) {
		t.Fatal("nothing changed")
	}
	r.ship(t)
	if _, err := r.applier.Apply(context.Background(), r.base.ID, r.roots()); !errors.Is(err, replication.ErrNoSpace) {
		t.Fatalf("%v", err)
	}
	full := r.base
	r.base = before
	r.check(t)
	r.base = full

	treetest.Must(t, os.Remove(in("goes"))) // what goes makes room for what comes
	settle()
	r.cycle(t)
	treetest.Must(t, os.Remove(in("more")))
	treetest.Write(t, in("kept"), noise(4, 4<<20)) // both are there for a moment
	settle()
	r.cycle(t)
}

// text compresses, so a pack does not share it.
func text(seed uint64, n int) []byte {
	b := noise(seed, n)
	for at := 0; at+128 <= n; at += 128 {
		copy(b[at+64:at+128], b[at:])
	}
	return b
}

// filler fills a file system up but for so many bytes, or as near as it lets itself be filled,
// until it is emptied.
func filler(t testing.TB, dir string, leave int64) (empty func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	treetest.Must(t, err)
	defer f.Close()
	blocksUsed(t, dir) // what is written has its place
	at := int64(0)
	for step := free(t, dir) - leave; step >= 1<<20; step = min(step, free(t, dir)-leave) {
		switch err := unix.Fallocate(int(f.Fd()), 0, at, step); {
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		default:
			treetest.Must(t, err)
			at += step
		}
	}
	return func() {
		treetest.Must(t, os.Remove(f.Name()))
		blocksUsed(t, dir) // which makes them free
	}
}

func free(t testing.TB, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	treetest.Must(t, unix.Statfs(dir, &st))
	return int64(st.Bavail) * st.Bsize
}

// TestNoRoomWhereBlocksAreShared: what shares its blocks with the packs needs no room, and what
// cannot is known beforehand: a generation that has too much of it is not begun.
func TestNoRoomWhereBlocksAreShared(t *testing.T) {
	const size = 16 << 20
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			mnt := treetest.Mount(t, kind)
			r := newRig(t, mnt)
			in := inside(r.src)
			treetest.Write(t, in("kept"), text(1, 4<<20))
			treetest.Write(t, in("changes"), text(2, size))
			r.cycle(t)
			for _, tt := range []struct {
				name   string
				change func()
				leave  int64
				fits   bool
			}{
				{"noise", func() { treetest.Write(t, in("noise"), noise(3, size)) }, size * 3 / 4, true},
				{"text", func() { treetest.Write(t, in("text"), text(4, size)) }, size * 3 / 4, false},
				{"a part of a large file", func() { patch(t, in("changes"), 1<<20+5, text(6, 1<<20)) }, size * 3 / 4, true},
				{"many small files", func() {
					treetest.Must(t, os.Mkdir(in("many"), 0o755))
					for i := range uint64(size / 12288) {
						treetest.Write(t, in("many/"+strconv.FormatUint(i, 10)), noise(i>>8, 12400)[i&0xff:])
					}
				}, size * 3 / 4, false},
				{"what goes makes room", func() {
					treetest.Must(t, os.Remove(in("changes")))
					treetest.Write(t, in("comes"), text(7, size))
				}, size * 3 / 4, true},
			} {
				before := r.base
				tt.change()
				settle()
				if !r.capture(t) {
					t.Fatalf("%s: nothing changed", tt.name)
				}
				r.ship(t)
				empty := filler(t, mnt, tt.leave)
				_, err := r.applier.Apply(t.Context(), r.base.ID, r.roots())
				if !tt.fits {
					if !errors.Is(err, replication.ErrNoSpace) {
						t.Fatalf("%s: begun, although there is no room: %v", tt.name, err)
					}
					full := r.base
					r.base = before
					r.check(t)
					r.base = full
				} else if err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
				empty()
				r.apply(t)
				r.check(t)
				if t.Failed() {
					t.Fatal(tt.name)
				}
			}
		})
	}
}

// TestDiskFillsMidway: somebody else fills the disk in the middle of an apply. The tree is at no
// generation, which is said, until there is room; then the apply is finished.
func TestDiskFillsMidway(t *testing.T) {
	const size = 16 << 20
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			mnt := treetest.Mount(t, kind)
			r := newRig(t, mnt)
			in := inside(r.src)
			treetest.Write(t, in("first"), text(1, 4<<20))
			r.cycle(t)
			treetest.Write(t, in("first"), text(2, 4<<20))
			treetest.Write(t, in("second"), text(3, size))
			settle()
			if !r.capture(t) {
				t.Fatal("nothing changed")
			}
			r.ship(t)
			var empty func()
			r.hook = func(step string) error {
				if strings.HasPrefix(step, "fill ") && strings.HasSuffix(step, "second") && empty == nil {
					empty = filler(t, mnt, size/4)
				}
				return nil
			}
			if _, err := r.applier.Apply(t.Context(), r.base.ID, r.roots()); !replication.NoSpace(err) {
				t.Fatalf("a disk that filled midway: %v", err)
			}
			if at, err := r.applier.Applied(); err != nil || !at.IsZero() {
				t.Errorf("in the middle of an apply the tree is said to be at %s (%v)", at, err)
			}
			if _, err := r.applier.Apply(t.Context(), r.base.ID, r.roots()); !replication.NoSpace(err) {
				t.Fatalf("there is still no room: %v", err)
			}
			empty()
			r.apply(t)
			r.check(t)
		})
	}
}

// storeAt is a store of which only the place is asked.
type storeAt struct {
	Generations
	dir string
}

func (s storeAt) Dir() string { return s.dir }

// TestSubvolumesAreOneDisk: they share blocks, and their room, although they say that they are two devices.
func TestSubvolumesAreOneDisk(t *testing.T) {
	mnt := treetest.Mount(t, "btrfs")
	var subs []string
	for _, name := range []string{"store", "a", "b"} {
		sub := filepath.Join(mnt, name)
		if out, err := exec.Command("btrfs", "subvolume", "create", sub).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		subs = append(subs, sub)
	}
	r := &rooms{g: storeAt{dir: subs[0]}}
	var found []*disk
	for _, sub := range subs[1:] {
		d, err := r.diskOf(sub)
		treetest.Must(t, err)
		found = append(found, d)
	}
	if found[0] != found[1] || !found[0].packs || !found[0].clones {
		t.Errorf("%+v, %+v", found[0], found[1])
	}
	elsewhere := &rooms{g: storeAt{dir: treetest.Mount(t, "btrfs")}}
	if d, err := elsewhere.diskOf(subs[1]); err != nil || d.packs || !d.clones {
		t.Errorf("a store on another file system: %+v, %v", d, err)
	}
}

// TestWhatIsThereMayDo: a new volume that is not empty, and live files of which nothing is known any more, may have what
// comes already. It is tried.
func TestWhatIsThereMayDo(t *testing.T) {
	mnt := treetest.Mount(t, "ext4")
	r := newRig(t, mnt)
	defer filler(t, mnt, 1<<20)()
	had := &replication.Manifest{Volumes: []replication.Volume{{Name: "new", Entries: replication.NewEntries()}}}
	var coming []replication.Chunk
	for i := range int64(64) {
		coming = append(coming, replication.Chunk{Offset: i << 20, Length: 1 << 20, Hash: replication.Hash{byte(i)}})
	}
	target := &replication.Manifest{Volumes: []replication.Volume{{Name: "new", Entries: replication.NewEntries()}}}
	target.Volumes[0].Entries.Set(&replication.Entry{Path: "f", Type: replication.TypeFile, Size: 64 << 20, Chunks: coming})
	root := filepath.Join(mnt, "new")
	treetest.Must(t, os.Mkdir(root, 0o755))
	roots := map[string]string{"new": root}
	g := storeAt{dir: r.src}
	none := &replication.Manifest{}
	if err := room(g, none, target, target.DeltaFrom(none), roots, loadLive("", nil)); !errors.Is(err, replication.ErrNoSpace) {
		t.Errorf("an empty new volume: %v", err)
	}
	if err := room(g, had, target, target.DeltaFrom(had), roots, loadLive("", nil)); !errors.Is(err, replication.ErrNoSpace) {
		t.Errorf("a new file: %v", err)
	}
	treetest.Write(t, filepath.Join(root, "f"), []byte("x"))
	if err := room(g, none, target, target.DeltaFrom(none), roots, loadLive("", nil)); err != nil {
		t.Errorf("a new volume with something in it: %v", err)
	}
}

// TestRoomWithoutAnIndex: after a crash nobody knows which live files are what they were. What differs counts, as if all were.
func TestRoomWithoutAnIndex(t *testing.T) {
	mnt := treetest.Mount(t, "xfs")
	of := func(seq uint64, last byte) *replication.Manifest {
		var cs []replication.Chunk
		for i := range int64(64) {
			cs = append(cs, replication.Chunk{Offset: i << 20, Length: 1 << 20, Hash: replication.Hash{byte(i)}})
		}
		cs[63].Hash[1] = last
		m := &replication.Manifest{ID: replication.ID{Term: 1, Seq: seq}, Volumes: []replication.Volume{{Name: "v", Entries: replication.NewEntries()}}}
		m.Volumes[0].Entries.Set(&replication.Entry{Path: "f", Type: replication.TypeFile, Size: 64 << 20, Chunks: cs})
		return m
	}
	from, to := of(1, 0), of(2, 1)
	root := filepath.Join(mnt, "v")
	treetest.Must(t, os.Mkdir(root, 0o755))
	defer filler(t, mnt, 16<<20)()
	g := storeAt{dir: t.TempDir()}
	lost, changed := loadLive("", nil), loadLive("", nil)
	changed.volume("v").Set(&tree.Node{Path: "another"})
	if err := room(g, from, to, to.DeltaFrom(from), map[string]string{"v": root}, lost); err != nil {
		t.Errorf("no index: %v", err)
	}
	if err := room(g, from, to, to.DeltaFrom(from), map[string]string{"v": root}, changed); !errors.Is(err, replication.ErrNoSpace) {
		t.Errorf("an index that does not have the file: %v", err)
	}
}
