package apply

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// checkAll goes round once and collects what is found.
func (r *rig) checkAll(t *testing.T) (found []Finding, pieces int) {
	t.Helper()
	var c Check
	for {
		_, f, done, err := r.applier.CheckSome(context.Background(), &c, r.roots(), 1<<20)
		treetest.Must(t, err)
		found = append(found, f...)
		pieces++
		if done {
			return found, pieces
		}
	}
}

// rot flips a bit on the disk, where the marked bytes lie: an image that is mounted on
// mnt. No time of the file changes, nor what is in memory of it.
func rot(t *testing.T, mnt string, mark []byte, at int) {
	t.Helper()
	unix.Sync()
	img, err := os.OpenFile(filepath.Join(filepath.Dir(mnt), "img"), os.O_RDWR, 0)
	treetest.Must(t, err)
	defer img.Close()
	fi, err := img.Stat()
	treetest.Must(t, err)
	flipped := 0
	for pos := int64(0); ; {
		from, to, err := tree.NextData(img, pos, fi.Size())
		treetest.Must(t, err)
		if from >= fi.Size() {
			break
		}
		b := make([]byte, to-from)
		_, err = img.ReadAt(b, from)
		treetest.Must(t, err)
		if i := bytes.Index(b, mark); i >= 0 {
			_, err = img.WriteAt([]byte{b[i+at] ^ 8}, from+int64(i+at))
			treetest.Must(t, err)
			flipped++
		}
		pos = to
	}
	if flipped == 0 {
		t.Fatal("the bytes are not on the disk")
	}
}

// random is content that is nowhere else.
func random(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, rand.Uint64()))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestRotIsFound: a bit that the disk forgot, in a small file and in the middle of a
// large one, is found though neither time nor the page cache show it, and repaired.
func TestRotIsFound(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			mnt := treetest.Mount(t, fs)
			r := newRig(t, t.TempDir())
			r.dst = filepath.Join(mnt, "_data") // alone: what is flipped is nowhere else
			treetest.Must(t, os.Mkdir(r.dst, 0o755))
			small, large := random(1, 30000), random(2, inPlace+3<<20+17)
			treetest.Must(t, os.Mkdir(filepath.Join(r.src, "d"), 0o755))
			treetest.Write(t, filepath.Join(r.src, "d/small"), small)
			treetest.Write(t, filepath.Join(r.src, "large"), large)
			treetest.Must(t, os.Link(filepath.Join(r.src, "d/small"), filepath.Join(r.src, "d/twin")))
			treetest.Must(t, os.Symlink("d/small", filepath.Join(r.src, "link")))
			r.cycle(t)
			if found, pieces := r.checkAll(t); len(found) > 0 || pieces < 10 {
				t.Fatalf("nothing is wrong yet: %v in %d pieces", found, pieces)
			}
			rot(t, mnt, small[5000:5064], 11)
			rot(t, mnt, large[9<<20:9<<20+64], 7)
			before, err := os.Stat(filepath.Join(r.dst, "large"))
			treetest.Must(t, err)
			found, _ := r.checkAll(t)
			if len(found) != 2 {
				t.Fatalf("found %v", found)
			}
			for _, f := range found {
				if f.Foreign || !f.Repaired || f.Err != nil {
					t.Errorf("%v: %+v", f, f)
				}
			}
			if found, _ := r.checkAll(t); len(found) > 0 {
				t.Errorf("after the repair: %v", found)
			}
			after, err := os.Stat(filepath.Join(r.dst, "large"))
			treetest.Must(t, err)
			if !os.SameFile(before, after) {
				t.Error("a large file was written anew for one chunk")
			}
			diffs, err := r.applier.Verify(t.Context(), replication.ID{Term: 1, Seq: 1}, r.roots())
			if err != nil || len(diffs) > 0 {
				t.Errorf("%v, %v", diffs, err)
			}
		})
	}
}

// TestRotOfSharedBlocks: where the disk forgot what a live file and a pack share, and the
// pack is still known from memory, the repair has blocks of its own.
func TestRotOfSharedBlocks(t *testing.T) {
	mnt := treetest.Mount(t, "xfs")
	r := newRig(t, mnt)
	large := random(3, inPlace+17)
	treetest.Write(t, filepath.Join(r.src, "large"), large)
	r.cycle(t)
	rot(t, mnt, large[3<<20:3<<20+64], 7)
	if found, _ := r.checkAll(t); len(found) != 1 || !found[0].Repaired {
		t.Fatalf("found %v", found)
	}
	if found, _ := r.checkAll(t); len(found) > 0 {
		t.Errorf("after the repair: %v", found)
	}
}

// TestForeignIsLeft: what somebody has written is told apart from what the disk forgot,
// and left for the caller to keep.
func TestForeignIsLeft(t *testing.T) {
	r := newRig(t, t.TempDir())
	for _, name := range []string{"a", "b", "c", "d"} {
		treetest.Write(t, filepath.Join(r.src, name), []byte("content of "+name))
	}
	r.cycle(t)
	treetest.Write(t, filepath.Join(r.dst, "a"), []byte("content of x"))
	treetest.Must(t, os.Remove(filepath.Join(r.dst, "b")))
	treetest.Must(t, os.Chmod(filepath.Join(r.dst, "c"), 0o4755))
	found, _ := r.checkAll(t)
	var got []string
	for _, f := range found {
		if !f.Foreign || f.Repaired {
			t.Errorf("%+v", f)
		}
		got = append(got, f.Path+" "+f.What)
	}
	if text := strings.Join(got, ", "); text != ". has other metadata, a has other metadata, b is missing, c has other metadata" {
		t.Errorf("found %s", text)
	}
	if b, err := os.ReadFile(filepath.Join(r.dst, "a")); err != nil || string(b) != "content of x" {
		t.Errorf("%q, %v", b, err)
	}
	treetest.Must(t, r.applier.SetApplied(replication.ID{}))
	var c Check
	if _, _, _, err := r.applier.CheckSome(t.Context(), &c, r.roots(), 1); !errors.Is(err, ErrUnsettled) {
		t.Errorf("while containers write: %v", err)
	}
}

// TestCheckOfALargeFileEnds though a generation is applied after each piece of it, and
// what is wrong at its end is found.
func TestCheckOfALargeFileEnds(t *testing.T) {
	r := newRig(t, t.TempDir())
	large := random(3, 6<<20)
	treetest.Write(t, filepath.Join(r.src, "large"), large)
	treetest.Write(t, filepath.Join(r.src, "small"), []byte("0"))
	r.cycle(t)
	var c Check
	for n := byte(1); c.done < 3<<20; n++ {
		_, found, done, err := r.applier.CheckSome(t.Context(), &c, r.roots(), 1<<20)
		treetest.Must(t, err)
		if done || len(found) > 0 || n > 20 {
			t.Fatalf("it does not go on in the file: %+v, done %v, found %v", c, done, found)
		}
		treetest.Write(t, filepath.Join(r.src, "small"), []byte{n})
		r.cycle(t)
	}
	dst := filepath.Join(r.dst, "large")
	fi, err := os.Stat(dst)
	treetest.Must(t, err)
	f, err := os.OpenFile(dst, os.O_WRONLY, 0)
	treetest.Must(t, err)
	_, err = f.WriteAt([]byte{large[len(large)-1] ^ 1}, int64(len(large)-1))
	treetest.Must(t, errors.Join(err, f.Close(), os.Chtimes(dst, fi.ModTime(), fi.ModTime())))
	var all []Finding
	for done := false; !done; {
		var found []Finding
		_, found, done, err = r.applier.CheckSome(t.Context(), &c, r.roots(), 1<<20)
		treetest.Must(t, err)
		all = append(all, found...)
	}
	if len(all) != 1 || all[0].Path != "large" {
		t.Errorf("found %v", all)
	}
}
