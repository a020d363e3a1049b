package store

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// LeastFree is what stays free on a store's file system, bytes: below it nothing is sealed
// and nothing is received. What is committed can go on being applied, and a node's own
// records be written.
const LeastFree = 64 << 20

// Room is what a store's file system has left, bytes.
type Room struct {
	Free, Size int64
	Spare      int64 // history gives way below
	Least      int64 // and replication below this
}

// Short says that history has to give way.
func (r Room) Short() bool { return r.Free < r.Spare }

// Full says that nothing new is taken.
func (r Room) Full() bool { return r.Free < r.Least }

// Room looks how much there is.
func (s *Store) Room() (Room, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil {
		return Room{}, &os.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	r := Room{Free: int64(fs.Bavail) * fs.Bsize, Size: int64(fs.Blocks) * fs.Bsize, Spare: s.o.Spare, Least: s.o.LeastFree}
	if r.Spare == 0 {
		r.Spare = min(r.Size/20, 1<<30)
	}
	r.Spare = max(r.Spare, 2*r.Least)
	return r, nil
}

// roomFor fails where less than least is left.
func (s *Store) roomFor(least int64) error {
	r, err := s.Room()
	if err == nil && r.Free < least {
		err = fmt.Errorf("%w for the store %s: %d MiB are free, and %d MiB stay so; make room on its file system, or lower [retention]",
			replication.ErrNoSpace, s.dir, r.Free>>20, least>>20)
	}
	return err
}

// RoomToSeal fails with ErrNoSpace where nothing may be sealed. A hand-over's last generation
// may take what is set aside for it.
func (s *Store) RoomToSeal(final bool) error { return s.roomFor(s.leastFor(final)) }

func (s *Store) leastFor(final bool) int64 {
	if final {
		return s.o.LeastFree / 2
	}
	return s.o.LeastFree
}
