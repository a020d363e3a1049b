package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/durable"
)

const (
	// maxAhead bounds what is kept in memory of writes that arrived before those
	// they follow. pkg/sftp's server handles eight packets at a time, of at most
	// 256 KiB, so a sender that writes in order stays far below.
	maxAhead = 16 << 20
	// spaceEvery is how often, in bytes, free space is looked at.
	spaceEvery = 8 << 20
)

// upload is a file in incoming that is open for writing. It holds an exclusive
// flock: two senders never write one file, and nothing is renamed while it is
// written, so what was verified cannot change afterwards.
type upload struct {
	limit    int64         // bytes the file may have
	minFree  int64         // bytes the file system keeps free
	minFiles int64         // files it can still make
	stall    time.Duration // without a write for so long, the file is given free
	hook     durable.Hook

	mu       sync.Mutex // guards the rest
	f        *os.File   // nil: closed
	next     int64      // size of the file; everything below is written
	checked  int64      // next when free space was looked at last
	ahead    map[int64][]byte
	aheadLen int
	err      error // sticky: the first failure
	timer    *time.Timer
	release  func()
}

// lockIncoming opens base below root and locks it. ErrBusy where another
// sender has it. To verify a file it must be opened for reading only: the
// store's lease on it counts writers.
func lockIncoming(root *os.Root, base string, flags int) (*os.File, error) {
	for range 10 {
		f, err := root.OpenFile(base, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o660)
		if err != nil {
			return nil, err
		}
		there, err := lock(f, root, base)
		if err == nil && there {
			return f, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: %s changes under our hands", ErrBusy, base)
}

// lock takes the flock and says whether the file still is what base names: it
// may have been renamed by the one who had the lock before.
func lock(f *os.File, root *os.Root, base string) (bool, error) {
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !st.Mode().IsRegular() {
		return false, fmt.Errorf("%w: %s is not a plain file", ErrNotAllowed, base)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, fmt.Errorf("%w: another sender is writing %s; try again when it is done, or has stalled", ErrBusy, base)
	}
	if err != nil {
		return false, os.NewSyscallError("flock", err)
	}
	now, err := root.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(st, now), err
}

// begin starts the stall timer and makes sure that there is room.
func (u *upload) begin() error {
	st, err := u.f.Stat()
	if err != nil {
		return err
	}
	u.next, u.checked = st.Size(), st.Size()
	u.ahead = map[int64][]byte{}
	if err := u.room(); err != nil {
		return err
	}
	u.timer = time.AfterFunc(u.stall, func() {
		_ = u.finish(fmt.Errorf("%w: no write for %s", ErrBusy, u.stall))
	})
	return nil
}

// WriteAt takes a run of bytes; those that arrive early wait in memory, so
// that the file grows without holes.
func (u *upload) WriteAt(p []byte, off int64) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = u.takeLocked(p, off)
	}
	if u.err != nil {
		return 0, refuse(u.err)
	}
	return len(p), nil
}

func (u *upload) takeLocked(p []byte, off int64) error {
	if u.f == nil {
		return fmt.Errorf("%w: the file is closed", ErrOrder)
	}
	u.timer.Reset(u.stall)
	switch {
	case off > u.limit || int64(len(p)) > u.limit-off:
		return fmt.Errorf("%w: it may have %d bytes", ErrTooLarge, u.limit)
	case off < u.next:
		return fmt.Errorf("%w: %d bytes are there, a write at %d would overwrite", ErrOrder, u.next, off)
	case off > u.next:
		_, dup := u.ahead[off]
		if dup || u.aheadLen+len(p) > maxAhead {
			return fmt.Errorf("%w: %d bytes are there, nothing follows them, and writes come at %d", ErrOrder, u.next, off)
		}
		u.ahead[off] = append([]byte(nil), p...) // p is pkg/sftp's
		u.aheadLen += len(p)
		return nil
	}
	if err := u.appendLocked(p); err != nil {
		return err
	}
	for {
		b, ok := u.ahead[u.next]
		if !ok || len(b) == 0 {
			return nil
		}
		delete(u.ahead, u.next)
		u.aheadLen -= len(b)
		if err := u.appendLocked(b); err != nil {
			return err
		}
	}
}

// appendLocked writes at the end. A write that fails half way has moved next
// by what is there.
func (u *upload) appendLocked(p []byte) error {
	if u.next+int64(len(p))-u.checked >= spaceEvery {
		if err := u.room(); err != nil {
			return err
		}
		// The disk begins now, so that the sync at the end has little to wait for.
		_ = unix.SyncFileRange(int(u.f.Fd()), u.checked, u.next-u.checked, unix.SYNC_FILE_RANGE_WRITE)
		u.checked = u.next
	}
	if err := u.hook.At("append " + filepath.Base(u.f.Name())); err != nil {
		return err
	}
	n, err := u.f.WriteAt(p, u.next)
	u.next += int64(n)
	return err
}

// room fails where the file system has less than its floor left, of bytes or of inodes, so that what
// is committed can go on being used, and the agent can write its own state.
func (u *upload) room() error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(u.f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < u.minFree {
		return fmt.Errorf("%w: %d MiB are free, %d MiB must stay free; make room or lower the retention", ErrNoSpace, free>>20, u.minFree>>20)
	}
	if st.Files > 0 && int64(st.Ffree) < u.minFiles { // 0: they are made as they are needed
		return fmt.Errorf("%w: %d more files can be made, %d must stay; make room or lower the retention", ErrNoSpace, st.Ffree, u.minFiles)
	}
	return nil
}

// Close is the sender's close: it fails where anything before it failed or a
// hole was left.
func (u *upload) Close() error { return refuse(u.finish(nil)) }

// finish closes the file once, which gives the lock free, and returns the first
// failure. What is in the file stays, to be resumed.
func (u *upload) finish(because error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = because
	}
	if u.f == nil {
		return u.err
	}
	u.timer.Stop()
	if u.err == nil {
		u.err = u.hook.At("close " + filepath.Base(u.f.Name()))
	}
	if u.err == nil && len(u.ahead) > 0 {
		u.err = fmt.Errorf("%w: there is a hole after the first %d bytes", ErrOrder, u.next)
	}
	if err := u.f.Close(); u.err == nil {
		u.err = err
	}
	u.f, u.ahead = nil, nil
	u.release()
	return u.err
}
