package watch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

func itoa(n int) string { return strconv.Itoa(n) }

func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out)
}

// What happens to the root, and whether something is there afterwards.
func TestRootReplaced(t *testing.T) {
	for _, tt := range []struct {
		name  string
		there bool
		do    func(t *testing.T, r *rig)
	}{
		{"removed", false, func(t *testing.T, r *rig) { treetest.Must(t, os.RemoveAll(r.root)) }},
		{"removed and made anew", true, func(t *testing.T, r *rig) {
			treetest.Must(t, os.RemoveAll(r.root))
			treetest.Must(t, os.Mkdir(r.root, 0o755))
		}},
		{"moved away", false, func(t *testing.T, r *rig) { treetest.Must(t, os.Rename(r.root, r.by+"/v")) }},
		{"moved away and back", true, func(t *testing.T, r *rig) {
			treetest.Must(t, os.Rename(r.root, r.by+"/v"))
			treetest.Must(t, os.Rename(r.by+"/v", r.root))
		}},
		{"moved away, looked for, and back", true, func(t *testing.T, r *rig) {
			treetest.Must(t, os.Rename(r.root, r.by+"/v"))
			treetest.Must(t, open(r.by+"/v/new", os.O_CREATE, ignore))
			r.w.tick()
			treetest.Must(t, os.Rename(r.by+"/v", r.root))
			r.w.tick()
		}},
		{"its parent moved away and back", true, func(t *testing.T, r *rig) {
			treetest.Must(t, os.Rename(filepath.Dir(r.root), r.by+"/volumes"))
			treetest.Must(t, open(r.by+"/volumes/v/new", os.O_CREATE, ignore))
			treetest.Must(t, os.Rename(r.by+"/volumes", filepath.Dir(r.root)))
		}},
		{"replaced by rename", true, func(t *testing.T, r *rig) {
			treetest.Must(t, os.Rename(r.root, r.by+"/v"))
			treetest.Must(t, os.Mkdir(r.by+"/w", 0o755))
			treetest.Must(t, os.Rename(r.by+"/w", r.root))
		}},
		{"exchanged", true, func(t *testing.T, r *rig) {
			treetest.Must(t, os.Mkdir(r.by+"/w", 0o755))
			treetest.Must(t, unix.Renameat2(unix.AT_FDCWD, r.root, unix.AT_FDCWD, r.by+"/w", unix.RENAME_EXCHANGE))
		}},
		{"a symlink to elsewhere", true, func(t *testing.T, r *rig) {
			treetest.Must(t, os.Rename(r.root, r.by+"/v"))
			treetest.Must(t, os.Symlink(r.by, r.root))
		}},
		{"a file", false, func(t *testing.T, r *rig) {
			treetest.Must(t, os.Rename(r.root, r.by+"/v"))
			treetest.Write(t, r.root, nil)
		}},
		{"mounted over", true, func(t *testing.T, r *rig) {
			command(t, "mount", "--bind", r.by, r.root)
			t.Cleanup(func() { command(t, "umount", r.root) })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			each(t, file("f"), func(t *testing.T, r *rig) {
				tt.do(t, r)
				r.wantAll(tt.name)
				if !tt.there {
					r.wantAll("still away")
					treetest.Must(t, os.RemoveAll(r.root))
					treetest.Must(t, os.Mkdir(r.root, 0o755))
					r.wantAll("there again")
				}
				r.want()
				treetest.Must(t, open(r.in("later"), os.O_CREATE, text("new")))
				r.want(".", "later")
			})
		})
	}
}

// Subvolumes of one btrfs, one in another and one mounted beside it, have an ID and a device number each. All are
// watched by one mark, and a change in one is told of that alone.
func TestSubvolumes(t *testing.T) {
	mnt := treetest.Mount(t, treetest.Subvolume)
	nested, beside, top := filepath.Join(mnt, "nested"), t.TempDir(), t.TempDir()
	command(t, "btrfs", "-q", "subvolume", "create", nested)
	dev := strings.TrimSpace(output(t, "findmnt", "-no", "SOURCE", "--nofsroot", mnt))
	command(t, "mount", "-o", "subvolid=5", dev, top)
	t.Cleanup(func() { command(t, "umount", top) })
	command(t, "btrfs", "-q", "subvolume", "create", filepath.Join(top, "@srv"))
	command(t, "mount", "-o", "subvol=@srv", dev, beside)
	t.Cleanup(func() { command(t, "umount", beside) })
	roots := map[string]string{"a": filepath.Join(mnt, "v"), "b": filepath.Join(nested, "v"), "c": filepath.Join(beside, "v")}
	w := newWatcher(t)
	for name, root := range roots {
		treetest.Must(t, os.Mkdir(root, 0o755))
		treetest.Must(t, w.Add(name, root))
	}
	w.Take()
	if n := marks(t, w); n != 1 {
		t.Errorf("%d file systems are marked", n)
	}
	look := func() {
		t.Helper()
		for name, root := range roots {
			treetest.Write(t, filepath.Join(root, "d"+name), []byte(name))
			h := w.Take()
			if len(h) != 1 {
				t.Errorf("written to %s: %v", name, h)
			}
			wantHints(t, h[name], "d"+name, ".")
			treetest.Must(t, os.Remove(filepath.Join(root, "d"+name)))
			w.Take()
		}
	}
	look()
	command(t, "umount", top) // nothing hangs on it
	command(t, "mount", "-o", "subvolid=5", dev, top)
	treetest.Must(t, w.Remove("b"))
	delete(roots, "b")
	look() // of the others
	treetest.Must(t, w.Remove("a"))
	treetest.Must(t, w.Remove("c"))
	if n := marks(t, w); n != 0 {
		t.Errorf("%d file systems are marked", n)
	}
}

// A file system that was made read-only stays it.
func TestSubvolumeReadOnly(t *testing.T) {
	mnt := treetest.Mount(t, treetest.Subvolume)
	w := newWatcher(t)
	treetest.Must(t, os.Mkdir(filepath.Join(mnt, "v"), 0o755))
	treetest.Must(t, w.Add("v", filepath.Join(mnt, "v")))
	command(t, "mount", "-o", "remount,ro", mnt)
	fd, _, err := openRoot(filepath.Join(mnt, "v"))
	treetest.Must(t, err)
	defer unix.Close(fd)
	if !w.marked(fd) {
		t.Error("it is not watched any more")
	}
	if got := output(t, "findmnt", "-no", "FS-OPTIONS", mnt); !strings.HasPrefix(got, "ro") {
		t.Errorf("its options are %s", got)
	}
}

// A file system is unmounted although it is watched, and mounted again: what is
// written then is seen, though every number of it is the same.
func TestUnmounted(t *testing.T) {
	for _, kind := range treetest.FileSystems {
		t.Run(kind, func(t *testing.T) {
			mnt := treetest.Mount(t, kind)
			w := newWatcher(t)
			treetest.Must(t, os.Mkdir(filepath.Join(mnt, "a"), 0o755))
			treetest.Must(t, w.Add("a", filepath.Join(mnt, "a")))
			treetest.Must(t, w.Add("root", mnt))
			w.Take()
			treetest.Write(t, filepath.Join(mnt, "a", "f"), []byte("old"))
			command(t, "umount", mnt)
			command(t, "mount", "-o", "loop", filepath.Join(filepath.Dir(mnt), "img"), mnt)
			treetest.Write(t, filepath.Join(mnt, "a", "g"), []byte("new"))
			if h := w.Take(); !h["a"].All || !h["root"].All {
				t.Fatalf("after it was mounted again: %v", h)
			}
			treetest.Write(t, filepath.Join(mnt, "a", "f"), []byte("newer"))
			h := w.Take()
			wantHints(t, h["a"], "f")
			wantHints(t, h["root"], "a/f")

			// The same, seen by Add first.
			command(t, "umount", mnt)
			command(t, "mount", "-o", "loop", filepath.Join(filepath.Dir(mnt), "img"), mnt)
			treetest.Must(t, w.Add("another", filepath.Join(mnt, "a")))
			if h := w.Take(); !h["a"].All || !h["root"].All {
				t.Fatalf("after it was mounted again, and Add: %v", h)
			}
			command(t, "umount", mnt)
			if h := w.Take(); !h["a"].All || !h["root"].All {
				t.Fatalf("after it was unmounted: %v", h)
			}
			command(t, "mount", "-o", "loop", filepath.Join(filepath.Dir(mnt), "img"), mnt)
		})
	}
}

func TestSeveralVolumes(t *testing.T) {
	one, two := treetest.Mount(t, "xfs"), treetest.Mount(t, "ext4")
	bind := filepath.Join(t.TempDir(), "bind")
	roots := map[string]string{
		"a": filepath.Join(one, "a"), "ab": filepath.Join(one, "ab"), "whole": one, "inner": filepath.Join(one, "a/inner"),
		"other": filepath.Join(two, "a"), "bound": bind,
	}
	for _, dir := range []string{roots["inner"], roots["ab"], roots["other"], filepath.Join(one, "b/c"), bind} {
		treetest.Must(t, os.MkdirAll(dir, 0o755))
	}
	command(t, "mount", "--bind", filepath.Join(one, "b"), bind)
	t.Cleanup(func() { command(t, "umount", bind) })
	w := newWatcher(t)
	for name, root := range roots {
		treetest.Must(t, w.Add(name, root))
	}
	if h := w.Take(); len(h) != len(roots) {
		t.Fatalf("%v", h)
	}
	expect := func(path string, want map[string]string) {
		t.Helper()
		treetest.Write(t, path, []byte(path))
		h := w.Take()
		if len(h) != len(want) {
			t.Errorf("%s: %v", path, h)
		}
		for name, p := range want {
			wantHints(t, h[name], p, filepath.Dir(p))
		}
	}
	expect(one+"/a/f", map[string]string{"a": "f", "whole": "a/f"})
	expect(one+"/a/inner/f", map[string]string{"a": "inner/f", "whole": "a/inner/f", "inner": "f"})
	expect(one+"/ab/f", map[string]string{"ab": "f", "whole": "ab/f"})
	expect(one+"/b/f", map[string]string{"bound": "f", "whole": "b/f"})
	expect(bind+"/c/f", map[string]string{"bound": "c/f", "whole": "b/c/f"})
	expect(two+"/a/f", map[string]string{"other": "f"})
	expect(two+"/f", nil)

	if n := marks(t, w); n != 2 {
		t.Errorf("%d file systems are marked", n)
	}
	treetest.Must(t, w.Remove("other"))
	treetest.Must(t, w.Remove("other"))
	treetest.Must(t, w.Remove("whole"))
	if n := marks(t, w); n != 1 {
		t.Errorf("%d file systems are marked", n)
	}
	expect(two+"/a/g", nil)
	expect(one+"/a/g", map[string]string{"a": "g"})

	treetest.Must(t, w.Add("a", roots["ab"])) // instead
	if h := w.Take(); !h["a"].All {
		t.Errorf("%v", h)
	}
	expect(one+"/a/h", nil)
	expect(one+"/ab/h", map[string]string{"a": "h", "ab": "h"})
}

func TestCannotBeAdded(t *testing.T) {
	w := newWatcher(t)
	missing := filepath.Join(t.TempDir(), "missing")
	for root, want := range map[string]error{missing: os.ErrNotExist, "/proc/self": nil, "relative": nil, "/etc/passwd": unix.ENOTDIR} {
		if err := w.Add("v", root); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", root, err)
		}
	}
	if h := w.Take(); len(h) > 0 {
		t.Errorf("%v", h)
	}
}

func TestClose(t *testing.T) {
	r := newRig(t, "ext4", nil)
	w := r.w
	treetest.Must(t, w.Close())
	treetest.Must(t, w.Close())
	r.wantAll("closed")
	r.wantAll("still closed")
	if err := w.Add("w", r.by); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	treetest.Must(t, w.Remove("v"))
	if h := w.Take(); len(h) > 0 {
		t.Errorf("%v", h)
	}
}

// Everything at once, and the end in the middle of it. Run with -race.
func TestConcurrentUse(t *testing.T) {
	mnt := treetest.Mount(t, "ext4")
	before := fds(t)
	for range 5 {
		w, err := New(Options{})
		treetest.Must(t, err)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for i := range 3 {
			dir := filepath.Join(mnt, fmt.Sprint(i))
			treetest.Must(t, os.MkdirAll(dir, 0o755))
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					treetest.Write(t, filepath.Join(dir, "f"), nil)
					_ = os.Remove(filepath.Join(dir, "f"))
				}
			})
			wg.Go(func() {
				for range 30 {
					if err := w.Add(fmt.Sprint(i), dir); err != nil && !errors.Is(err, os.ErrClosed) {
						t.Error(err)
					}
					w.Take()
					w.tick()
					if i == 1 {
						_ = w.Remove(fmt.Sprint(i))
					}
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
				w.Take()
			})
		}
		wg.Add(1)
		go func() { // as soon as one has closed it
			defer wg.Done()
			<-w.done
			close(stop)
		}()
		wg.Wait()
	}
	if after := fds(t); after != before {
		t.Errorf("%d file descriptors were open, and now %d", before, after)
	}
}
