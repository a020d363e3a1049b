package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// change is something that happens in or beside a volume that holds the
// directories d and d/e, the files f, d/g and d/e/h, and the symlink s. Beside it
// are the file x and the directory y with the file z.
type change struct {
	name string
	do   func(r *rig) error
	want []string // paths; trees end in /
}

// open calls f with a file opened for writing, and then closes it.
func open(path string, flags int, f func(*os.File) error) error {
	file, err := os.OpenFile(path, flags|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f(file); err != nil {
		return err
	}
	return file.Close()
}

func ignore(*os.File) error { return nil }

func text(s string) func(*os.File) error {
	return func(f *os.File) error { _, err := f.WriteString(s); return err }
}

func changes() []change {
	return append(contentChanges(), append(metadataChanges(), nameChanges()...)...)
}

func contentChanges() []change {
	return []change{
		{"write", func(r *rig) error { return open(r.in("d/g"), 0, text("new")) }, []string{"d/g"}},
		{"append", func(r *rig) error { return open(r.in("d/g"), os.O_APPEND, text("new")) }, []string{"d/g"}},
		{"write with O_TRUNC", func(r *rig) error { return open(r.in("f"), os.O_TRUNC, text("new")) }, []string{"f"}},
		{"truncate", func(r *rig) error { return os.Truncate(r.in("f"), 1) }, []string{"f"}},
		{"extend", func(r *rig) error { return os.Truncate(r.in("f"), 10000) }, []string{"f"}},
		{"through a symlink", func(r *rig) error { return open(r.in("s"), 0, text("new")) }, []string{"f"}},
		{"fallocate", func(r *rig) error {
			return open(r.in("f"), 0, func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 8192) })
		}, []string{"f"}},
		{"copy_file_range", func(r *rig) error {
			return open(r.in("f"), 0, func(f *os.File) error {
				from, err := os.Open(filepath.Join(r.by, "x"))
				if err != nil {
					return err
				}
				defer from.Close()
				_, err = unix.CopyFileRange(int(from.Fd()), nil, int(f.Fd()), nil, 1, 0)
				return err
			})
		}, []string{"f"}},
	}
}

func metadataChanges() []change {
	old := time.Unix(1, 2)
	return []change{
		{"chmod", func(r *rig) error { return os.Chmod(r.in("d/e/h"), 0o611) }, []string{"d/e/h"}},
		{"chmod directory", func(r *rig) error { return os.Chmod(r.in("d/e"), 0o711) }, []string{"d/e"}},
		{"chmod root", func(r *rig) error { return os.Chmod(r.root, 0o711) }, []string{"."}},
		{"chown", func(r *rig) error { return os.Chown(r.in("f"), 1, 2) }, []string{"f"}},
		{"lchown symlink", func(r *rig) error { return os.Lchown(r.in("s"), 1, 2) }, []string{"s"}},
		{"setxattr", func(r *rig) error { return unix.Setxattr(r.in("f"), "user.a", []byte("b"), 0) }, []string{"f"}},
		{"ACL", func(r *rig) error {
			return unix.Setxattr(r.in("d"), "system.posix_acl_default", treetest.ACL(7, 5, 0), 0)
		}, []string{"d"}},
		{"utimes", func(r *rig) error { return os.Chtimes(r.in("f"), old, old) }, []string{"f"}},
		{"mtime only", func(r *rig) error { return os.Chtimes(r.in("f"), time.Time{}, old) }, []string{"f"}},
	}
}

func nameChanges() []change {
	rename := func(from, to string) func(r *rig) error {
		return func(r *rig) error { return os.Rename(r.in(from), r.in(to)) }
	}
	return []change{
		{"create", func(r *rig) error { return open(r.in("d/new"), os.O_CREATE, ignore) }, []string{"d", "d/new"}},
		{"mkdir", func(r *rig) error { return os.Mkdir(r.in("new"), 0o700) }, []string{".", "new/"}},
		{"mkdir -p with files", func(r *rig) error {
			if err := os.MkdirAll(r.in("new/a/b"), 0o700); err != nil {
				return err
			}
			return open(r.in("new/a/b/c"), os.O_CREATE, text("new"))
		}, []string{".", "new/", "new", "new/a/", "new/a", "new/a/b/", "new/a/b", "new/a/b/c"}},
		{"symlink", func(r *rig) error { return os.Symlink("/nowhere", r.in("new")) }, []string{".", "new"}},
		{"hard link", func(r *rig) error { return os.Link(r.in("f"), r.in("d/new")) }, []string{"d", "d/new"}},
		{"fifo", func(r *rig) error { return unix.Mkfifo(r.in("new"), 0o600) }, []string{".", "new"}},
		{"delete", func(r *rig) error { return os.Remove(r.in("d/g")) }, []string{"d", "d/g"}},
		{"rm -r", func(r *rig) error { return os.RemoveAll(r.in("d/e")) }, []string{"d", "d/e"}},
		{"rename", rename("f", "d/f"), []string{".", "f", "d", "d/f"}},
		{"replace", rename("f", "d/g"), []string{".", "f", "d", "d/g"}},
		{"rename directory", rename("d/e", "e"), []string{"d", "d/e", ".", "e/"}},
		{"exchange", func(r *rig) error {
			return unix.Renameat2(unix.AT_FDCWD, r.in("f"), unix.AT_FDCWD, r.in("d"), unix.RENAME_EXCHANGE)
		}, []string{".", "f/", "d"}},
		{"rename in", func(r *rig) error { return os.Rename(filepath.Join(r.by, "x"), r.in("x")) }, []string{".", "x"}},
		{"rename out", func(r *rig) error { return os.Rename(r.in("f"), filepath.Join(r.by, "f")) }, []string{".", "f"}},
		{"rename directory in", func(r *rig) error { return os.Rename(filepath.Join(r.by, "y"), r.in("d/y")) }, []string{"d", "d/y/"}},
		{"rename directory out", func(r *rig) error { return os.Rename(r.in("d"), filepath.Join(r.by, "d")) }, []string{".", "d"}},
		{"out, changed there, and back in", func(r *rig) error {
			out := filepath.Join(r.by, "d")
			if err := os.Rename(r.in("d"), out); err != nil {
				return err
			}
			if err := open(filepath.Join(out, "g"), 0, text("new")); err != nil {
				return err
			}
			r.w.tick() // now it is nobody's
			return os.Rename(out, r.in("d"))
		}, []string{".", "d/"}},
		{"another directory of that name", func(r *rig) error {
			if err := os.RemoveAll(r.in("d")); err != nil {
				return err
			}
			return os.Mkdir(r.in("d"), 0o700)
		}, []string{".", "d/"}},
		{"a name with a newline", func(r *rig) error { return open(r.in("a\nb"), os.O_CREATE, ignore) }, []string{".", "a\nb"}},
		{"a name that is not UTF-8", func(r *rig) error { return open(r.in("d/\xff\xfe"), os.O_CREATE, ignore) }, []string{"d", "d/\xff\xfe"}},
		{"a name of 255 bytes", func(r *rig) error { return open(r.in("d/"+long), os.O_CREATE, ignore) }, []string{"d", "d/" + long}},
		{"a directory as if deleted", func(r *rig) error {
			if err := os.Mkdir(r.in("d (deleted)"), 0o700); err != nil {
				return err
			}
			r.w.tick()
			return open(r.in("d (deleted)/a"), os.O_CREATE, ignore)
		}, []string{".", "d (deleted)", "d (deleted)/", "d (deleted)/a"}},
		{"beside the volume", func(r *rig) error {
			if err := os.MkdirAll(r.root+"2/d", 0o700); err != nil { // its name begins as the volume's
				return err
			}
			return open(r.root+"2/d/f", os.O_CREATE, text("new"))
		}, nil},
	}
}

var long = strings.Repeat("n", 255)

func TestEachChange(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			mnt := treetest.Mount(t, kind)
			w := newWatcher(t)
			for i, c := range changes() {
				t.Run(c.name, func(t *testing.T) {
					dir := filepath.Join(mnt, fmt.Sprint(i))
					r := &rig{t: t, w: w, mnt: mnt, root: filepath.Join(dir, "v"), by: filepath.Join(dir, "beside")}
					treetest.Must(t, os.MkdirAll(r.in("d/e"), 0o755))
					treetest.Must(t, os.MkdirAll(filepath.Join(r.by, "y"), 0o755))
					for _, f := range []string{r.in("f"), r.in("d/g"), r.in("d/e/h"), filepath.Join(r.by, "x"), filepath.Join(r.by, "y/z")} {
						treetest.Write(t, f, []byte("old"))
					}
					treetest.Must(t, os.Symlink("f", r.in("s")))
					treetest.Must(t, w.Add("v", r.root))
					r.wantAll("first")
					treetest.Must(t, c.do(r))
					r.want(distinct(c.want)...)
					r.want()
				})
			}
		})
	}
}

// distinct leaves out what is also a tree.
func distinct(paths []string) (out []string) {
	trees := map[string]bool{}
	for _, p := range paths {
		trees[strings.TrimSuffix(p, "/")] = trees[strings.TrimSuffix(p, "/")] || strings.HasSuffix(p, "/")
	}
	for p, tree := range trees {
		if tree {
			p += "/"
		}
		out = append(out, p)
	}
	return out
}
