package tree

import (
	"context"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// Join is the path of name in the directory dir.
func Join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// Scan lists everything in the tree, in entry order, sockets included, reading
// nothing but directories. What vanishes on the way is left out. A mount point
// in the tree is an error: what lies there is not the volume's.
func (r *Root) Scan(ctx context.Context) ([]*Node, error) {
	st, err := r.lstat(r.fd, ".")
	if err != nil {
		return nil, r.fail("stat", ".", err)
	}
	return r.scan(ctx, &Node{Path: ".", Stat: st})
}

// ScanBelow is Scan of the directory dir: dir itself first. Empty when it is no
// directory any more.
func (r *Root) ScanBelow(ctx context.Context, dir string) ([]*Node, error) {
	if dir == "." {
		return r.Scan(ctx)
	}
	st, err := r.Lstat(dir)
	if err != nil || st.Type() != replication.TypeDir {
		if err == nil || Vanished(err) {
			return nil, nil
		}
		return nil, err
	}
	return r.scan(ctx, &Node{Path: dir, Stat: st})
}

func (r *Root) scan(ctx context.Context, top *Node) (nodes []*Node, err error) {
	nodes = []*Node{top}
	todo := []string{top.Path}
	for len(todo) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		from := len(nodes)
		if nodes, err = r.scanDir(dir, nodes); err != nil {
			return nil, err
		}
		for _, n := range nodes[from:] {
			if n.Stat.Mode&unix.S_IFMT == unix.S_IFDIR {
				todo = append(todo, n.Path)
			}
		}
	}
	slices.SortFunc(nodes, func(a, b *Node) int { return replication.ComparePaths(a.Path, b.Path) })
	return nodes, nil
}

func (r *Root) scanDir(dir string, nodes []*Node) ([]*Node, error) {
	fd, err := r.openBeneath(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if vanished(err) {
		return nodes, nil
	}
	if err != nil {
		return nil, r.fail("open", dir, err)
	}
	d := os.NewFile(uintptr(fd), r.path+"/"+dir)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil && !vanished(err) {
		return nil, err
	}
	for _, name := range names {
		st, err := r.lstat(fd, name)
		if vanished(err) {
			continue
		}
		path := Join(dir, name)
		if err != nil {
			return nil, r.fail("stat", path, err)
		}
		nodes = append(nodes, &Node{Path: path, Stat: st})
	}
	return nodes, nil
}

// vanished: it was there a moment ago, or is something else now.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESTALE)
}

// Vanished says whether err is because of a path that is gone or has become
// something else.
func Vanished(err error) bool { return vanished(err) || errors.Is(err, ErrNotRegular) }
