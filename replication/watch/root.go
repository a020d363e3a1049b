package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// volume is one watched tree.
type volume struct {
	name, root string
	is         identity // what was at root when it was marked
	lost       bool     // it was not there again, and the log says so
	path       string   // of the root, and the mount that it is by: places are relative to it
	mount      int
	hints      VolumeHints
}

// identity tells a directory from what replaces it, even with the same inode
// number: the handle has the inode's generation.
type identity struct {
	dev    uint64
	fs     fsid
	mount  int // that it was reached by: not part of what it is
	handle string
}

func (a identity) same(b identity) bool { return a.dev == b.dev && a.handle == b.handle }

// openRoot opens what is at root now, to find handles by, which O_PATH does not
// allow. Nothing stays open between two drains:
// that would keep the file system from being unmounted.
func openRoot(root string) (fd int, is identity, err error) {
	for {
		fd, err = unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return -1, identity{}, &os.PathError{Op: "open", Path: root, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, identity{}, errors.Join(&os.PathError{Op: "stat", Path: root, Err: err}, unix.Close(fd))
	}
	h, mount, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, identity{}, errors.Join(&os.PathError{Op: "name_to_handle_at", Path: root, Err: err}, unix.Close(fd))
	}
	handle := binary.NativeEndian.AppendUint32(nil, uint32(h.Type()))
	return fd, identity{dev: uint64(st.Dev), mount: mount, handle: string(append(handle, h.Bytes()...))}, nil
}

// marked says whether changes on the file system of the open root are told to
// the group. It takes away a bit that no mark has, which fails where there is
// no mark: so a file system that was unmounted and another that took its place
// and its numbers are told apart.
func (w *Watcher) marked(root int) bool {
	_, err := w.mark(unix.FAN_MARK_REMOVE, unix.FAN_ACCESS, root)
	return err == nil
}

// mark changes the mark of the file system that the open root is on, and gives the ID under which it
// tells of changes.
func (w *Watcher) mark(change uint, mask uint64, root int) (id fsid, err error) {
	err = unix.FanotifyMark(w.group, change|unix.FAN_MARK_FILESYSTEM, mask, root, ".")
	if errors.Is(err, unix.EXDEV) { // a subvolume of btrfs, which has an ID of its own: the mark is the whole file system's
		top, terr := topOf(root)
		if terr != nil {
			return id, errors.Join(err, terr)
		}
		defer unix.Close(top)
		root = top
		err = unix.FanotifyMark(w.group, change|unix.FAN_MARK_FILESYSTEM, mask, root, ".")
	}
	if err != nil {
		return id, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(root, &st); err != nil {
		return id, os.NewSyscallError("fstatfs", err)
	}
	binary.NativeEndian.PutUint32(id[:], uint32(st.Fsid.Val[0]))
	binary.NativeEndian.PutUint32(id[4:], uint32(st.Fsid.Val[1]))
	return id, nil
}

// topOf opens the top of the btrfs that the open directory is on, wherever that is mounted. What it is
// mounted by is seen by nobody, and gone when it is closed.
func topOf(dir int) (fd int, err error) {
	_, mount, err := unix.NameToHandleAt(dir, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, os.NewSyscallError("name_to_handle_at", err)
	}
	ms, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.ID != mount, m.ID == mount })
	if err != nil || len(ms) != 1 {
		return -1, errors.Join(errors.New("its mount is not found"), err)
	}
	fs, err := unix.Fsopen("btrfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	err = errors.Join(unix.FsconfigSetString(fs, "source", ms[0].Source), unix.FsconfigSetString(fs, "subvolid", "5"),
		unix.FsconfigSetFlag(fs, "ro"), // or one that is mounted read-only becomes writable
		unix.FsconfigCreate(fs))
	if err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mnt)
	if fd, err = unix.Openat(mnt, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("openat", err)
	}
	here, err := btrfsID(dir)
	there, terr := btrfsID(fd)
	if err = errors.Join(err, terr); err == nil && here != there {
		err = errors.New(ms[0].Source + " is another file system by now")
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// btrfsID is the UUID of the btrfs that the open directory is on: linux/btrfs.h, BTRFS_IOC_FS_INFO.
func btrfsID(dir int) (id [16]byte, err error) {
	const fsInfo = 0x8400941f
	var info [1024]byte // the UUID after two numbers
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(dir), fsInfo, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return id, os.NewSyscallError("BTRFS_IOC_FS_INFO", errno)
	}
	copy(id[:], info[16:])
	return id, nil
}

// attach marks the file system that v's root is on, and notes what the root is.
func (w *Watcher) attach(v *volume) error {
	fd, is, err := openRoot(v.root)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := w.resolves(fd, is); err != nil {
		return fmt.Errorf("%s: directories cannot be found by their handles (%w): every capture looks at every file", v.root, err)
	}
	if is.fs, err = w.mark(unix.FAN_MARK_ADD, mask, fd); err != nil {
		return fmt.Errorf("%s: its file system does not tell of changes (%w): every capture looks at every file", v.root, err)
	}
	v.is = is
	return nil
}

// resolves makes sure that a handle leads back to its directory: that takes a
// right of its own, and not every file system can.
func (w *Watcher) resolves(root int, is identity) error {
	typ := int32(binary.NativeEndian.Uint32([]byte(is.handle)))
	fd, err := unix.OpenByHandleAt(root, unix.NewFileHandle(typ, []byte(is.handle[4:])), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_by_handle_at", err)
	}
	defer unix.Close(fd)
	back, err := w.readlink(fd)
	if err != nil {
		return err
	}
	if path, err := w.readlink(root); err != nil || path != back {
		return errors.Join(errors.New("the handle leads elsewhere"), err)
	}
	return nil
}

// removeLocked forgets v, and its file system when it was the last one there.
func (w *Watcher) removeLocked(v *volume) {
	delete(w.volumes, v.name)
	clear(w.places)
	if w.closed {
		return
	}
	for _, o := range w.volumes {
		if o.is.fs == v.is.fs {
			return
		}
	}
	fd, is, err := openRoot(v.root)
	if err != nil {
		return // the mark goes with its file system, or with the group
	}
	defer unix.Close(fd)
	if is.dev == v.is.dev {
		_, _ = w.mark(unix.FAN_MARK_REMOVE, mask, fd) // else it tells what nobody asks for
	}
}
