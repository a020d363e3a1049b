package apply

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// disk is what the way to a generation takes of a file system, bytes.
type disk struct {
	path       string // a tree on it
	free       int64
	now, taken int64 // so far; the most at any moment
	unsure     bool  // it shares blocks between files, or does not count them
}

func (d *disk) take(n int64) {
	d.now += n
	d.taken = max(d.taken, d.now)
}

// slack is for what the file system itself needs.
func (d *disk) slack() int64 { return d.taken / 64 }

// room makes sure, before anything is changed, that there is room for the way from origin to
// target: a tree in the middle of it is no replica. Where a file system shares blocks between
// files, or does not count them, nobody knows what it takes, and it is tried.
func room(origin, target *replication.Manifest, delta *replication.Delta, roots map[string]string) error {
	disks := map[uint64]*disk{}
	for i := range target.Volumes {
		v := &target.Volumes[i]
		from := origin.Volume(v.Name)
		if from == nil {
			continue // it is looked at first, to see what is there
		}
		put, del := delta.Of(v.Name)
		d, err := diskOf(disks, roots[v.Name])
		if err != nil {
			return err
		}
		for _, path := range del {
			if e := from.Entries.Get(path); e != nil && e.Link == "" {
				d.now -= total(e.Chunks)
			}
		}
		for _, e := range put {
			gets, gives := exchange(from.Entries.Get(e.Path), e)
			d.take(gets)
			d.now -= gives
		}
	}
	var errs []error
	for _, d := range disks {
		if d.taken > 0 && !d.unsure && d.free < d.taken+d.slack() {
			errs = append(errs, fmt.Errorf("%w for the live data: %s has %d MiB free and it takes %d MiB; the data stays at the generation before, make room on its file system",
				replication.ErrNoSpace, d.path, d.free>>20, (d.taken+d.slack())>>20))
		}
	}
	return errors.Join(errs...)
}

func diskOf(disks map[uint64]*disk, path string) (*disk, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if d := disks[st.Dev]; d != nil {
		return d, nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	d := &disk{path: path, free: int64(fs.Bavail) * fs.Bsize, unsure: fs.Type == unix.XFS_SUPER_MAGIC || fs.Type == unix.BTRFS_SUPER_MAGIC || fs.Blocks == 0}
	disks[st.Dev] = d
	return d, nil
}

// exchange is what a file takes while it becomes e, and gives back when it has.
func exchange(old, e *replication.Entry) (gets, gives int64) {
	if old != nil && (old.Type != replication.TypeFile || old.Link != "") {
		old = nil
	}
	switch {
	case e.Type != replication.TypeFile || e.Link != "":
		if old != nil {
			gives = total(old.Chunks)
		}
		return 0, gives
	case old == nil:
		return total(e.Chunks), 0
	case old.SameContent(e):
		return 0, 0
	}
	if differ := total(replication.Differing(old.Chunks, e.Chunks)); e.Size >= inPlace && differ <= e.Size/2 {
		return differ, total(replication.Differing(e.Chunks, old.Chunks))
	}
	return total(e.Chunks), total(old.Chunks)
}
