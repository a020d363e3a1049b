package treetest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Chattr is chattr(1): what is such as "+i" or "-ia".
func Chattr(t testing.TB, what string, paths ...string) {
	t.Helper()
	need(t, "chattr", "e2fsprogs")
	run(t, "chattr", append([]string{what}, paths...)...)
}

// Flags are the paths below dir that have flags, each with "i", "a" or both.
func Flags(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	Must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Statx_t
		if err == nil {
			err = unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
		}
		if err != nil {
			return err
		}
		var f string
		if st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0 {
			f += "i"
		}
		if st.Attributes&unix.STATX_ATTR_APPEND != 0 {
			f += "a"
		}
		if f != "" {
			found[strings.TrimPrefix(path, dir)] = f
		}
		return nil
	}))
	return found
}

func sameFlags(t testing.TB, a, b string) {
	t.Helper()
	want, got := Flags(t, a), Flags(t, b)
	for path, f := range want {
		if got[path] != f {
			t.Errorf("%q has the flags %q, and %q in the other tree", path, f, got[path])
		}
	}
	for path, f := range got {
		if want[path] == "" {
			t.Errorf("%q has the flags %q, and none in the other tree", path, f)
		}
	}
}

const flagBits = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND // the same as chattr's

// Free takes the flags from all of a tree.
func Free(t testing.TB, dir string) {
	t.Helper()
	Must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		flag(path, 0)
		return err
	}))
}

// flag gives a file or directory these flags, and answers with those it had.
func flag(path string, bits uint32) (old uint32, ok bool) {
	st, err := os.Lstat(path)
	if err != nil || !st.IsDir() && !st.Mode().IsRegular() {
		return 0, false
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	was, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return 0, false
	}
	return was & flagBits, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(was&^flagBits|bits)) == nil
}
