package watch

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

func each(t *testing.T, before func(root string), f func(t *testing.T, r *rig)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { f(t, newRig(t, kind, before)) })
	}
}

func file(name string) func(root string) {
	return func(root string) {
		if err := os.WriteFile(filepath.Join(root, name), make([]byte, 8192), 0o600); err != nil {
			panic(err)
		}
	}
}

// As containers do: another mount namespace, in which the volume lies elsewhere.
func TestThroughABindMountElsewhere(t *testing.T) {
	each(t, file("f"), func(t *testing.T, r *rig) {
		script := `mount --bind "$1" "$2" && cd "$2" && echo new >> f && mkdir d && echo > d/g`
		out, err := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", r.root, t.TempDir()).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r.want("f", ".", "d/", "d/g")
	})
}

func TestOpenBeforeAdd(t *testing.T) {
	var f *os.File
	before := func(root string) {
		var err error
		f, err = os.OpenFile(filepath.Join(root, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		treetest.Must(t, err)
	}
	each(t, before, func(t *testing.T, r *rig) {
		defer f.Close()
		for range 3 {
			_, err := f.WriteString("line\n")
			treetest.Must(t, err)
			r.want("log")
		}
	})
}

// A store through a mapping is told when the last that holds the open file lets
// go of it, and not before: hence Mapped.
func TestMappingIsToldAtItsEnd(t *testing.T) {
	each(t, file("f"), func(t *testing.T, r *rig) {
		f, err := os.OpenFile(r.in("f"), os.O_RDWR, 0)
		treetest.Must(t, err)
		m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		treetest.Must(t, err)
		m[0]++
		treetest.Must(t, unix.Msync(m, unix.MS_SYNC))
		r.want()
		treetest.Must(t, f.Close())
		m[1]++
		r.want()
		treetest.Must(t, unix.Munmap(m))
		r.want("f")
	})
}

// A write by asynchronous I/O is told when the file is closed: hence Mapped.
func TestAsynchronousIO(t *testing.T) {
	each(t, file("f"), func(t *testing.T, r *rig) {
		_, end := child(t, "open, with asynchronous I/O", r.in("f"), nil)
		r.want()
		end()
		r.want("f")
	})
}

// A write through a name outside is not told: look at what has several names.
func TestHardLinks(t *testing.T) {
	each(t, file("f"), func(t *testing.T, r *rig) {
		outside := filepath.Join(r.by, "other")
		treetest.Must(t, os.Link(r.in("f"), outside))
		treetest.Must(t, os.Link(r.in("f"), r.in("g")))
		r.want(".", "g")
		treetest.Must(t, open(outside, 0, text("new")))
		r.want()
		treetest.Must(t, open(r.in("g"), 0, text("new")))
		r.want("g")
		treetest.Must(t, open(r.in("f"), 0, text("new")))
		r.want("f")
	})
}

// A file that was opened by its handle has no name to tell when it is not in
// the kernel's cache of names, as with a server of NFS.
func TestOpenedByHandle(t *testing.T) {
	each(t, file("f"), func(t *testing.T, r *rig) {
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, r.in("f"), 0)
		treetest.Must(t, err)
		root, err := os.Open(r.root)
		treetest.Must(t, err)
		defer root.Close()
		fd, err := unix.OpenByHandleAt(int(root.Fd()), h, unix.O_WRONLY)
		treetest.Must(t, err)
		_, err = unix.Write(fd, []byte("new"))
		treetest.Must(t, err)
		treetest.Must(t, unix.Close(fd))
		r.want("f") // it is in the cache
	})
}

func TestPathTooLongToTell(t *testing.T) {
	each(t, nil, func(t *testing.T, r *rig) {
		fd, err := unix.Open(r.root, unix.O_PATH|unix.O_DIRECTORY, 0)
		treetest.Must(t, err)
		for range 25 {
			treetest.Must(t, unix.Mkdirat(fd, strings.Repeat("d", 200), 0o700))
			down, err := unix.Openat(fd, strings.Repeat("d", 200), unix.O_PATH|unix.O_DIRECTORY, 0)
			treetest.Must(t, err)
			treetest.Must(t, unix.Close(fd))
			fd = down
		}
		r.w.Take()
		f, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY, 0o600)
		treetest.Must(t, err)
		treetest.Must(t, unix.Close(f))
		treetest.Must(t, unix.Close(fd))
		r.wantAll("too long a path")
		treetest.Must(t, open(r.in("f"), os.O_CREATE, ignore))
		r.want(".", "f")
	})
}

// Where a directory is, is remembered from one drain to the next: until it, or
// one above it, is renamed.
func TestDirectoriesAreFollowed(t *testing.T) {
	before := func(root string) { treetest.Must(t, os.MkdirAll(filepath.Join(root, "p/q"), 0o755)) }
	each(t, before, func(t *testing.T, r *rig) {
		move := func(from, to string) { t.Helper(); treetest.Must(t, os.Rename(from, to)) }
		put := func(path string) { t.Helper(); treetest.Must(t, open(path, os.O_CREATE, text("new"))) }
		treetest.Must(t, os.MkdirAll(filepath.Join(r.by, "y/z"), 0o755))
		put(r.by + "/y/z/f")
		r.want()
		move(r.by+"/y", r.in("y"))
		r.want(".", "y/")
		put(r.in("y/z/f"))
		r.want("y/z/f")
		move(r.in("y"), r.in("p/q/y"))
		put(r.in("p/q/y/z/f"))
		r.want(".", "y", "p/q", "p/q/y/", "p/q/y/z/f")
		move(r.in("p"), r.in("o"))
		r.want(".", "p", "o/")
		put(r.in("o/q/y/z/f"))
		r.want("o/q/y/z/f")
		move(r.in("o/q"), r.by+"/q")
		r.want("o", "o/q")
		put(r.by + "/q/y/z/f")
		r.want()
		treetest.Must(t, unix.Renameat2(unix.AT_FDCWD, r.by+"/q", unix.AT_FDCWD, r.in("o"), unix.RENAME_EXCHANGE))
		r.want(".", "o/")
		put(r.in("o/y/z/f"))
		r.want("o/y/z/f")
		treetest.Must(t, os.RemoveAll(r.in("o/y/z")))
		treetest.Must(t, os.Mkdir(r.in("o/y/z"), 0o755))
		put(r.in("o/y/z/f"))
		r.want("o/y", "o/y/z/", "o/y/z/f")
	})
}

// The queue holds so many names; one more, and nobody knows what.
func TestOverflow(t *testing.T) {
	r := newRig(t, "ext4", nil)
	other := filepath.Join(r.mnt, "volumes", "w")
	treetest.Must(t, os.Mkdir(other, 0o755))
	treetest.Must(t, r.w.Add("w", other))
	r.w.Take()
	r.w.mu.Lock() // or the queue would be emptied meanwhile
	for i := range r.w.queue + 1 {
		treetest.Must(t, unix.Mkfifo(filepath.Join(r.by, strings.Repeat("n", 1+i%200)+string(rune('a'+i/200%26))+string(rune('a'+i/5200))), 0o600))
	}
	r.w.mu.Unlock()
	h := r.w.Take()
	if !h["v"].All || !h["w"].All {
		t.Fatalf("%v", h)
	}
	treetest.Must(t, open(r.in("f"), os.O_CREATE, ignore))
	r.want(".", "f")
}

// Hints that nobody takes do not grow for ever.
func TestTooManyPaths(t *testing.T) {
	var h VolumeHints
	for i := range maxPaths + 1 {
		if h.All {
			t.Fatalf("all after %d", i)
		}
		h.add([]byte{byte(i), byte(i >> 8), byte(i >> 16)}, i%2 == 0)
	}
	if !h.All || len(h.Paths)+len(h.Trees) > 0 {
		t.Errorf("all %v, %d paths", h.All, len(h.Paths))
	}
}

func TestMerge(t *testing.T) {
	hints := func(paths ...string) VolumeHints {
		var h VolumeHints
		for _, p := range paths {
			h.add([]byte(strings.TrimSuffix(p, "/")), strings.HasSuffix(p, "/"))
		}
		return h
	}
	for _, tt := range []struct{ a, b, want VolumeHints }{
		{hints(), hints(), hints()},
		{hints(), hints("a", "b/"), hints("a", "b/")},
		{hints("a", "b/"), hints(), hints("a", "b/")},
		{hints("a"), hints("b/"), hints("a", "b/")},
		{hints("a", "b/"), hints("a/", "b"), hints("a/", "b/")},
		{hints("a"), VolumeHints{All: true}, VolumeHints{All: true}},
		{VolumeHints{All: true}, hints("a"), VolumeHints{All: true}},
	} {
		got := tt.a
		got.Merge(tt.b)
		if got.All != tt.want.All {
			t.Errorf("%v and %v: %v", tt.a, tt.b, got)
		}
		var want []string
		for p := range tt.want.Paths {
			if _, ok := tt.want.Trees[p]; ok {
				p += "/"
			}
			want = append(want, p)
		}
		if !got.All {
			wantHints(t, got, want...)
		}
	}
}

// marks are the file systems that the watcher hears of.
func marks(t testing.TB, w *Watcher) (n int) {
	t.Helper()
	f, err := os.Open("/proc/self/fdinfo/" + itoa(w.group))
	treetest.Must(t, err)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "fanotify sdev:") {
			n++
		}
	}
	return n
}
