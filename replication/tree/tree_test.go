package tree

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

func openTemp(t *testing.T) (*Root, string) {
	t.Helper()
	dir := t.TempDir()
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, dir
}

func TestScanIsInEntryOrder(t *testing.T) {
	r, dir := openTemp(t)
	for _, p := range []string{"a-", "a/x", "a/.", "!", "\xff", "a/b/c", "a.d"} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	nodes, err := r.Scan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range nodes {
		got = append(got, n.Path)
	}
	want := []string{".", "!", "a", "a-", "a.d", "a/b", "a/b/c", "a/x", "out", "\xff"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Both ways of resolving a path refuse to leave the root.
func TestBeneath(t *testing.T) {
	r, dir := openTemp(t)
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"abs": "/etc", "rel": "..", "d/up": "../..", "self": "d"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	ways := map[string]func(string, int, uint32) (int, error){"openat2": r.openBeneath, "walk": r.walk}
	for way, open := range ways {
		for _, p := range []string{"abs/passwd", "rel/x", "d/up/x", "../x", "d/../../x", "/etc/passwd", "self/up", "abs"} {
			fd, err := open(p, unix.O_RDONLY, 0)
			if err == nil {
				t.Errorf("%s: %q was opened", way, p)
				_ = unix.Close(fd)
			}
		}
		fd, err := open("d", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Errorf("%s: %v", way, err)
			continue
		}
		_ = unix.Close(fd)
	}
	if _, err := r.Open("d"); !errors.Is(err, ErrNotRegular) {
		t.Errorf("a directory as a file: %v", err)
	}
}

func TestRemoveAllFollowsNothing(t *testing.T) {
	r, dir := openTemp(t)
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/kept", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/x/y/z", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir+"/x/y/link"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.RemoveAll("x"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(dir + "/x"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Lstat(outside + "/kept"); err != nil {
		t.Error(err)
	}
}

// TestData: in a file of holes and data, whatever is asked in whatever order, the
// answer is the file system's.
func TestData(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	const size = 4 << 20
	for range 40 {
		if _, err := f.WriteAt(make([]byte, 1+r.IntN(64<<10)), r.Int64N(size-64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	d, at := NewData(f, size), int64(0)
	for range 2000 {
		if at += r.Int64N(32 << 10); at >= size || r.IntN(50) == 0 {
			at = r.Int64N(size)
		}
		start, end, err := d.Next(at)
		wantStart, wantEnd, wantErr := NextData(f, at, size)
		if err != nil || wantErr != nil || start != wantStart || end != wantEnd {
			t.Fatalf("at %d: %d to %d (%v), not %d to %d (%v)", at, start, end, err, wantStart, wantEnd, wantErr)
		}
	}
}

func TestReadChunks(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 5*replication.ChunkSize + 77
	want := make([]byte, size)
	for _, at := range []int{0, replication.ChunkSize - 1, 3*replication.ChunkSize + 8192, size - 1} {
		want[at] = 'x'
		if _, err := f.WriteAt([]byte("x"), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, size)
	var data [][]byte
	cs, read, err := ReadChunks(context.Background(), f, size, func(_ replication.Hash, b []byte) error {
		data = append(data, bytes.Clone(b))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cs {
		copy(got[c.Offset:], data[i])
		if c.Length > replication.ChunkSize || c.Offset/replication.ChunkSize != (c.Offset+c.Length-1)/replication.ChunkSize {
			t.Errorf("chunk %d+%d is not on the grid", c.Offset, c.Length)
		}
	}
	if !bytes.Equal(got, want) {
		t.Error("the content differs")
	}
	if read >= size/2 {
		t.Errorf("%d of %d bytes read: holes too", read, size)
	}
}

func TestIndexIsKept(t *testing.T) {
	p := filepath.Join(t.TempDir(), "index")
	x := &Index{ID: replication.ID{Term: 3, Seq: 4}, At: 5, Volumes: map[string]*Nodes{
		"v": NewNodes(&Node{Path: "\xff", Stat: Stat{Ino: 2, CtimeNs: -3, MtimeNs: 4, Size: 5, Mode: 6, UID: 7, GID: 8, Nlink: 9}}),
	}}
	if err := x.Save(p); err != nil {
		t.Fatal(err)
	}
	got := LoadIndex(p)
	if got == nil || got.ID != x.ID || got.At != x.At || len(got.Volumes) != 1 {
		t.Fatalf("%+v", got)
	}
	if d := cmp.Diff(slices.Collect(x.Volumes["v"].All()), slices.Collect(got.Volumes["v"].All()), cmpopts.IgnoreUnexported(Stat{}, Node{})); d != "" {
		t.Error(d)
	}
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x40
		if decodeIndex(c) != nil {
			t.Fatalf("a flip of byte %d was not noticed", i)
		}
	}
	if LoadIndex(p+"x") != nil {
		t.Error("an index from nowhere")
	}
}
