package tree

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Near works beneath a root in one directory after the other, and keeps the one it is in
// open: what is done there takes no walk from the root each time. It stays in the directory
// that it found at the path, so it is for trees that nobody else moves about meanwhile, and
// whoever uses it does not replace a directory that it is in. For one goroutine.
type Near struct {
	r   *Root
	dir string
	fd  int // -1: in none
}

// Near begins in no directory. Close it before the root.
func (r *Root) Near() *Near { return &Near{r: r, fd: -1} }

// Close leaves the directory.
func (n *Near) Close() error {
	if n.fd < 0 {
		return nil
	}
	err := unix.Close(n.fd)
	n.fd = -1
	return err
}

// enter opens the directory that holds rel, as Root.split does, and gives the name in it.
func (n *Near) enter(rel string) (name string, err error) {
	dir, name, _ := cutLast(rel)
	if name == ".." || name == "" {
		return "", n.r.fail("open", rel, unix.EXDEV)
	}
	if n.fd >= 0 && dir == n.dir {
		return name, nil
	}
	if err := n.Close(); err != nil {
		return "", err
	}
	fd, name, err := n.r.split(rel)
	if err != nil {
		return "", err
	}
	n.dir, n.fd = dir, fd
	return name, nil
}

// Lstat is Root.Lstat.
func (n *Near) Lstat(rel string) (Stat, error) {
	name, err := n.enter(rel)
	if err != nil {
		return Stat{}, err
	}
	s, err := n.r.lstat(n.fd, name)
	return s, n.r.fail("stat", rel, err)
}

// Create makes a new file, 0600; it must not exist, be it as a symlink.
func (n *Near) Create(rel string) (*os.File, error) {
	name, err := n.enter(rel)
	if err != nil {
		return nil, err
	}
	fd := -1
	err = n.r.freely(func() (err error) {
		fd, err = retry(func() (int, error) {
			return unix.Openat(n.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		})
		return err
	}, n.dir)
	if err != nil {
		return nil, n.r.fail("create", rel, err)
	}
	return os.NewFile(uintptr(fd), n.r.path+"/"+rel), nil
}

// Remove removes what is no directory; what is not there is a success.
func (n *Near) Remove(rel string) error {
	name, err := n.enter(rel)
	if err != nil {
		return err
	}
	err = n.r.freely(func() error { return unix.Unlinkat(n.fd, name, 0) }, rel, n.dir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return n.r.fail("remove", rel, err)
}

// Rename moves from to to, both in the same directory, over what is there. From has no
// other name: see Root.Rename.
func (n *Near) Rename(from, to string) error {
	name, err := n.enter(to)
	if err != nil {
		return err
	}
	_, temp, _ := cutLast(from)
	return n.r.fail("rename", to, n.r.freely(func() error { return unix.Renameat(n.fd, temp, n.fd, name) }, to, n.dir))
}
