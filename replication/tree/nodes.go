package tree

import (
	"iter"
	"strings"
	"sync"

	"github.com/google/btree"

	"github.com/understudy-ha/understudy/replication"
)

// Nodes are a tree's nodes by path, in entry order, as [replication.Entries] are:
// clones share what neither has changed. The nil Nodes are empty, to be read only.
type Nodes struct {
	byPath  *btree.BTreeG[*Node] // a node is not changed once it is in
	linked  *btree.BTreeG[link]
	sockets int
}

// link is a path of an inode that has several.
type link struct {
	ino  uint64
	path string
}

func (a link) less(b link) bool {
	if a.ino != b.ino {
		return a.ino < b.ino
	}
	return replication.ComparePaths(a.path, b.path) < 0
}

// NewNodes makes Nodes of a list in any order.
func NewNodes(list ...*Node) *Nodes {
	ns := &Nodes{
		byPath: btree.NewG(32, func(a, b *Node) bool { return replication.ComparePaths(a.Path, b.Path) < 0 }),
		linked: btree.NewG(32, link.less),
	}
	for _, n := range list {
		ns.Set(n)
	}
	return ns
}

// Clone is the same nodes, to be changed without the original. Not for several goroutines at once.
func (ns *Nodes) Clone() *Nodes {
	if ns == nil {
		return NewNodes()
	}
	return &Nodes{byPath: ns.byPath.Clone(), linked: ns.linked.Clone(), sockets: ns.sockets}
}

// Len counts all, Sockets those that are not carried.
func (ns *Nodes) Len() int {
	if ns == nil {
		return 0
	}
	return ns.byPath.Len()
}

// Sockets counts the nodes of a type that is not carried.
func (ns *Nodes) Sockets() int {
	if ns == nil {
		return 0
	}
	return ns.sockets
}

// Get finds a path's stat.
func (ns *Nodes) Get(path string) (Stat, bool) {
	if n := ns.Node(path); n != nil {
		return n.Stat, true
	}
	return Stat{}, false
}

// Node is the one at path, which stays as it is; nil: there is none.
func (ns *Nodes) Node(path string) *Node {
	if ns == nil {
		return nil
	}
	at := probes.Get().(*Node)
	at.Path = path
	n, _ := ns.byPath.Get(at)
	at.Path = ""
	probes.Put(at)
	return n
}

// probes are what a path is looked for with: as many garbage nodes as there are files would lie between those that
// stay, and leave holes in memory that nothing else fits in.
var probes = sync.Pool{New: func() any { return new(Node) }}

// Set puts n where its path says. It is kept, and is not to be changed any more.
func (ns *Nodes) Set(n *Node) {
	if old, was := ns.byPath.ReplaceOrInsert(n); was {
		ns.forget(old)
	}
	if n.Stat.Type() == 0 {
		ns.sockets++
	}
	if n.Stat.Linked() {
		ns.linked.ReplaceOrInsert(link{n.Stat.Ino, n.Path})
	}
}

// Delete takes one path out; not what is below it.
func (ns *Nodes) Delete(path string) {
	if old, was := ns.byPath.Delete(&Node{Path: path}); was {
		ns.forget(old)
	}
}

func (ns *Nodes) forget(old *Node) {
	if old.Stat.Type() == 0 {
		ns.sockets--
	}
	if old.Stat.Linked() {
		ns.linked.Delete(link{old.Stat.Ino, old.Path})
	}
}

// All goes through the nodes in order.
func (ns *Nodes) All() iter.Seq[Node] {
	return func(yield func(Node) bool) {
		if ns != nil {
			ns.byPath.Ascend(func(n *Node) bool { return yield(*n) })
		}
	}
}

// Below goes through what is in the directory dir, at any depth; dir itself is not.
func (ns *Nodes) Below(dir string) iter.Seq[Node] {
	return func(yield func(Node) bool) {
		if ns == nil {
			return
		}
		prefix := dir + "/"
		if dir == "." {
			prefix = ""
		}
		ns.byPath.AscendGreaterOrEqual(&Node{Path: prefix}, func(n *Node) bool {
			return strings.HasPrefix(n.Path, prefix) && yield(*n)
		})
	}
}

// Linked says whether the inode has several names. Directories do not count.
func (s Stat) Linked() bool { return s.Nlink > 1 && s.Type() != replication.TypeDir }

// Leader is the first path of an inode with several: the one whose entry has
// content and metadata. For any other inode it is path.
func (ns *Nodes) Leader(path string, s Stat) string {
	if !s.Linked() || ns == nil {
		return path
	}
	leader := path
	ns.linked.AscendGreaterOrEqual(link{s.Ino, "."}, func(l link) bool {
		if l.ino == s.Ino {
			leader = l.path
		}
		return false
	})
	return leader
}

// AllLinked goes through the paths of all inodes with several.
func (ns *Nodes) AllLinked() iter.Seq[string] {
	return func(yield func(string) bool) {
		if ns != nil {
			ns.linked.Ascend(func(l link) bool { return yield(l.path) })
		}
	}
}
