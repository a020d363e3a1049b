package tree

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// Meta reads an entry but for its content: what s does not have is symlink
// target and extended attributes.
func (r *Root) Meta(path string, s Stat) (replication.Entry, error) {
	e := replication.Entry{
		Path: path, Type: s.Type(), Mode: s.Mode & 0o7777, UID: s.UID, GID: s.GID, MtimeNs: s.MtimeNs,
	}
	switch e.Type {
	case replication.TypeFile:
		e.Size = s.Size
	case replication.TypeChar, replication.TypeBlock:
		e.Rdev = uint64(s.Size)
	}
	err := r.handle(path, func(fd int, proc string) error {
		if e.Type == replication.TypeSymlink {
			buf := make([]byte, unix.PathMax)
			n, err := unix.Readlinkat(fd, "", buf)
			if err != nil {
				return err
			}
			e.Target = string(buf[:n])
		}
		var err error
		if e.Flags, err = flagsOf(fd, e.Type); err != nil {
			return err
		}
		e.Xattrs, err = xattrs(atPath(proc))
		return err
	})
	return e, err
}

// attributed is an inode with extended attributes.
type attributed interface {
	list(buf []byte) (int, error)
	get(name string, buf []byte) (int, error)
	set(name string, value []byte) error
	remove(name string) error
}

// atPath is the inode that a path leads to, also one that is open with O_PATH: see procPath.
type atPath string

func (p atPath) list(b []byte) (int, error)             { return unix.Listxattr(string(p), b) }
func (p atPath) get(name string, b []byte) (int, error) { return unix.Getxattr(string(p), name, b) }
func (p atPath) set(name string, v []byte) error        { return unix.Setxattr(string(p), name, v, 0) }
func (p atPath) remove(name string) error               { return unix.Removexattr(string(p), name) }

// openFile is the inode of a descriptor that is no O_PATH one.
type openFile int

func (fd openFile) list(b []byte) (int, error)             { return unix.Flistxattr(int(fd), b) }
func (fd openFile) get(name string, b []byte) (int, error) { return unix.Fgetxattr(int(fd), name, b) }
func (fd openFile) set(name string, v []byte) error        { return unix.Fsetxattr(int(fd), name, v, 0) }
func (fd openFile) remove(name string) error               { return unix.Fremovexattr(int(fd), name) }

// xattrs reads all extended attributes but ACLAlias's; nil where there are none.
func xattrs(of attributed) (map[string][]byte, error) {
	list, err := sized(of.list)
	if errors.Is(err, unix.EOPNOTSUPP) || len(list) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if ACLAlias(name) {
			continue
		}
		v, err := sized(func(b []byte) (int, error) { return of.get(name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", name, err)
		}
		m[name] = v
	}
	if len(m) == 0 {
		return nil, nil
	}
	return m, nil
}

// sized calls f with a buffer that is large enough.
func sized(f func([]byte) (int, error)) ([]byte, error) {
	var small [256]byte
	n, err := f(small[:])
	if err == nil {
		return bytes.Clone(small[:n]), nil
	}
	if !errors.Is(err, unix.ERANGE) {
		return nil, err
	}
	b := make([]byte, 64<<10) // XATTR_SIZE_MAX and XATTR_LIST_MAX
	if n, err = f(b); err != nil {
		return nil, err
	}
	return bytes.Clone(b[:n]), nil
}

// SetMeta gives path the owner, mode, attributes and times of e, in the order
// in which none undoes another: a new owner takes setuid and capabilities
// away. Of attributes that the file system or the kernel does not take, it answers which.
// Flags are not set: while they are, nothing else can be (see SetFlags).
func (r *Root) SetMeta(path string, e *replication.Entry) (refused []string, err error) {
	err = r.freely(func() error {
		refused, err = r.setMeta(path, e)
		return err
	}, path)
	return refused, err
}

func (r *Root) setMeta(path string, e *replication.Entry) (refused []string, err error) {
	err = r.handle(path, func(fd int, proc string) error {
		if err := unix.Fchownat(fd, "", int(e.UID), int(e.GID), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("owner: %w", err)
		}
		if e.Type != replication.TypeSymlink {
			if err := unix.Chmod(proc, e.Mode); err != nil {
				return fmt.Errorf("mode: %w", err)
			}
		}
		refused, err = setXattrs(atPath(proc), e)
		return err
	})
	if err != nil {
		return refused, err
	}
	return refused, r.setMtime(path, e.MtimeNs)
}

// SetMtime sets the modification time of path itself, and leaves its access time.
func (r *Root) SetMtime(path string, ns int64) error {
	return r.freely(func() error { return r.setMtime(path, ns) }, path)
}

func (r *Root) setMtime(path string, ns int64) error {
	return r.in("mtime", path, func(dirfd int, name string) error {
		mt := unix.NsecToTimespec(ns)
		at := unix.Timespec{Nsec: unix.UTIME_OMIT}
		return unix.UtimesNanoAt(dirfd, name, []unix.Timespec{at, mt}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func setXattrs(of attributed, e *replication.Entry) (refused []string, err error) {
	have, err := xattrs(of)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, ok := e.Xattrs[name]; ok || KernelLabel(name) && name != selinux {
			continue
		}
		// A kernel with SELinux has a label for everything and keeps it; without, it is an
		// attribute as any other.
		if err := of.remove(name); err != nil && !errors.Is(err, unix.ENODATA) && name != selinux {
			return refused, fmt.Errorf("remove attribute %q: %w", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		if ACLAlias(name) { // of a generation that was captured when these were taken for attributes
			continue
		}
		v := e.Xattrs[name]
		if old, ok := have[name]; ok && bytes.Equal(old, v) {
			continue
		}
		err := of.set(name, v)
		switch {
		case err == nil:
		case errors.Is(err, unix.EOPNOTSUPP), KernelLabel(name):
			refused = append(refused, fmt.Sprintf("attribute %q (%v)", name, err))
		default:
			return refused, fmt.Errorf("attribute %q: %w", name, err)
		}
	}
	return refused, nil
}

const selinux = "security.selinux"

// KernelLabel names attributes that the kernel of a node gives out by itself. They may
// not be taken away, and a node without that security module may refuse them.
func KernelLabel(name string) bool {
	switch name {
	case selinux, "security.SMACK64", "security.ima", "security.evm":
		return true
	}
	return false
}

// ACLAlias names what XFS lists beside an access control list, which it is once more, in a form of
// its own (fs/xfs/xfs_xattr.c): to take it away takes the list away.
func ACLAlias(name string) bool {
	return name == "trusted.SGI_ACL_FILE" || name == "trusted.SGI_ACL_DEFAULT"
}
