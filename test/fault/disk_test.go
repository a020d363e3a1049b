package fault

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a node's file system, whose power can be cut.
type disk struct{ kind, image, dir string }

// newDisk makes a file system of the kind (xfs, with reflinks, btrfs or ext4) and mounts it.
func newDisk(t testing.TB, kind string) *disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("file systems whose power can be cut need root; run the tests as root")
	}
	if known, err := os.ReadFile("/proc/filesystems"); err == nil && kind == "btrfs" && !bytes.Contains(known, []byte("\tbtrfs\n")) {
		t.Skip("this kernel has no btrfs")
	}
	dir := t.TempDir()
	d := &disk{kind: kind, image: filepath.Join(dir, "image"), dir: filepath.Join(dir, "disk")}
	must(t, os.Mkdir(d.dir, 0o755))
	f, err := os.Create(d.image)
	must(t, err)
	must(t, errors.Join(f.Truncate(400<<20), f.Close()))
	command(t, "mkfs."+kind, "-q", d.image)
	d.mount(t)
	t.Cleanup(func() { d.unmount(t) })
	return d
}

func (d *disk) mount(t testing.TB) {
	t.Helper()
	command(t, "mount", "-o", "loop", d.image, d.dir)
}

// unmount waits for what a child that was just killed has open.
func (d *disk) unmount(t testing.TB) {
	t.Helper()
	until(t, "the file system can be unmounted", func() bool {
		err := unix.Unmount(d.dir, 0)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			t.Fatalf("unmount %s: %v", d.dir, err)
		}
		return err == nil
	})
}

// fill leaves so many bytes free, or as near as the file system lets itself be filled.
func (d *disk) fill(t testing.TB, leave int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "filler"))
	must(t, err)
	defer f.Close()
	flush(t, d.dir) // what is written has its place
	at := int64(0)
	for step := d.free(t) - leave; step >= 4<<10; step = min(step, d.free(t)-leave) {
		switch err := unix.Fallocate(int(f.Fd()), 0, at, step); {
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		default:
			must(t, err)
			at += step
		}
	}
}

// empty undoes fill.
func (d *disk) empty(t testing.TB) {
	t.Helper()
	must(t, os.Remove(filepath.Join(d.dir, "filler")))
	flush(t, d.dir) // which makes what it had free
}

func (d *disk) free(t testing.TB) int64 {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(d.dir, &st))
	return int64(st.Bavail) * st.Bsize
}

// replug is the node's boot after its power was cut: the journal is replayed.
func (d *disk) replug(t testing.TB) {
	t.Helper()
	d.unmount(t)
	d.mount(t)
}

// Of XFS, and by the same number of ext4: nothing reaches the disk from now on, not even
// the journal that is in memory (linux/fs/xfs/libxfs/xfs_fs.h: XFS_IOC_GOINGDOWN,
// XFS_FSOP_GOING_FLAGS_NOLOGFLUSH).
const (
	iocShutdown = 0x8004587d
	noLogFlush  = 2
)

func cutPower(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("shut the file system down", unix.IoctlSetPointerInt(int(f.Fd()), iocShutdown, noLogFlush))
}

func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s (make deps installs what is missing)", name, args, err, out)
	}
}

// until waits for something that comes, on the slowest of machines too.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute, and still not: %s", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
