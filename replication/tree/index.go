package tree

import (
	"github.com/understudy-ha/understudy/replication"
)

// Stat is what lstat says of a path, as far as a change would show in it.
type Stat struct {
	Dev, Ino         uint64
	CtimeNs, MtimeNs int64
	Size             int64
	Mode             uint32 // st_mode with the type bits
	UID, GID         uint32
	Nlink            uint64
	Rdev             uint64
}

// Node is a path and its Stat.
type Node struct {
	Path string // as in replication.Entry
	Stat Stat
}

// Index is what the trees of a generation looked like to stat on this node. It
// only saves reading: one that is lost or old costs reads, never hides a change.
type Index struct {
	ID      replication.ID    // the generation the trees were at
	At      int64             // Unix ns, before the scan began
	Volumes map[string][]Node // by volume, in entry order
}

// LoadIndex reads a saved index; nil where there is none or it is damaged.
func LoadIndex(path string) *Index { panic("todo") }

// Save writes it durably.
func (x *Index) Save(path string) error { panic("todo") }
