package fault

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listing is a tree: of each path all that a generation carries of the files below.
type listing map[string]string

func list(t testing.TB, root string) listing {
	t.Helper()
	out := listing{}
	first := map[uint64]string{} // path of an inode
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		line := describe(fi, fi.ModTime())
		switch {
		case fi.Mode().IsRegular():
			sum, err := hash(path, fi.Size())
			if err != nil {
				return err
			}
			if st.Nlink > 1 && first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			line += content(fi.Size(), sum, first[st.Ino])
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		out[rel] = line
		return nil
	}))
	return out
}

func describe(fi fs.FileInfo, mtime time.Time) string {
	st := fi.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%s %d:%d %s", fi.Mode(), st.Uid, st.Gid, mtime.UTC().Format(time.RFC3339Nano))
}

// content is a file's; first is the first path of one that has several.
func content(size int64, sum [32]byte, first string) string {
	return fmt.Sprintf(" %d %x %s", size, sum, first)
}

// hash reads through a mapping, which the race detector does not look at byte by byte.
func hash(path string, size int64) (sum [32]byte, err error) {
	if size == 0 {
		return sha256.Sum256(nil), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return sum, err
	}
	sum = sha256.Sum256(b)
	return sum, unix.Munmap(b)
}

// differs says how b is not a; "" when it is.
func (a listing) differs(b listing) string {
	out := ""
	for path, line := range a {
		if b[path] != line {
			out += fmt.Sprintf("%q is %q, not %q\n", path, b[path], line)
		}
	}
	for path, line := range b {
		if _, ok := a[path]; !ok {
			out += fmt.Sprintf("%q is there: %q\n", path, line)
		}
	}
	return out
}

// noise does not compress, and is the same for the same seed.
func noise(seed, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// The tree is small, but a full copy of it would be seen: full bytes do not compress.
const (
	full      = 1 << 20
	largeSize = 8 << 20 // most of it a hole; patched in place where there are no reflinks
)

// plant makes a small tree.
func plant(t testing.TB, root string) {
	t.Helper()
	must(t, os.Mkdir(filepath.Join(root, "sub"), 0o755))
	write(t, filepath.Join(root, "still"), noise(1, full/2))
	write(t, filepath.Join(root, "mode"), noise(2, full/2))
	must(t, os.Symlink("still", filepath.Join(root, "link")))
}

// plantAll makes a tree that each kind of change can be made in.
func plantAll(t testing.TB, root string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(root, name) }
	for _, d := range []string{"dir-0", "sub", "modes"} {
		must(t, os.Mkdir(in(d), 0o755))
	}
	write(t, in("still"), noise(1, full/2))
	write(t, in("large"), noise(2, full/2))
	must(t, os.Truncate(in("large"), largeSize))
	for _, f := range []string{"small", "mode", "sub/gone-0", "dir-0/file", "modes/inside"} {
		write(t, in(f), []byte(f))
	}
	write(t, in("busy"), noise(3, 80<<10))
	write(t, in("turn"), []byte("a file"))
	must(t, os.Symlink("small", in("link")))
}

// change makes the k-th change, from 1: one of each kind.
func change(t testing.TB, root string, k int) {
	t.Helper()
	in := func(name string, args ...any) string { return filepath.Join(root, fmt.Sprintf(name, args...)) }
	write(t, in("small"), noise(k, 200))
	must(t, os.RemoveAll(in("fresh-%d", k-1)))
	write(t, in("fresh-%d", k), noise(k, 100<<10))
	patch(t, in("large"), int64(k%100)*4096, noise(k, 4096))
	patch(t, in("modes/inside"), 0, noise(k, 6)) // the directory stays as it is
	must(t, os.Remove(in("sub/gone-%d", k-1)))
	write(t, in("sub/gone-%d", k), nil)
	must(t, os.Rename(in("dir-%d", k-1), in("dir-%d", k)))
	must(t, os.Chmod(in("mode"), fs.FileMode(0o600|k%8)))
	if k%2 == 0 {
		must(t, os.Chmod(in("sub"), fs.FileMode(0o700|k%8)))
	}
	must(t, os.Remove(in("link")))
	must(t, os.Symlink(fmt.Sprintf("fresh-%d", k), in("link")))
	must(t, os.RemoveAll(in("hard-%d", k-1)))
	must(t, os.Link(in("small"), in("hard-%d", k)))
	must(t, os.RemoveAll(in("turn")))
	if k%2 == 0 {
		write(t, in("turn"), []byte("a file"))
		return
	}
	must(t, os.Mkdir(in("turn"), 0o755))
	write(t, in("turn/file"), []byte("in a directory"))
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	must(t, os.WriteFile(path, b, 0o644))
}

func patch(t testing.TB, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(b, at)
	must(t, err)
	must(t, f.Close())
}

// writeLate is what the application writes to the busy file in the middle of the k-th capture.
func writeLate(root string, k int) error {
	path := filepath.Join(root, "busy")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(lateText(k), 0); err != nil {
		return err
	}
	return os.Chtimes(path, lateAt(k), lateAt(k))
}

func lateText(k int) []byte { return fmt.Appendf(nil, "written late, %d", k) }

// lateAt is the busy file's time then.
func lateAt(k int) time.Time { return time.Unix(1_700_000_000+int64(k), 42) }

// afterLate is how the tree will be once that was written.
func afterLate(t testing.TB, root string, k int) listing {
	t.Helper()
	l := list(t, root)
	path := filepath.Join(root, "busy")
	b, err := os.ReadFile(path)
	must(t, err)
	copy(b, lateText(k))
	fi, err := os.Lstat(path)
	must(t, err)
	l["busy"] = describe(fi, lateAt(k)) + content(int64(len(b)), sha256.Sum256(b), "")
	return l
}
