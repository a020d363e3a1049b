package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fiemap is struct fiemap of linux/fiemap.h with room for one extent.
type fiemap struct {
	start, length uint64
	flags         uint32
	mapped, count uint32
	_             uint32
	extent        struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
}

const (
	ioctlFiemap = 0xC020660B // FS_IOC_FIEMAP
	fiemapSync  = 1          // FIEMAP_FLAG_SYNC
	// Extents that do not lie on the disk as they are read: unknown, delayed, encoded,
	// encrypted, inline, tail, unwritten.
	fiemapElsewhere = 0x2 | 0x4 | 0x8 | 0x80 | 0x200 | 0x400 | 0x800
)

// Rot flips a bit of a file on the node's disk, beneath its file system, as a disk does
// that forgets: neither a time of the file nor what is in memory of it changes. at is in bytes.
func (n *Node) Rot(ctx context.Context, nodePath string, at int64) error {
	if err := n.Sync(ctx); err != nil {
		return err
	}
	f, err := os.Open(n.HostPath(nodePath))
	if err != nil {
		return err
	}
	defer f.Close()
	m := fiemap{start: uint64(at), length: 1, flags: fiemapSync, count: 1}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlFiemap, uintptr(unsafe.Pointer(&m))); errno != 0 {
		return fmt.Errorf("where %s lies on %s's disk: %w", nodePath, n.name, errno)
	}
	e := m.extent
	if m.mapped != 1 || e.logical > uint64(at) || e.flags&fiemapElsewhere != 0 {
		return fmt.Errorf("byte %d of %s does not lie on %s's disk: %+v", at, nodePath, n.name, e)
	}
	img, err := os.OpenFile(n.diskImage(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer img.Close()
	b, want := make([]byte, 1), make([]byte, 1)
	pos := int64(e.physical + uint64(at) - e.logical)
	_, err = img.ReadAt(b, pos)
	_, ferr := f.ReadAt(want, at)
	if err := errors.Join(err, ferr); err != nil {
		return err
	}
	if b[0] != want[0] {
		return fmt.Errorf("byte %d of %s is not where the file system of %s says", at, nodePath, n.name)
	}
	b[0] ^= 1
	_, err = img.WriteAt(b, pos)
	return errors.Join(err, img.Sync())
}
