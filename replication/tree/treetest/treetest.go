// Package treetest makes real file systems and awkward trees for tests, and
// lets rsync judge whether two trees are the same.
package treetest

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// Chunks lists the content that a generation names, each hash once, in order of appearance.
func Chunks(m *replication.Manifest) (hs []replication.Hash) {
	seen := map[replication.Hash]bool{}
	for i := range m.Volumes {
		for e := range m.Volumes[i].Entries.All() {
			for _, c := range e.Chunks {
				if !seen[c.Hash] {
					seen[c.Hash] = true
					hs = append(hs, c.Hash)
				}
			}
		}
	}
	return hs
}

// need fails the test with the Debian package that is missing.
func need(t testing.TB, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("this test needs %s: apt-get install %s (make deps installs all)", program, pkg)
	}
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// Same fails the test when rsync, comparing everything it can, would change
// anything in b to make it like a, or when a path has other flags: of these rsync
// knows nothing. Sockets are not compared, nor what XFS lists beside an access control
// list: -A compares those, whatever the file systems are.
func Same(t testing.TB, a, b string) {
	t.Helper()
	need(t, "rsync", "rsync")
	out, err := exec.Command("rsync", "-aHAXS", "--checksum", "--modify-window=-1", "--dry-run",
		"--itemize-changes", "--delete", "--exclude=*.sock", "--filter=-x system.*", "--filter=-x trusted.SGI_ACL_*", a+"/", b+"/").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("the trees differ (%v):\n%s", err, out)
	}
	sameFlags(t, a, b)
}

// Label is the attribute of SELinux. A kernel without SELinux keeps it as any other.
const Label = "security.selinux"

// Must fails the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Write writes a file.
func Write(t testing.TB, path string, data []byte) {
	t.Helper()
	Must(t, os.WriteFile(path, data, 0o640))
}

// Corpus fills dir with one of everything that a volume can hold.
func Corpus(t testing.TB, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"empty", "sub", "sub/deeper", "!first", "acl"} {
		Must(t, os.Mkdir(in(d), 0o750))
	}
	Write(t, in("plain"), []byte("plain\n"))
	Write(t, in("nothing"), nil)
	Write(t, in("zeros"), make([]byte, 1<<17))
	Write(t, in("large"), bytes.Repeat([]byte("0123456789abcdef"), 3<<16)) // three chunks
	names(t, dir)
	links(t, dir)
	sparse(t, dir)
	special(t, dir)
	attributes(t, dir)
	old := time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)
	for _, p := range []string{"plain", "sub/deeper", "empty"} {
		Must(t, os.Chtimes(in(p), old, old))
	}
	Must(t, os.Chtimes(in("zeros"), old, time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC)))
	Must(t, os.Chmod(dir, 0o2771))
	Must(t, os.Chown(dir, 33, 44))
}

func names(t testing.TB, dir string) {
	t.Helper()
	for _, n := range []string{
		"space and\nnewline", "\xff\xfe\x80not utf8", "ünïcödé", "-dash", "*?[a]", "\\back\"quote'", ".hidden", "...", "a\x01b",
		strings.Repeat("n", 255), strings.Repeat("é", 127), "sub-after", "sub/x",
	} {
		Write(t, filepath.Join(dir, n), []byte(n))
	}
	deep := dir
	for len(deep) < 3600 {
		deep = filepath.Join(deep, strings.Repeat("d", 200))
		Must(t, os.Mkdir(deep, 0o700))
	}
	Write(t, filepath.Join(deep, "bottom"), []byte("bottom"))
}

func links(t testing.TB, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	Must(t, os.Link(in("plain"), in("sub/hard")))
	Must(t, os.Link(in("plain"), in("!first/hard")))
	for name, target := range map[string]string{
		"sym": "plain", "sub/up": "../plain", "escape": "../../../../etc/passwd", "absolute": "/etc/passwd",
		"dangling": "no\xffwhere", "loop": "loop", "symdir": "sub", "long": strings.Repeat("t", 1000),
	} {
		Must(t, os.Symlink(target, in(name)))
	}
	Must(t, os.Link(in("sym"), in("sym-hard")))
	Must(t, os.Lchown(in("sym"), 5, 6))
}

func sparse(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	Must(t, err)
	for _, at := range []int64{1 << 16, 5<<20 + 12345, 9 << 20} {
		_, err := f.WriteAt([]byte("island"), at)
		Must(t, err)
	}
	Must(t, f.Truncate(16<<20+1))
	Must(t, f.Close())
	Write(t, filepath.Join(dir, "hole"), nil)
	Must(t, os.Truncate(filepath.Join(dir, "hole"), 32<<20))
}

func special(t testing.TB, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	Must(t, unix.Mkfifo(in("fifo"), 0o640))
	Must(t, unix.Mknod(in("char"), unix.S_IFCHR|0o620, int(unix.Mkdev(1, 3))))
	Must(t, unix.Mknod(in("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 1<<18-1))))
	Must(t, os.Link(in("fifo"), in("fifo-hard")))
	// The path of a socket is short: bind in the directory.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short(t, dir) + "/a.sock"})
	Must(t, err)
	l.SetUnlinkOnClose(false)
	Must(t, l.Close())
	Must(t, os.Chown(in("fifo"), 1234567, 7654321))
	Write(t, in("suid"), []byte("x"))
	Must(t, os.Chown(in("suid"), 99, 98))
	Must(t, unix.Chmod(in("suid"), 0o6755))
	Must(t, unix.Chmod(in("empty"), 0o1777))
	Write(t, in("unreadable"), []byte("secret"))
	Must(t, os.Chmod(in("unreadable"), 0))
}

// short is a path to dir that fits into a socket address.
func short(t testing.TB, dir string) string {
	t.Helper()
	tmp, err := os.MkdirTemp("", "s") // t.TempDir is too long
	Must(t, err)
	t.Cleanup(func() { Must(t, os.RemoveAll(tmp)) })
	Must(t, os.Symlink(dir, filepath.Join(tmp, "d")))
	return filepath.Join(tmp, "d")
}

func attributes(t testing.TB, dir string) {
	t.Helper()
	set := func(name, attr string, v []byte) {
		t.Helper()
		Must(t, unix.Lsetxattr(filepath.Join(dir, name), attr, v, 0))
	}
	set("plain", "user.note", []byte("a note\x00with NUL"))
	set("plain", "user.empty", nil)
	set("plain", "user.\xff\xfe", []byte("odd name"))
	set("sub", "user.big", bytes.Repeat([]byte("v"), 2000))
	set("sub", "trusted.secret", []byte("t"))
	set("sym", "trusted.onlink", []byte("l"))
	set("fifo", "trusted.onfifo", []byte("f"))
	for _, name := range []string{"plain", "sub", "sym", "dangling", "fifo", "char", "."} {
		set(name, Label, []byte("system_u:object_r:container_file_t:s0:c1,c2\x00"))
	}
	Write(t, filepath.Join(dir, "ping"), []byte("#!"))
	set("ping", "security.capability", capability(0x20)) // cap_net_raw=ep
	set("acl", "system.posix_acl_default", ACL(7, 5, 0))
	set("acl", "system.posix_acl_access", ACL(7, 5, 4))
	Write(t, filepath.Join(dir, "acl", "inherits"), []byte("x"))
	Write(t, filepath.Join(dir, "acl", "plain"), []byte("x"))
	Must(t, unix.Removexattr(filepath.Join(dir, "acl", "plain"), "system.posix_acl_access"))
}

// capability is a file's, effective, of which bits are the second byte.
func capability(bits byte) []byte {
	return []byte{1, 0, 0, 2, 0, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
}

// ACL is a POSIX ACL in its attribute form (linux/posix_acl_xattr.h), with the
// permissions of owner, group and mask, and others, and a named user.
func ACL(owner, group, other uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, owner, 1<<32 - 1}, {2, 6, 4711}, {4, group, 1<<32 - 1}, {0x10, group, 1<<32 - 1}, {0x20, other, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}
