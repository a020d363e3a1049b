package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// ErrUnsettled says that the live trees are at no generation: containers write to
// them, or an apply is not finished.
var ErrUnsettled = errors.New("the live trees are at no generation")

// Check is how far a check of the live trees has got. The zero value begins one.
type Check struct {
	Volume, Path string // what is next
	// done is how many bytes of Path were looked at, also at an earlier generation: or
	// a large file would never be done with, as the next generation comes first.
	done int64
}

// Finding is something in the live trees that is not as the generation says.
type Finding struct {
	Volume, Path, What string
	// Foreign: somebody has written there, by its times. It is left for the caller
	// to keep. Otherwise the disk has forgotten: it is written again from the store.
	Foreign  bool
	Repaired bool
	Err      error // why it could not be
}

func (f Finding) String() string { return fmt.Sprintf("volume %s, %q: %s", f.Volume, f.Path, f.What) }

// fileCost is what looking at a file counts for, in bytes, beside its content.
const fileCost = 4 << 10

// CheckSome compares some of the live trees with the generation that they are at, by
// content and metadata, from where c has got to: about most bytes of it, for an apply
// waits meanwhile. What is in the trees beside the generation it does not look for.
// When done, c is at the beginning again. ErrUnsettled.
func (a *Applier) CheckSome(ctx context.Context, c *Check, roots map[string]string, most int64) (read int64, found []Finding, done bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, err := a.Applied()
	if err != nil {
		return 0, nil, false, err
	}
	if id.IsZero() {
		return 0, nil, false, ErrUnsettled
	}
	m, err := a.loadLocked(id)
	if err != nil {
		return 0, nil, false, err
	}
	if a.index == nil {
		a.index = loadLive(a.IndexPath(), m)
	}
	for i := range m.Volumes {
		v := &m.Volumes[i]
		if v.Name < c.Volume {
			continue
		}
		if v.Name > c.Volume {
			c.Volume, c.Path, c.done = v.Name, ".", 0
		}
		r, f, err := a.checkVolumeLocked(ctx, c, v, roots[v.Name], most-read)
		read, found = read+r, append(found, f...)
		if err != nil || read >= most {
			return read, found, false, err
		}
		c.Volume, c.Path, c.done = v.Name+"\x00", ".", 0 // after it, and before any other
	}
	*c = Check{}
	return read, found, true, nil
}

func (a *Applier) checkVolumeLocked(ctx context.Context, c *Check, v *replication.Volume, path string, most int64) (read int64, found []Finding, err error) {
	if path == "" {
		return 0, nil, nil // said by the apply
	}
	root, err := tree.OpenRoot(path)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for e := range v.Entries.From(c.Path) {
		if ctx.Err() != nil {
			return read, found, context.Cause(ctx)
		}
		if c.Path != e.Path {
			c.Path, c.done = e.Path, 0
		}
		l := &look{a: a, root: root, v: v, e: e}
		n, err := l.at(ctx, c.done, most-read)
		read += n
		if err != nil {
			return read, found, fmt.Errorf("volume %s, %q: %w", v.Name, e.Path, err)
		}
		if l.wrong != "" {
			f := Finding{Volume: v.Name, Path: e.Path, What: l.wrong, Foreign: l.foreign}
			if !f.Foreign {
				f.Err = l.repair(ctx)
				f.Repaired = f.Err == nil
			}
			found = append(found, f)
		}
		if l.next > 0 && (l.wrong == "" || !l.foreign) {
			c.done = l.next
			return read, found, nil
		}
		c.Path, c.done = e.Path+"\x00", 0 // after it
		if read >= most {
			return read, found, nil
		}
	}
	return read, found, nil
}

// look is a look at one path.
type look struct {
	a       *Applier
	root    *tree.Root
	v       *replication.Volume
	e       *replication.Entry
	wrong   string
	foreign bool
	bad     []replication.Chunk // whose content is not there
	next    int64               // 0: all of it was looked at; else up to here
}

// at looks at the metadata, when from is 0, then at content from there on.
func (l *look) at(ctx context.Context, from, most int64) (read int64, err error) {
	st, err := l.root.Lstat(l.e.Path)
	if tree.Vanished(err) {
		l.wrong, l.foreign = "is missing", true
		return fileCost, nil
	}
	if err != nil {
		return 0, err
	}
	known, ok := l.a.index.volume(l.v.Name).Get(l.e.Path)
	l.foreign = !ok || known != st
	if l.e.Link != "" { // its inode is looked at where it leads
		return fileCost, nil
	}
	if from == 0 {
		read = fileCost
		is, err := l.root.Meta(l.e.Path, st)
		if err != nil {
			return read, err
		}
		if l.compare(&is); l.wrong != "" {
			return read, nil
		}
	}
	if l.e.Type != replication.TypeFile {
		return read, nil
	}
	n, err := l.content(ctx, from, most-read)
	return read + n, err
}

func (l *look) compare(is *replication.Entry) {
	switch {
	case is.Type != l.e.Type:
		l.wrong = "has another type"
	case is.Size != l.e.Size, is.Target != l.e.Target, is.Rdev != l.e.Rdev:
		l.wrong = "has other content"
	case !likeHere(is, l.root.HasFlags()).SameMeta(likeHere(l.e, l.root.HasFlags())):
		l.wrong = "has other metadata"
	}
}

// content reads from the disk, not from memory.
func (l *look) content(ctx context.Context, from, most int64) (read int64, err error) {
	f, err := l.root.Open(l.e.Path)
	if tree.Vanished(err) {
		l.wrong, l.foreign = "is missing", true
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, min(l.e.Size, replication.ChunkSize))
	for _, c := range l.e.Chunks {
		if c.Offset < from {
			continue
		}
		if read >= most && read > 0 {
			l.next = c.Offset
			break
		}
		if ctx.Err() != nil {
			return read, context.Cause(ctx)
		}
		same, err := l.chunk(f, buf[:c.Length], c)
		read += c.Length
		if err != nil {
			return read, err
		}
		if !same {
			l.bad = append(l.bad, c)
		}
	}
	if len(l.bad) > 0 {
		l.wrong = "has other content"
	}
	if l.wrong != "" || l.next > 0 {
		return read, nil
	}
	empty, err := emptyGaps(ctx, f, l.e)
	if err == nil && !empty {
		l.wrong = "has content where nothing should be"
	}
	return read, err
}

// chunk compares one chunk with the disk, not with what is in memory. What the disk
// cannot read is not the same.
func (l *look) chunk(f *os.File, b []byte, c replication.Chunk) (bool, error) {
	_ = unix.Fadvise(int(f.Fd()), c.Offset, c.Length, unix.FADV_DONTNEED)
	_, err := f.ReadAt(b, c.Offset)
	_ = unix.Fadvise(int(f.Fd()), c.Offset, c.Length, unix.FADV_DONTNEED)
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	same, err := isChunk(l.a.g, b, c)
	if errors.Is(err, replication.ErrBadHash) || errors.Is(err, replication.ErrNotFound) {
		return true, nil // the store cannot say; its own check does
	}
	return same, err
}

// repair makes the path what it has to be. A part of a large file is patched where it
// lies. Killed in it, the file's times say that somebody has written there.
func (l *look) repair(ctx context.Context) error {
	w := &worker{root: l.root, g: l.a.g, hook: l.a.o.Hook, res: &Result{}, to: l.v.Entries, apart: true}
	old := *l.e
	old.Size, old.MtimeNs = unlike, old.MtimeNs+1
	if len(l.bad) > 0 && l.e.Size >= inPlace && l.e.Flags == 0 {
		if err := l.patch(ctx, w); err != nil {
			return err
		}
		old.Size = l.e.Size
	}
	w.from = replication.NewEntries(&old)
	if err := w.run(ctx, []*replication.Entry{l.e}, nil); err != nil {
		return err
	}
	if err := l.root.Sync(); err != nil {
		return err
	}
	return l.a.index.update(l.a.o.Now(), l.root, l.v, w.changed, false)
}

// patch writes the bad chunks; the metadata is set again after it.
func (l *look) patch(ctx context.Context, w *worker) (err error) {
	f, err := l.root.OpenAs(l.e.Path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return w.fill(ctx, f, l.bad)
}
