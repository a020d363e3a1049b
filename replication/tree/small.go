package tree

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// ErrChanged says that a file is not what it was when it was found.
var ErrChanged = errors.New("the file has changed")

// ReadWhole reads a regular file that was found as s and is no longer than buf, metadata and
// content, in as few calls as can be: of trees of small files these are what takes the time.
// ErrChanged when it is something else now, or was before all was read; errors.ErrUnsupported
// when it has holes, or the kernel is too old: then it is to be read the other way.
func (r *Root) ReadWhole(path string, s Stat, buf []byte) (e replication.Entry, data []byte, err error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	fd, err := r.openBeneath(path, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // not ours, and we are not root
		fd, err = r.openBeneath(path, flags, 0)
	}
	if err != nil {
		return e, nil, r.fail("open", path, err)
	}
	e = replication.Entry{Path: path, Type: s.Type(), Mode: s.Mode & 0o7777, UID: s.UID, GID: s.GID, MtimeNs: s.MtimeNs, Size: s.Size}
	data, err = readWhole(fd, s, &e, buf)
	return e, data, errors.Join(r.fail("read", path, err), r.fail("close", path, unix.Close(fd)))
}

func readWhole(fd int, s Stat, e *replication.Entry, buf []byte) (data []byte, err error) {
	var x unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &x); err != nil {
		if errors.Is(err, unix.ENOSYS) {
			return nil, errors.ErrUnsupported
		}
		return nil, err
	}
	if fromStatx(&x) != s {
		return nil, ErrChanged
	}
	e.Flags = flagsIn(&x)
	if e.Xattrs, err = xattrs(openFile(fd)); err != nil {
		return nil, err
	}
	if err := flush(fd); err != nil {
		return nil, err
	}
	if s.Size > 0 {
		if hole, err := unix.Seek(fd, 0, unix.SEEK_HOLE); err != nil || hole < s.Size {
			return nil, errors.ErrUnsupported
		}
		data = buf[:s.Size]
		for at := 0; at < len(data); {
			n, err := unix.Pread(fd, data[at:], int64(at))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if n == 0 {
				return nil, fmt.Errorf("it became shorter while it was read: %w", io.ErrUnexpectedEOF)
			}
			at += n
		}
	}
	var after unix.Stat_t
	if err := unix.Fstat(fd, &after); err != nil {
		return nil, err
	}
	if fromStat(&after) != s {
		return nil, ErrChanged
	}
	return data, nil
}

func fromStatx(x *unix.Statx_t) Stat {
	return Stat{
		Ino: x.Ino, CtimeNs: x.Ctime.Sec*1e9 + int64(x.Ctime.Nsec), MtimeNs: x.Mtime.Sec*1e9 + int64(x.Mtime.Nsec), Size: sizeOf(uint32(x.Mode), int64(x.Size), unix.Mkdev(x.Rdev_major, x.Rdev_minor)),
		Mode: uint32(x.Mode), UID: x.Uid, GID: x.Gid, Nlink: x.Nlink,
	}
}
