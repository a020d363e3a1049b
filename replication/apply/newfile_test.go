package apply

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// obstacles are what may lie where a file is to be made.
var obstacles = map[string]func(t *testing.T, path, other string){
	"file":      func(t *testing.T, path, _ string) { treetest.Write(t, path, []byte("in the way")) },
	"hard link": func(t *testing.T, path, other string) { treetest.Must(t, os.Link(other, path)) },
	"symlink":   func(t *testing.T, path, other string) { treetest.Must(t, os.Symlink(other, path)) },
	"fifo":      func(t *testing.T, path, _ string) { treetest.Must(t, unix.Mkfifo(path, 0o600)) },
	"immutable": func(t *testing.T, path, _ string) {
		treetest.Write(t, path, []byte("and protected"))
		treetest.Chattr(t, "+i", path)
	},
	"directory": func(t *testing.T, path, _ string) {
		treetest.Must(t, os.MkdirAll(path+"/x/y", 0o700))
		treetest.Write(t, path+"/x/f", []byte("below"))
		treetest.Chattr(t, "+i", path+"/x/f", path+"/x")
	},
	"socket": func(t *testing.T, path, _ string) {
		t.Chdir(filepath.Dir(path)) // or it is too long
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Base(path)})
		treetest.Must(t, err)
		l.SetUnlinkOnClose(false)
		treetest.Must(t, l.Close())
	},
}

// Whatever lies under the name of a new file, or where it is written first, is replaced, not
// written to; after a kill also what lies only under the temporary name.
func TestInTheWayOfANewFile(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		for _, killed := range []bool{false, true} {
			t.Run(fs+map[bool]string{false: "/at first", true: "/after a kill"}[killed], func(t *testing.T) {
				r := newRig(t, treetest.Mount(t, fs))
				treetest.Must(t, os.Mkdir(r.src+"/d", 0o755))
				treetest.Write(t, r.src+"/d/other", []byte("stays as it is"))
				r.cycle(t)
				plant := func(what, path string) {
					t.Helper()
					obstacles[what](t, r.dst+"/"+path, r.dst+"/d/other")
				}
				for what := range obstacles {
					for _, at := range []string{" name", " both", " temp"} {
						treetest.Write(t, r.src+"/d/"+what+at, []byte("new "+what+at))
					}
				}
				r.capture(t)
				r.ship(t)
				if killed {
					r.hook = func(step string) error {
						if strings.HasPrefix(step, "make ") {
							return errKilled
						}
						return nil
					}
					if _, err := r.applier.Apply(t.Context(), r.base.ID, r.roots()); !errors.Is(err, errKilled) {
						t.Fatal(err)
					}
					r.hook = nil
					r.reopen(t)
				}
				for what := range obstacles {
					plant(what, "d/"+what+" name")
					plant(what, "d/"+what+" both")
					plant(what, tempName("d/"+what+" both"))
					if killed {
						plant(what, tempName("d/"+what+" temp"))
					}
				}
				r.apply(t)
				r.check(t)
				treetest.Same(t, r.src, r.dst)
			})
		}
	}
}

// Killed for real at any point of a file, what it leaves under the file's own name or the
// temporary one is of no generation, and is gone when the apply is done again.
func TestKilledInAFile(t *testing.T) {
	mnt := treetest.Mount(t, "xfs")
	for step, left := range map[string]struct {
		path, content string
		mode          os.FileMode
	}{
		"make d/new":   {path: "d/new"},
		"fill ":        {path: "d/new", mode: 0o600},
		"meta d/new":   {path: "d/new", content: "new", mode: 0o600},
		"make d/old":   {path: "d/new", content: "new", mode: 0o640},
		"meta d/old":   {path: tempName("d/old"), content: "other", mode: 0o600},
		"rename d/old": {path: tempName("d/old"), content: "other", mode: 0o640},
		"syncfs ":      {path: "d/old", content: "other", mode: 0o640},
	} {
		t.Run(strings.ReplaceAll(step, "/", "_"), func(t *testing.T) {
			r := newRig(t, filepath.Join(mnt, strings.ReplaceAll(step, "/", "_")))
			treetest.Must(t, os.Mkdir(r.src+"/d", 0o755))
			treetest.Write(t, r.src+"/d/old", []byte("old"))
			r.cycle(t)
			treetest.Write(t, r.src+"/d/new", []byte("new"))
			treetest.Write(t, r.src+"/d/old", []byte("other"))
			r.capture(t)
			r.ship(t)
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "APPLY_KILL_DIR="+r.dir, "APPLY_KILL_AT="+step)
			out, err := cmd.CombinedOutput()
			if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != -1 {
				t.Fatalf("not killed: %v\n%s", err, out)
			}
			b, err := os.ReadFile(r.dst + "/" + left.path)
			if left.mode == 0 {
				if !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is there: %v", left.path, err)
				}
			} else {
				st, serr := os.Stat(r.dst + "/" + left.path)
				treetest.Must(t, errors.Join(err, serr))
				if string(b) != left.content || st.Mode() != left.mode {
					t.Errorf("left is %q, %v", b, st.Mode())
				}
			}
			r.reopen(t)
			if at, err := r.applier.Applied(); err != nil || !at.IsZero() {
				t.Errorf("said to be at %s, %v", at, err)
			}
			r.apply(t)
			r.check(t)
			treetest.Same(t, r.src, r.dst)
		})
	}
}

// A file that is made in a directory which hands on its group and an ACL has its own.
func TestNewFilesInheritNothing(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			r := newRig(t, treetest.Mount(t, fs))
			in := inside(r.src)
			treetest.Must(t, os.Mkdir(in("d"), 0o755))
			treetest.Must(t, unix.Setxattr(in("d"), "system.posix_acl_default", treetest.ACL(7, 7, 5), 0))
			treetest.Must(t, errors.Join(os.Chown(in("d"), 5, 6), unix.Chmod(in("d"), 0o2777)))
			r.cycle(t)
			for _, name := range []string{"inherits", "plain", "root's", "own", "suid"} {
				treetest.Write(t, in("d/"+name), []byte(name))
				if name != "inherits" {
					treetest.Must(t, unix.Removexattr(in("d/"+name), "system.posix_acl_access"))
				}
			}
			treetest.Must(t, os.Chown(in("d/root's"), 0, 0))
			treetest.Must(t, unix.Setxattr(in("d/own"), "system.posix_acl_access", treetest.ACL(6, 4, 0), 0))
			treetest.Must(t, errors.Join(os.Chown(in("d/suid"), 7, 8), unix.Chmod(in("d/suid"), 0o6711)))
			r.cycle(t)
			treetest.Same(t, r.src, r.dst)
		})
	}
}

// An error in the middle of a new file leaves nothing of it.
func TestNothingIsLeftOfAnError(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "ext4"))
	treetest.Write(t, r.src+"/old", []byte("old"))
	r.cycle(t)
	treetest.Write(t, r.src+"/new", []byte("new"))
	treetest.Write(t, r.src+"/old", []byte("other"))
	r.capture(t)
	r.ship(t)
	for _, at := range []string{"meta new", "meta old"} {
		r.hook = func(step string) error {
			if step == at {
				return errKilled
			}
			return nil
		}
		if _, err := r.applier.Apply(context.Background(), r.base.ID, r.roots()); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		names, err := filepath.Glob(r.dst + "/.understudy*")
		if err != nil || len(names) > 0 {
			t.Errorf("%s: left are %q, %v", at, names, err)
		}
		_, err = os.Stat(r.dst + "/new")
		if there := err == nil; there != (at == "meta old") {
			t.Errorf("%s: the new file: %v", at, err)
		}
	}
	r.hook = nil
	r.apply(t)
	r.check(t)
	treetest.Same(t, r.src, r.dst)
}
