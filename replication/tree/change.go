package tree

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// Mkdir makes a directory, 0700.
func (r *Root) Mkdir(rel string) error {
	return r.freely(func() error {
		return r.in("mkdir", rel, func(dirfd int, name string) error { return unix.Mkdirat(dirfd, name, 0o700) })
	}, Dir(rel))
}

// Make makes a symlink, FIFO or device.
func (r *Root) Make(rel string, e *replication.Entry) error {
	return r.freely(func() error { return r.make(rel, e) }, Dir(rel))
}

func (r *Root) make(rel string, e *replication.Entry) error {
	return r.in("make", rel, func(dirfd int, name string) error {
		switch e.Type {
		case replication.TypeSymlink:
			return unix.Symlinkat(e.Target, dirfd, name)
		case replication.TypeFIFO:
			return unix.Mknodat(dirfd, name, unix.S_IFIFO|0o600, 0)
		case replication.TypeChar:
			return unix.Mknodat(dirfd, name, unix.S_IFCHR|0o600, int(e.Rdev))
		case replication.TypeBlock:
			return unix.Mknodat(dirfd, name, unix.S_IFBLK|0o600, int(e.Rdev))
		}
		return errors.ErrUnsupported
	})
}

// Link makes rel a hard link to target.
func (r *Root) Link(target, rel string) error {
	return r.freely(func() error { return r.link(target, rel) }, target, Dir(rel))
}

func (r *Root) link(target, rel string) error {
	tdir, tname, err := r.split(target)
	if err != nil {
		return err
	}
	err = r.in("link", rel, func(dirfd int, name string) error { return unix.Linkat(tdir, tname, dirfd, name, 0) })
	return errors.Join(err, unix.Close(tdir))
}

// Rename moves from to to, both in the same directory, over what is there. Two
// links of one file end as one.
func (r *Root) Rename(from, to string) error {
	return r.freely(func() error { return r.rename(from, to) }, to, Dir(to))
}

func (r *Root) rename(from, to string) error {
	_, fname, _ := cutLast(from)
	return r.in("rename", to, func(dirfd int, name string) error {
		if err := unix.Renameat(dirfd, fname, dirfd, name); err != nil {
			return err
		}
		// rename(2) does nothing when both are links of one file.
		if err := unix.Unlinkat(dirfd, fname, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	})
}

func cutLast(rel string) (dir, name string, ok bool) {
	for i := len(rel) - 1; i >= 0; i-- {
		if rel[i] == '/' {
			return rel[:i], rel[i+1:], true
		}
	}
	return ".", rel, false
}

// Dir is the directory that holds rel.
func Dir(rel string) string { dir, _, _ := cutLast(rel); return dir }

// RemoveAll removes rel and all below it, following nothing; what is not there
// is a success.
func (r *Root) RemoveAll(rel string) error {
	// Depth first, without recursion: a directory is tried again when it is empty.
	todo := []string{rel}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		err := r.freely(func() error { return r.unlink(at) }, at, Dir(at))
		switch {
		case err == nil, vanished(err):
			todo = todo[:len(todo)-1]
			continue
		case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST):
			return err
		}
		names, err := r.names(at)
		if err != nil {
			return err
		}
		for _, n := range names {
			todo = append(todo, at+"/"+n)
		}
	}
	return nil
}

func (r *Root) unlink(rel string) error {
	return r.in("remove", rel, func(dirfd int, name string) error {
		err := unix.Unlinkat(dirfd, name, 0)
		if errors.Is(err, unix.EISDIR) {
			return unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR)
		}
		return err
	})
}

func (r *Root) names(rel string) ([]string, error) {
	fd, err := r.openBeneath(rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, r.fail("open", rel, err)
	}
	d := os.NewFile(uintptr(fd), r.path+"/"+rel)
	defer d.Close()
	return d.Readdirnames(-1)
}
