package tree

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// flagsOf are the flags of the inode that fd is open on, be it with O_PATH; none
// where the file system or the kernel does not know them.
func flagsOf(fd int, t replication.Type) (f replication.Flags, err error) {
	if t != replication.TypeFile && t != replication.TypeDir {
		return 0, nil
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &st); err != nil {
		if errors.Is(err, unix.ENOSYS) {
			return 0, nil
		}
		return 0, os.NewSyscallError("statx", err)
	}
	return flagsIn(&st), nil
}

func flagsIn(st *unix.Statx_t) (f replication.Flags) {
	if st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0 {
		f |= replication.FlagImmutable
	}
	if st.Attributes&unix.STATX_ATTR_APPEND != 0 {
		f |= replication.FlagAppendOnly
	}
	return f
}

// HasFlags says whether files on the root's file system can have flags.
func (r *Root) HasFlags() bool {
	var st unix.Statx_t
	err := unix.Statx(r.fd, "", unix.AT_EMPTY_PATH, 0, &st)
	return err == nil && st.Attributes_mask&unix.STATX_ATTR_IMMUTABLE != 0
}

// ErrNoFlags says that flags cannot be set: the file system has none, or this
// process may not.
var ErrNoFlags = errors.New("chattr's flags cannot be set here")

// SetFlags gives a file or directory these flags, and no other of those that
// replication.Flags has. ErrNoFlags.
func (r *Root) SetFlags(rel string, want replication.Flags) error {
	f, err := r.openToFlag(rel)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	was, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return r.flagError(rel, err)
	}
	is := was &^ (unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND) // the same numbers as FS_IMMUTABLE_FL, FS_APPEND_FL
	if want&replication.FlagImmutable != 0 {
		is |= unix.STATX_ATTR_IMMUTABLE
	}
	if want&replication.FlagAppendOnly != 0 {
		is |= unix.STATX_ATTR_APPEND
	}
	if is == was {
		return nil
	}
	return r.flagError(rel, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(is)))
}

func (r *Root) flagError(rel string, err error) error {
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		err = errors.Join(ErrNoFlags, err)
	}
	return r.fail("flags", rel, err)
}

// openToFlag opens a file or a directory, and nothing else.
func (r *Root) openToFlag(rel string) (*os.File, error) {
	fd, err := r.openBeneath(rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return r.Open(rel)
	}
	if err != nil {
		return nil, r.fail("open", rel, err)
	}
	return os.NewFile(uintptr(fd), r.path+"/"+rel), nil
}

// freely does f once more where it failed because of the flags of any of paths,
// without them. Whoever changes a tree sets them again at the end.
func (r *Root) freely(f func() error, paths ...string) error {
	err := f()
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	freed := false
	for _, rel := range paths {
		had, err := r.unprotect(rel)
		if err != nil && !Vanished(err) {
			return err
		}
		freed = freed || had
	}
	if !freed {
		return err
	}
	return f()
}

// unprotect takes the flags away; false where there are none.
func (r *Root) unprotect(rel string) (had bool, err error) {
	var flags replication.Flags
	err = r.handle(rel, func(fd int, _ string) error {
		// Of what cannot have any, statx does not say that it has.
		flags, err = flagsOf(fd, replication.TypeFile)
		return err
	})
	if err != nil || flags == 0 {
		return false, err
	}
	return true, r.SetFlags(rel, 0)
}
