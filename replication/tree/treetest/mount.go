package treetest

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// FileSystems are the ones volumes live on: with reflinks and without.
var FileSystems = []string{"xfs", "ext4"}

// images are directories of Mount: a lock that its process holds, an image, and where
// that is mounted.
const images = "understudy-fs-"

var sweepOnce sync.Once

// Subvolume is btrfs by a subvolume of it, as distributions mount it.
const Subvolume = "btrfs subvolume"

// Mount makes a file system of the kind in a loop-mounted image and gives its
// root. It is gone after the test, or with the next one if this process is killed.
// Needs root.
func Mount(t testing.TB, kind string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting an " + kind + " image needs root; run the tests as root")
	}
	mounted := kind
	kind, _, _ = strings.Cut(kind, " ")
	if known, err := os.ReadFile("/proc/filesystems"); err == nil && kind == "btrfs" && !bytes.Contains(known, []byte("\tbtrfs\n")) {
		t.Skip("this kernel has no btrfs")
	}
	sweepOnce.Do(func() { sweep(t) })
	dir, err := os.MkdirTemp("", images)
	Must(t, err)
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	Must(t, err)
	Must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	img, mnt := filepath.Join(dir, "img"), filepath.Join(dir, "mnt")
	Must(t, os.Mkdir(mnt, 0o755))
	Must(t, os.WriteFile(img, nil, 0o600))
	Must(t, os.Truncate(img, 1<<30))
	need(t, "mkfs."+kind, map[string]string{"xfs": "xfsprogs", "ext4": "e2fsprogs", "btrfs": "btrfs-progs"}[kind])
	run(t, "mkfs."+kind, "-q", img)
	run(t, "mount", "-o", "loop", img, mnt)
	if mounted == Subvolume {
		run(t, "btrfs", "-q", "subvolume", "create", filepath.Join(mnt, "@var"))
		run(t, "umount", mnt)
		run(t, "mount", "-o", "loop,subvol=@var", img, mnt)
	}
	t.Cleanup(func() {
		run(t, "umount", "-l", mnt)
		Must(t, os.RemoveAll(dir))
		Must(t, lock.Close())
	})
	return mnt
}

// sweep takes away what tests left that were killed: directories whose lock nobody holds.
func sweep(t testing.TB) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(os.TempDir(), images+"*"))
	Must(t, err)
	for _, dir := range left {
		st, err := os.Stat(dir)
		if err != nil || time.Since(st.ModTime()) < time.Minute {
			continue // it is another's, perhaps not locked yet
		}
		lock, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			continue
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			mnt := filepath.Join(dir, "mnt")
			for mounted(t, mnt) {
				run(t, "umount", "-l", mnt)
			}
			Must(t, os.RemoveAll(dir))
		}
		lock.Close()
	}
}

func mounted(t testing.TB, path string) bool {
	t.Helper()
	f, err := os.Open("/proc/self/mounts")
	Must(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[1] == path {
			return true
		}
	}
	Must(t, lines.Err())
	return false
}
