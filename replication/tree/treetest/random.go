package treetest

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Changer changes a tree at random, by everything that can be done to one. The same
// seed does the same to the same tree.
type Changer struct {
	t    testing.TB
	rng  *rand.Rand
	dir  string
	near string // a short path to dir, for sockets
	n    int    // makes names that are new

	NoFlags bool // leave chattr out
}

// SeedVar is the variable that plays a seed again.
const SeedVar = "UNDERSTUDY_SEED"

// Seed is a new one, or the one to play again; it is printed.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if again := os.Getenv(SeedVar); again != "" {
		var err error
		seed, err = strconv.ParseUint(again, 10, 64)
		Must(t, err)
	}
	t.Logf("to play it again: %s=%d", SeedVar, seed)
	return seed
}

// NewChanger is for the tree at dir.
func NewChanger(t testing.TB, seed uint64, dir string) *Changer {
	t.Helper()
	return &Changer{t: t, rng: rand.New(rand.NewPCG(seed, 1)), dir: dir, near: short(t, dir)}
}

// step is one way to change a tree. What makes no sense there does nothing: c says
// whether anything was done, so that a test can see that most are.
type step struct {
	name string
	do   func(c *Changer, p string) error
}

var steps = slices.Concat(contentSteps, nameSteps, metadataSteps)

// Change does n things, and answers with how often each was done.
func (c *Changer) Change(n int, done map[string]int) {
	c.t.Helper()
	for range n {
		s := steps[c.rng.IntN(len(steps))]
		p := c.pick()
		if s.name == "flags" && c.NoFlags {
			continue
		}
		free := c.free(p)
		if err := s.do(c, p); err == nil {
			done[s.name]++
		}
		free()
	}
}

// all are the paths of the tree, in order, the root first. Sockets are left out: by
// their names rsync is told not to compare them.
func (c *Changer) all() (paths []string) {
	c.t.Helper()
	Must(c.t, filepath.WalkDir(c.dir, func(path string, _ fs.DirEntry, err error) error {
		if !strings.HasSuffix(path, ".sock") {
			paths = append(paths, path)
		}
		return err
	}))
	return paths
}

// Sockets counts them.
func (c *Changer) Sockets() (n int) {
	c.t.Helper()
	Must(c.t, filepath.WalkDir(c.dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSocket != 0 {
			n++
		}
		return err
	}))
	return n
}

// rename moves from to to, unless paths would become too long for rsync.
func (c *Changer) rename(from, to string, flags uint) error {
	for _, p := range c.all() {
		if rest, ok := strings.CutPrefix(p, from+"/"); ok && len(to)+len(rest) > 3900 {
			return unix.ENAMETOOLONG
		}
		if rest, ok := strings.CutPrefix(p, to+"/"); ok && flags != 0 && len(from)+len(rest) > 3900 {
			return unix.ENAMETOOLONG
		}
	}
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
}

func (c *Changer) pick() string {
	all := c.all()
	return all[c.rng.IntN(len(all))]
}

// pickDir is a directory whose path leaves room for a name.
func (c *Changer) pickDir() string {
	for {
		if p := c.pick(); len(p) < 3000 {
			if st, err := os.Lstat(p); err == nil && st.IsDir() {
				return p
			}
		}
	}
}

// name is a new path, with a name as odd as can be.
func (c *Changer) name() string {
	c.n++
	odd := []string{"%d", "a%d\nb", "\xff%d\xfe", "%d é", "-%d", "*%d?", strings.Repeat("n", 250) + "%d", ".%d", "%d.\x01"}[c.rng.IntN(9)]
	return c.pickDir() + "/" + fmt.Sprintf(odd, c.n%1000)
}

// free takes away, half of the time, the flags that are in the way of changing p, and
// gives back half of those.
func (c *Changer) free(p string) (again func()) {
	if c.rng.IntN(2) == 0 {
		return func() {}
	}
	had := map[string]uint32{}
	for _, q := range []string{p, filepath.Dir(p)} {
		if len(q) >= len(c.dir) {
			if old, ok := flag(q, 0); ok && old != 0 {
				had[q] = old
			}
		}
	}
	return func() {
		for _, q := range []string{p, filepath.Dir(p)} {
			if old := had[q]; old != 0 && c.rng.IntN(2) == 0 {
				flag(q, old)
			}
		}
	}
}

// writing opens a regular file, and never waits for a FIFO.
func writing(p string, f func(*os.File, int64) error) error {
	st, err := os.Lstat(p)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fs.ErrInvalid
	}
	file, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return f(file, st.Size())
}

func (c *Changer) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(c.rng.Uint32())
	}
	return b
}

var contentSteps = []step{
	{"write", func(c *Changer, p string) error {
		return writing(p, func(f *os.File, size int64) error {
			_, err := f.WriteAt(c.bytes(1+c.rng.IntN(9000)), c.rng.Int64N(size+1))
			return err
		})
	}},
	{"append", func(c *Changer, p string) error {
		return writing(p, func(f *os.File, size int64) error {
			_, err := f.WriteAt(c.bytes(1+c.rng.IntN(70000)), size)
			return err
		})
	}},
	{"resize", func(c *Changer, p string) error {
		return writing(p, func(f *os.File, size int64) error { return f.Truncate(c.rng.Int64N(2*size + 2)) })
	}},
	{"punch", func(c *Changer, p string) error {
		return writing(p, func(f *os.File, size int64) error {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, c.rng.Int64N(size+1), 1+c.rng.Int64N(1<<20))
		})
	}},
	{"same size and time", func(c *Changer, p string) error { // rsync#310
		return writing(p, func(f *os.File, size int64) error {
			if size == 0 {
				return fs.ErrInvalid
			}
			st, err := f.Stat()
			if err != nil {
				return err
			}
			if _, err := f.WriteAt(c.bytes(1), c.rng.Int64N(size)); err != nil {
				return err
			}
			return os.Chtimes(p, st.ModTime(), st.ModTime())
		})
	}},
	{"through a mapping", func(c *Changer, p string) error {
		return writing(p, func(f *os.File, size int64) error {
			if size == 0 {
				return fs.ErrInvalid
			}
			m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			m[c.rng.Int64N(size)]++
			return unix.Munmap(m)
		})
	}},
	{"replace", func(c *Changer, p string) error { // as editors and databases do
		st, err := os.Lstat(p)
		if err != nil || !st.Mode().IsRegular() {
			return fs.ErrInvalid
		}
		temp := filepath.Dir(p) + "/.replace"
		if err := os.WriteFile(temp, c.bytes(c.rng.IntN(20000)), 0o640); err != nil {
			return err
		}
		if err := os.Rename(temp, p); err != nil {
			return os.Remove(temp)
		}
		return nil
	}},
}

var nameSteps = []step{
	{"create", func(c *Changer, _ string) error { return os.WriteFile(c.name(), c.bytes(c.rng.IntN(100000)), 0o600) }},
	{"create large", func(c *Changer, _ string) error {
		return os.WriteFile(c.name(), bytes.Repeat(c.bytes(1<<16), 65+c.rng.IntN(30)), 0o600)
	}},
	{"mkdir", func(c *Changer, _ string) error { return os.Mkdir(c.name(), 0o755) }},
	{"remove", func(c *Changer, p string) error {
		if st, err := os.Lstat(p); err != nil || p == c.dir || st.IsDir() && c.rng.IntN(4) > 0 {
			return fs.ErrInvalid
		}
		return os.RemoveAll(p)
	}},
	{"rename", func(c *Changer, p string) error { return c.rename(p, c.name(), 0) }},
	{"rename over", func(c *Changer, p string) error {
		to := c.pick()
		if to == p {
			return fs.ErrInvalid
		}
		return c.rename(p, to, 0)
	}},
	{"directory over directory", func(c *Changer, _ string) error {
		from, to := c.pickDir(), c.pickDir()
		if from == c.dir || to == c.dir || strings.HasPrefix(from+"/", to+"/") {
			return fs.ErrInvalid
		}
		names, err := os.ReadDir(to)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := os.RemoveAll(to + "/" + n.Name()); err != nil {
				return err
			}
		}
		return c.rename(from, to, 0)
	}},
	{"exchange", func(c *Changer, p string) error {
		return c.rename(p, c.pick(), unix.RENAME_EXCHANGE)
	}},
	{"hard link", func(c *Changer, p string) error { return os.Link(p, c.name()) }},
	{"symlink", func(c *Changer, p string) error { return os.Symlink(p[len(c.dir):], c.name()) }},
	{"fifo", func(c *Changer, _ string) error { return unix.Mkfifo(c.name(), 0o600) }},
	{"device", func(c *Changer, _ string) error {
		return unix.Mknod(c.name(), unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(c.rng.IntN(300)), uint32(c.rng.IntN(300)))))
	}},
	{"socket", func(c *Changer, _ string) error {
		c.n++
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("%s/%d.sock", c.near, c.n)})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return l.Close()
	}},
	{"socket goes", func(c *Changer, _ string) error {
		return os.Remove(fmt.Sprintf("%s/%d.sock", c.dir, c.rng.IntN(c.n+1)))
	}},
}

var metadataSteps = []step{
	{"chown", func(c *Changer, p string) error { return os.Lchown(p, c.rng.IntN(3), c.rng.IntN(70000)) }},
	{"chmod", func(c *Changer, p string) error {
		if st, err := os.Lstat(p); err != nil || st.Mode()&fs.ModeSymlink != 0 {
			return fs.ErrInvalid
		}
		return unix.Chmod(p, uint32(c.rng.IntN(0o10000)))
	}},
	{"times", func(c *Changer, p string) error { // back, ahead, before 1970
		at := time.Unix(c.rng.Int64N(5e9)-1e9, c.rng.Int64N(1e9))
		ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	}},
	{"attribute", func(c *Changer, p string) error {
		return unix.Lsetxattr(p, fmt.Sprintf("trusted.%d", c.rng.IntN(3)), c.bytes(c.rng.IntN(200)), 0)
	}},
	{"attribute goes", func(c *Changer, p string) error {
		return unix.Lremovexattr(p, fmt.Sprintf("trusted.%d", c.rng.IntN(3)))
	}},
	{"label", func(c *Changer, p string) error {
		return unix.Lsetxattr(p, Label, fmt.Appendf(nil, "system_u:object_r:t%d_t:s0\x00", c.rng.IntN(9)), 0)
	}},
	{"ACL", func(c *Changer, p string) error {
		if st, err := os.Lstat(p); err != nil || st.Mode()&fs.ModeSymlink != 0 {
			return fs.ErrInvalid
		}
		return unix.Setxattr(p, "system.posix_acl_access", ACL(7, uint16(c.rng.IntN(8)), uint16(c.rng.IntN(8))), 0)
	}},
	{"default ACL", func(c *Changer, _ string) error {
		return unix.Setxattr(c.pickDir(), "system.posix_acl_default", ACL(7, uint16(c.rng.IntN(8)), 0), 0)
	}},
	{"ACL goes", func(c *Changer, p string) error { return unix.Lremovexattr(p, "system.posix_acl_access") }},
	{"capability", func(c *Changer, p string) error {
		if st, err := os.Lstat(p); err != nil || !st.Mode().IsRegular() {
			return fs.ErrInvalid
		}
		return unix.Setxattr(p, "security.capability", capability(byte(c.rng.IntN(64))), 0)
	}},
	{"flags", func(c *Changer, p string) error {
		bits := []uint32{0, 0, unix.STATX_ATTR_IMMUTABLE, unix.STATX_ATTR_APPEND, flagBits}[c.rng.IntN(5)]
		if _, ok := flag(p, bits); !ok {
			return fs.ErrInvalid
		}
		return nil
	}},
}
