package tree

import "os"

// Origin is the file that a clone was made of: its tree, its path in it, and its Stat, which must
// be such that any later change shows in it (see Stat.Unsure).
type Origin struct {
	Tree string
	Path string
	Stat Stat
}

// Open opens the origin, beneath its tree; an error where it is not what it was.
func (o Origin) Open() (*Live, error) {
	root, err := OpenRoot(o.Tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(o.Path)
	if err != nil {
		return nil, err
	}
	return &Live{f: f, stat: o.Stat}, nil
}

// Live reads an origin for as long as it is what it was.
type Live struct {
	f    *os.File
	stat Stat
}

// ReadAt reads what the clone has there, or fails: the file may have changed before or
// while it was read.
func (l *Live) ReadAt(b []byte, at int64) (int, error) {
	n, err := l.f.ReadAt(b, at)
	if err != nil {
		return 0, err
	}
	st, err := FileStat(l.f)
	if err == nil && st != l.stat {
		err = ErrChanged
	}
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Close closes the file.
func (l *Live) Close() error { return l.f.Close() }

// Twin is a clone, which stays as it is while it is read and of which nothing is in memory, and its origin, which
// mostly has all of it there. What is read is the clone's content, from the origin while that has
// not changed: else all that is captured would come from the disk, once to be hashed and once to
// be sent.
type Twin struct {
	Clone  *os.File
	Origin Origin
	live   *Live // nil: not known to be as the clone
}

// NewTwin is clone with its origin, open as src for as long as the Twin is read: clone was made
// after origin.Stat was found, so while src is still that, both are the same: whatever writes moves
// the ctime first, or a clone waits for it. Memory that a device still writes to when the clone was
// made is the exception; who reads the chunk finds that out by its hash.
func NewTwin(clone, src *os.File, origin Origin) *Twin {
	return &Twin{Clone: clone, Origin: origin, live: &Live{f: src, stat: origin.Stat}}
}

// ColdTwin is a clone whose origin is not known.
func ColdTwin(clone *os.File) *Twin { return &Twin{Clone: clone} }

// ReadAt reads from the clone's content.
func (t *Twin) ReadAt(b []byte, at int64) (int, error) {
	if t.live != nil {
		if n, err := t.live.ReadAt(b, at); err == nil {
			return n, nil
		}
		t.live = nil
	}
	return t.Clone.ReadAt(b, at)
}

// Cold says that what is read comes from the clone.
func (t *Twin) Cold() bool { return t.live == nil }
