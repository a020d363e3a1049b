package tree

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is an open tree. Paths given to its methods are as in
// replication.Entry: relative and clean, "." for the root.
type Root struct {
	fd   int
	path string // for messages
	dev  uint64
}

// OpenRoot opens the tree at path, which may be reached through symlinks;
// nothing below it may.
func OpenRoot(path string) (*Root, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(&os.PathError{Op: "stat", Path: path, Err: err}, unix.Close(fd))
	}
	return &Root{fd: fd, path: path, dev: uint64(st.Dev)}, nil
}

// Close closes the root.
func (r *Root) Close() error { return unix.Close(r.fd) }

// Sync makes everything on the root's file system durable.
func (r *Root) Sync() error {
	if err := unix.Syncfs(r.fd); err != nil {
		return &os.PathError{Op: "syncfs", Path: r.path, Err: err}
	}
	return nil
}

// fail names the path in an error.
func (r *Root) fail(op, rel string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: r.path + "/" + rel, Err: err}
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// openat2Max is what fits into a path of one system call, with room to spare.
const openat2Max = 4000

// openBeneath opens rel without following any symlink and without leaving the
// root. Paths too long for one call, and kernels without openat2, are walked.
func (r *Root) openBeneath(rel string, flags int, mode uint32) (int, error) {
	if len(rel) < openat2Max {
		how := unix.OpenHow{
			Flags: uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC), Mode: uint64(mode),
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		}
		for range 32 {
			fd, err := unix.Openat2(r.fd, rel, &how)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) { // a rename somewhere: ask again
				continue
			}
			if !errors.Is(err, unix.ENOSYS) {
				return fd, err
			}
			break
		}
	}
	return r.walk(rel, flags, mode)
}

func (r *Root) walk(rel string, flags int, mode uint32) (int, error) {
	dir := r.fd
	for {
		name, rest, more := strings.Cut(rel, "/")
		if name == ".." || name == "" {
			return -1, unix.EXDEV
		}
		f := unix.O_PATH | unix.O_DIRECTORY
		if !more {
			f = flags
		}
		fd, err := retry(func() (int, error) {
			return unix.Openat(dir, name, f|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		})
		if dir != r.fd {
			err = errors.Join(err, unix.Close(dir))
		}
		if err != nil || !more {
			return fd, err
		}
		dir, rel = fd, rest
	}
}

// split gives the directory that holds rel, open, and the name in it; for the
// root, the root and ".".
func (r *Root) split(rel string) (dirfd int, name string, err error) {
	dir, name := ".", rel
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		dir, name = rel[:i], rel[i+1:]
	}
	dirfd, err = r.openBeneath(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, "", r.fail("open", dir, err)
	}
	return dirfd, name, nil
}

// in calls f with the directory that holds rel.
func (r *Root) in(op, rel string, f func(dirfd int, name string) error) error {
	dirfd, name, err := r.split(rel)
	if err != nil {
		return err
	}
	err = r.fail(op, rel, f(dirfd, name))
	return errors.Join(err, unix.Close(dirfd))
}

// Open opens a regular file for reading. ErrNotRegular when it is something else.
func (r *Root) Open(rel string) (*os.File, error) { return r.OpenAs(rel, unix.O_RDONLY) }

// OpenAs is Open with the access mode flags, such as O_RDWR.
func (r *Root) OpenAs(rel string, flags int) (*os.File, error) {
	fd, err := r.openBeneath(rel, flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, r.fail("open", rel, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = ErrNotRegular
	}
	if err != nil {
		return nil, errors.Join(r.fail("open", rel, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), r.path+"/"+rel), nil
}

// ErrNotRegular says that a file was expected where something else is.
var ErrNotRegular = errors.New("not a regular file")

// Create makes a new file, 0600; it must not exist.
func (r *Root) Create(rel string) (*os.File, error) {
	fd := -1
	err := r.freely(func() (err error) {
		fd, err = r.openBeneath(rel, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		return err
	}, Dir(rel))
	if err != nil {
		return nil, r.fail("create", rel, err)
	}
	return os.NewFile(uintptr(fd), r.path+"/"+rel), nil
}

// handle opens any inode for its metadata, and gives a path to that very inode.
func (r *Root) handle(rel string, f func(fd int, proc string) error) error {
	fd, err := r.openBeneath(rel, unix.O_PATH, 0)
	if err != nil {
		return r.fail("open", rel, err)
	}
	err = f(fd, procPath(fd))
	return errors.Join(r.fail("metadata", rel, err), unix.Close(fd))
}

// procPath leads to the very inode that fd is open on.
func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// Lstat is the Stat of rel itself.
func (r *Root) Lstat(rel string) (s Stat, err error) {
	err = r.in("stat", rel, func(dirfd int, name string) error {
		s, err = r.lstat(dirfd, name)
		return err
	})
	return s, err
}

// ErrMountPoint says that what lies at a path is not the tree's.
var ErrMountPoint = errors.New("is a mount point inside the volume; its content cannot be carried, unmount it")

func (r *Root) lstat(dirfd int, name string) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Stat{}, err
	}
	if uint64(st.Dev) != r.dev { // types differ by architecture
		return Stat{}, ErrMountPoint
	}
	return fromStat(&st), nil
}

// FileStat is the Stat of an open file.
func FileStat(f *os.File) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Stat{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return fromStat(&st), nil
}

func fromStat(st *unix.Stat_t) Stat {
	return Stat{
		Ino: st.Ino, CtimeNs: st.Ctim.Nano(), MtimeNs: st.Mtim.Nano(), Size: sizeOf(st.Mode, st.Size, uint64(st.Rdev)),
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink), // types differ by architecture
	}
}
