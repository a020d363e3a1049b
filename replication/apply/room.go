package apply

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// disk is what the way to a generation takes of a file system, bytes.
type disk struct {
	dev        uint64 // of the first tree on it
	path       string // that tree
	free       int64
	block      int64
	now, taken int64 // so far; the most at any moment
	clones     bool  // files may share blocks
	packs      bool  // with the store's packs, too
	unsure     bool  // it does not count its blocks
}

func (d *disk) take(n int64) {
	d.now += n
	d.taken = max(d.taken, d.now)
}

// slack is for what the file system itself needs: more where it has to note who shares what.
func (d *disk) slack() int64 {
	if d.clones {
		return d.taken/16 + 4<<20
	}
	return d.taken / 64
}

// inodeTakes and extentTakes are, bytes, what a new file and a run of content take in a file system's
// own records; a directory or attributes have a block besides.
const (
	inodeTakes  = 1 << 10
	extentTakes = 64
)

// rooms adds up what the way to a generation takes.
type rooms struct {
	g     Generations
	disks []*disk
}

// room makes sure, before anything is changed, that there is room for the way from origin to
// target: a tree in the middle of it is no replica. What it adds up is a bound, where blocks are
// shared, too: nothing counts as shared but what Share will share and what a clone has of the file before. Less may do.
// It is tried where a file system does not count its blocks, a new volume has something already, and what the live
// files were at is not known any more, as after a crash: what can be kept of them is seen on the way.
func room(g Generations, origin, target *replication.Manifest, delta *replication.Delta, roots map[string]string, live *liveIndex) error {
	r := &rooms{g: g}
	for i := range target.Volumes {
		v := &target.Volumes[i]
		if origin.Volume(v.Name) == nil {
			if there, err := os.ReadDir(roots[v.Name]); err != nil || len(there) > 0 {
				continue // it is looked at first: it may have its content already
			}
		}
		d, err := r.diskOf(roots[v.Name])
		if err != nil {
			return err
		}
		if err := r.volume(d, origin.Volume(v.Name), v, delta, live.volume(v.Name)); err != nil {
			return err
		}
	}
	var errs []error
	for _, d := range r.disks {
		if d.taken > 0 && !d.unsure && d.free < d.taken+d.slack() {
			errs = append(errs, fmt.Errorf("%w for the live data: %s has %d MiB free and it takes up to %d MiB; the data stays at the generation before, make room on its file system",
				replication.ErrNoSpace, d.path, d.free>>20, (d.taken+d.slack()+1<<20-1)>>20))
		}
	}
	return errors.Join(errs...)
}

func (r *rooms) volume(d *disk, from, v *replication.Volume, delta *replication.Delta, stats *tree.Nodes) error {
	old := replication.NewEntries()
	if from != nil {
		old = from.Entries
	}
	lost := from != nil && stats.Len() == 0
	put, del := delta.Of(v.Name)
	for _, path := range del {
		if e := old.Get(path); e != nil && e.Link == "" {
			gives, err := r.freed(d, e.Chunks)
			if err != nil {
				return err
			}
			d.now -= gives
		}
	}
	for _, e := range put {
		_, known := stats.Get(e.Path)
		gets, gives, err := r.exchange(d, old.Get(e.Path), e, known || lost)
		if err != nil {
			return err
		}
		d.take(gets)
		d.now -= gives
	}
	return nil
}

// diskOf finds the disk that a tree is on. Two subvolumes of btrfs are on one, and share its blocks, though they say that
// they are two devices.
func (r *rooms) diskOf(path string) (*disk, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	for _, d := range r.disks {
		if d.dev == st.Dev || d.clones && canClone(path, d.path) {
			return d, nil
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	d := &disk{
		dev: st.Dev, path: path, free: int64(fs.Bavail) * fs.Bsize, block: max(fs.Bsize, 1), unsure: fs.Blocks == 0,
		clones: canClone(path, path), packs: canClone(path, r.g.Dir()),
	}
	r.disks = append(r.disks, d)
	return d, nil
}

// canClone tries whether a file of one directory can be cloned into the other, with files that have no name and are empty.
func canClone(to, from string) bool {
	var files [2]*os.File
	for i, dir := range []string{to, from} {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600) // which does not touch the directory
		if err != nil {
			return false
		}
		files[i] = os.NewFile(uintptr(fd), dir)
		defer files[i].Close()
	}
	can, err := tree.Clone(files[0], files[1])
	return err == nil && can
}

// exchange is what a file takes while it becomes e, and gives back when it has. known: its
// content is sure to be old's.
func (r *rooms) exchange(d *disk, old, e *replication.Entry, known bool) (gets, gives int64, err error) {
	var meta int64
	if old == nil || old.Type != e.Type {
		meta = d.metadata(e)
	}
	if old != nil && (old.Type != replication.TypeFile || old.Link != "") {
		old = nil
	}
	var out, in []replication.Chunk // what goes, what comes
	if old != nil {
		out = old.Chunks
	}
	if e.Type == replication.TypeFile && e.Link == "" {
		in = e.Chunks
	}
	if old != nil && in != nil {
		if old.SameContent(e) {
			return meta, 0, nil
		}
		differ := replication.Differing(old.Chunks, e.Chunks)
		if d.clones && known && len(old.Chunks) > 1 || !d.clones && e.Size >= inPlace && total(differ) <= e.Size/2 {
			out, in = replication.Differing(e.Chunks, old.Chunks), differ
		}
	}
	if gets, err = r.written(d, in); err == nil {
		gives, err = r.freed(d, out)
	}
	return meta + gets, gives, err
}

// metadata is what a new entry takes besides its content.
func (d *disk) metadata(e *replication.Entry) int64 {
	n := int64(inodeTakes + len(e.Target))
	if e.Type == replication.TypeDir {
		n += d.block
	}
	for name, value := range e.Xattrs {
		n += int64(len(name) + len(value))
	}
	return n
}

// written is what a file's chunks take that are not shared with a pack: whole blocks, each once.
func (r *rooms) written(d *disk, chunks []replication.Chunk) (n int64, err error) {
	upTo := int64(0) // counted
	for _, c := range chunks {
		shared := int64(0)
		if d.packs {
			if shared, err = r.g.Shares(c.Hash, c.Skip, c.Length, c.Offset); err != nil {
				return 0, err
			}
		}
		n += extentTakes
		from, to := max(upTo, (c.Offset+shared)/d.block*d.block), (c.Offset+c.Length+d.block-1)/d.block*d.block
		if shared < c.Length && from < to {
			n += to - from
			upTo = to
		}
	}
	return n, nil
}

// freed is what a file's chunks give back: whole blocks that no pack can share.
func (r *rooms) freed(d *disk, chunks []replication.Chunk) (n int64, err error) {
	for _, c := range chunks {
		if d.packs {
			shared, err := r.g.Shares(c.Hash, 0, c.Skip+c.Length, 0)
			if err != nil {
				return 0, err
			}
			if shared > 0 {
				continue
			}
		}
		n += max(0, (c.Offset+c.Length)/d.block*d.block-(c.Offset+d.block-1)/d.block*d.block)
	}
	return n, nil
}
