package tree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// SetFileMeta is Root.SetMeta of a file that is open for writing and has no flags. What it
// is already is not set: each change of an inode is a transaction of the file system.
func SetFileMeta(f *os.File, e *replication.Entry) (refused []string, err error) {
	refused, err = setFileMeta(int(f.Fd()), e)
	if err != nil {
		err = &os.PathError{Op: "metadata", Path: f.Name(), Err: err}
	}
	return refused, err
}

func setFileMeta(fd int, e *replication.Entry) (refused []string, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	owned := st.Uid == e.UID && st.Gid == e.GID // the group may be the directory's
	if !owned {
		if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
			return nil, fmt.Errorf("owner: %w", err)
		}
	}
	if st.Mode&0o7777 != e.Mode || !owned && e.Mode&0o7000 != 0 {
		if err := unix.Fchmod(fd, e.Mode); err != nil {
			return nil, fmt.Errorf("mode: %w", err)
		}
	}
	// The directory may have handed on a default ACL, the kernel given out a label.
	if refused, err = setXattrs(openFile(fd), e); err != nil {
		return refused, err
	}
	return refused, setFileMtime(fd, e.MtimeNs)
}

// setFileMtime leaves the access time.
func setFileMtime(fd int, ns int64) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(ns)}
	err := unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) { // a kernel before 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), ts, 0)
	}
	return os.NewSyscallError("utimensat", err)
}
