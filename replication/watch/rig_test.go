package watch

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// rig is a file system with a volume, watched, and a place beside it.
type rig struct {
	t             testing.TB
	w             *Watcher
	mnt, root, by string
}

// kinds are what is watched.
var kinds = append(slices.Clone(treetest.FileSystems), "btrfs", treetest.Subvolume)

// newRig watches the tree that before made.
func newRig(t testing.TB, kind string, before func(root string)) *rig {
	t.Helper()
	mnt := treetest.Mount(t, kind)
	r := &rig{t: t, mnt: mnt, root: filepath.Join(mnt, "volumes", "v"), by: filepath.Join(mnt, "beside")}
	treetest.Must(t, os.MkdirAll(r.root, 0o755))
	treetest.Must(t, os.Mkdir(r.by, 0o755))
	if before != nil {
		before(r.root)
	}
	r.w = newWatcher(t)
	treetest.Must(t, r.w.Add("v", r.root))
	r.wantAll("first")
	if h := r.w.Take(); len(h) > 0 {
		t.Fatalf("nothing happened, and there are hints: %v", h)
	}
	return r
}

func newWatcher(t testing.TB) *Watcher {
	t.Helper()
	w, err := New(Options{})
	treetest.Must(t, err)
	t.Cleanup(func() { treetest.Must(t, w.Close()) })
	return w
}

func (r *rig) in(path string) string { return filepath.Join(r.root, path) }

// wantAll: everything is to be looked at, and the next time nothing is.
func (r *rig) wantAll(when string) {
	r.t.Helper()
	if h := r.w.Take()["v"]; !h.All || len(h.Paths)+len(h.Trees) > 0 {
		r.t.Fatalf("%s: all should be looked at, not %d paths", when, len(h.Paths))
	}
}

// want: exactly these paths are to be looked at; those that end in / as trees.
func (r *rig) want(paths ...string) {
	r.t.Helper()
	wantHints(r.t, r.w.Take()["v"], paths...)
}

func wantHints(t testing.TB, h VolumeHints, paths ...string) {
	t.Helper()
	var got []string
	for p := range h.Paths {
		if _, tree := h.Trees[p]; tree {
			p += "/"
		}
		got = append(got, p)
	}
	for p := range h.Trees {
		if _, ok := h.Paths[p]; !ok {
			t.Errorf("tree %q is not in paths", p)
		}
	}
	slices.Sort(got)
	slices.Sort(paths)
	if h.All || !slices.Equal(got, paths) {
		t.Errorf("look at %q (all %v), want %q", got, h.All, paths)
	}
}

func fds(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	treetest.Must(t, err)
	return len(entries)
}

// model is how a caller keeps what it knows of a tree: by hints, or by scanning.
type model struct {
	root string
	know map[string]unix.Stat_t
}

func newModel(root string) *model {
	m := &model{root: root}
	m.update(VolumeHints{All: true})
	return m
}

// update looks where the hints say, and at all entries with several names.
func (m *model) update(h VolumeHints) {
	if h.All {
		m.know = map[string]unix.Stat_t{}
		m.scan(".")
		return
	}
	for _, p := range slices.Sorted(maps.Keys(h.Paths)) {
		_, tree := h.Trees[p]
		m.look(p, tree)
	}
	linked := map[uint64]bool{}
	for p, st := range m.know {
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			linked[st.Ino] = true
			m.look(p, false)
		}
	}
	for p, st := range m.know {
		if linked[st.Ino] {
			m.look(p, false)
		}
	}
}

// open opens p, which no symlink may lead to.
func (m *model) open(p string, flags uint64) (*os.File, error) {
	root, err := os.Open(m.root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for {
		fd, err := unix.Openat2(int(root.Fd()), p, &unix.OpenHow{Flags: flags | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH})
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) { // a rename somewhere
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), p), nil
	}
}

func (m *model) lstat(p string) (st unix.Stat_t, ok bool) {
	f, err := m.open(p, unix.O_PATH)
	if err != nil {
		return st, false
	}
	defer f.Close()
	return st, unix.Fstat(int(f.Fd()), &st) == nil
}

func (m *model) look(p string, tree bool) {
	was, known := m.know[p]
	st, ok := m.lstat(p)
	if !ok {
		m.drop(p)
		return
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if tree || !known || was.Mode&unix.S_IFMT != st.Mode&unix.S_IFMT || isDir && was.Ino != st.Ino {
		m.drop(p)
		m.scan(p)
		return
	}
	m.know[p] = st
}

func (m *model) drop(p string) {
	maps.DeleteFunc(m.know, func(k string, _ unix.Stat_t) bool { return k == p || p == "." || strings.HasPrefix(k, p+"/") })
}

func (m *model) scan(p string) {
	st, ok := m.lstat(p)
	if !ok {
		return
	}
	m.know[p] = st
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	f, err := m.open(p, unix.O_DIRECTORY)
	if err != nil {
		return
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1) // gone meanwhile
	for _, name := range names {
		m.scan(filepath.Join(p, name))
	}
}
