package tree_test

import (
	"errors"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

func openTree(t *testing.T, dir string) (*tree.Root, *tree.Near) {
	t.Helper()
	r, err := tree.OpenRoot(dir)
	treetest.Must(t, err)
	n := r.Near()
	t.Cleanup(func() { treetest.Must(t, errors.Join(n.Close(), r.Close())) })
	return r, n
}

// Whatever lies at a name, nothing is followed and nothing outside is made or changed.
func TestNearStaysBeneath(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	_, n := openTree(t, dir)
	treetest.Write(t, outside+"/victim", []byte("untouched"))
	treetest.Must(t, os.Mkdir(dir+"/d", 0o700))
	treetest.Write(t, dir+"/d/temp", []byte("new"))
	treetest.Must(t, os.Symlink(outside, dir+"/out"))
	treetest.Must(t, os.Symlink(outside+"/made", dir+"/d/dangling"))
	treetest.Must(t, os.Symlink(outside+"/victim", dir+"/d/link"))
	if _, err := n.Create("/made"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("before any other: %v", err)
	}
	for path, want := range map[string]error{
		"/made": unix.ENOENT, outside + "/made": unix.EXDEV,
		"d/dangling": unix.EEXIST, "d/link": unix.EEXIST, "d/temp": unix.EEXIST, "d": unix.EEXIST, ".": unix.EEXIST,
		"out/made": unix.ENOTDIR, "../made": unix.EXDEV, "d/../../made": unix.EXDEV, "d/..": unix.EXDEV, "..": unix.EXDEV, "d/": unix.EXDEV,
		"none/made": unix.ENOENT,
	} {
		f, err := n.Create(path)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("create %q: %v, want %v", path, err, want)
		}
	}
	if err := n.Rename("d/temp", "d/link"); err != nil {
		t.Error(err)
	}
	if err := n.Rename("out/victim", "out/gone"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("renamed outside: %v", err)
	}
	if err := errors.Join(n.Remove("d/dangling"), n.Remove("d/dangling")); err != nil {
		t.Error(err)
	}
	if err := n.Remove("out/victim"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("removed outside: %v", err)
	}
	if _, err := n.Lstat("out/victim"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("looked outside: %v", err)
	}
	if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
		t.Errorf("outside are %v, %v", names, err)
	}
	b, err := os.ReadFile(outside + "/victim")
	if err != nil || string(b) != "untouched" {
		t.Errorf("the victim: %q, %v", b, err)
	}
	if b, err := os.ReadFile(dir + "/d/link"); err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
}

// It follows from directory to directory, and keeps no more than one open.
func TestNearGoesAbout(t *testing.T) {
	dir := t.TempDir()
	r, n := openTree(t, dir)
	fds := func() int {
		t.Helper()
		names, err := os.ReadDir("/proc/self/fd")
		treetest.Must(t, err)
		return len(names)
	}
	treetest.Must(t, os.MkdirAll(dir+"/a/b", 0o700))
	before := fds()
	for _, path := range []string{"x", "a/x", "a/b/x", "a/y", "y", "a/b/y"} {
		f, err := n.Create(path)
		treetest.Must(t, err)
		treetest.Must(t, f.Close())
		got, err := n.Lstat(path)
		treetest.Must(t, err)
		if want, err := r.Lstat(path); err != nil || got != want {
			t.Errorf("%s: %+v, want %+v (%v)", path, got, want, err)
		}
		if got := fds(); got > before+1 {
			t.Errorf("%d more descriptors than before", got-before)
		}
	}
	if st, err := n.Lstat("."); err != nil || st.Type() != replication.TypeDir {
		t.Errorf("%+v, %v", st, err)
	}
}

// A file that was just made gets exactly the metadata that is asked for, whatever its directory handed on.
func TestFileMeta(t *testing.T) {
	acl := treetest.ACL
	directories := map[string]func(dir string){
		"plain":  func(string) {},
		"setgid": func(dir string) { treetest.Must(t, errors.Join(os.Chown(dir, 5, 6), unix.Chmod(dir, 0o2777))) },
		"default ACL": func(dir string) {
			treetest.Must(t, unix.Setxattr(dir, "system.posix_acl_default", acl(7, 7, 5), 0))
		},
		"append only": func(dir string) { treetest.Chattr(t, "+a", dir) },
		"immutable":   func(dir string) { treetest.Chattr(t, "+i", dir) },
	}
	entries := map[string]replication.Entry{
		"as made":    {Mode: 0o600},
		"root's":     {Mode: 0o644},
		"group's":    {Mode: 0o660, UID: 999, GID: 6},
		"owned":      {Mode: 0o600, UID: 999, GID: 998},
		"suid":       {Mode: 0o6755, UID: 999, GID: 998},
		"unreadable": {},
		"ACL":        {Mode: 0o664, UID: 1, Xattrs: map[string][]byte{"system.posix_acl_access": acl(6, 6, 4)}},
		"attributes": {Mode: 0o640, Xattrs: map[string][]byte{"user.a": []byte("A"), "user.empty": {}, "security.capability": {1, 0, 0, 2, 0, 0x20, 19: 0}}},
		"label":      {Mode: 0o640, Xattrs: map[string][]byte{treetest.Label: []byte("system_u:object_r:etc_t:s0\x00")}},
	}
	for _, fs := range treetest.FileSystems {
		mnt := treetest.Mount(t, fs)
		for in, prepare := range directories {
			t.Run(fs+"/"+in, func(t *testing.T) {
				dir := mnt + "/" + in
				treetest.Must(t, os.Mkdir(dir, 0o755))
				prepare(dir)
				r, n := openTree(t, dir)
				for _, path := range slices.Sorted(maps.Keys(entries)) {
					e := entries[path]
					e.Path, e.Type, e.Size, e.MtimeNs = path, replication.TypeFile, 3, time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC).UnixNano()
					f, err := n.Create(path)
					treetest.Must(t, err)
					_, err = f.WriteString("abc")
					treetest.Must(t, err)
					refused, err := tree.SetFileMeta(f, &e)
					if err != nil || len(refused) > 0 {
						t.Errorf("%s: %v, %q", path, err, refused)
					}
					treetest.Must(t, f.Close())
					st, err := r.Lstat(path)
					treetest.Must(t, err)
					got, err := r.Meta(path, st)
					if err != nil || !got.SameMeta(&e) || got.Size != e.Size {
						t.Errorf("%s: %+v (%v), want %+v", path, got, err, e)
					}
				}
			})
		}
	}
}
