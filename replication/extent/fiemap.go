package extent

import (
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linux/fs.h and linux/fiemap.h, as most architectures number them; where one
// does not, the call is refused and nothing is told.
const (
	iocFSGetXattr = 0x801c581f
	iocFSSetXattr = 0x401c5820
	xflagRealtime = 1 << 0
	xflagNoDefrag = 1 << 13

	iocFiemap  = 0xc020660b
	fiemapSync = 1 // write dirty pages back first

	flagLast      = 1 << 0
	flagUnwritten = 1 << 11
	flagMerged    = 1 << 12
	flagShared    = 1 << 13
)

// perCall is how many extents one call brings: 28 KiB of them.
const perCall = 512

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemap struct {
	start, length uint64
	flags         uint32
	mapped        uint32 // how many extents the kernel filled in
	count         uint32
	_             uint32
	extents       [perCall]fiemapExtent
}

// errNotTold: this file system has no extent map to show.
var errNotTold = errors.New("no extent map")

// fsxattr is what file systems know of a file beside its stat (linux/fs.h).
type fsxattr struct {
	xflags, extsize, extents uint32
	_                        [16]byte
}

func getFsxattr(f *os.File) (x fsxattr, ok bool) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocFSGetXattr, uintptr(unsafe.Pointer(&x)))
	return x, errno == 0
}

// StayPut has xfs_fsr leave f where it lies: it finds files by their inodes, also those without a name. False where that
// cannot be asked for.
func StayPut(f *os.File) bool {
	var x fsxattr // as one: a copy would lose what it has no names for
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocFSGetXattr, uintptr(unsafe.Pointer(&x))); errno != 0 {
		return false
	}
	x.xflags |= xflagNoDefrag
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocFSSetXattr, uintptr(unsafe.Pointer(&x)))
	return errno == 0
}

// staysPut says whether that was asked for.
func staysPut(f *os.File) bool {
	x, ok := getFsxattr(f)
	return ok && x.xflags&xflagNoDefrag != 0
}

// Count is in how many extents f lies, where the file system knows that without looking at them, as XFS does; else 0.
func Count(f *os.File) int {
	x, _ := getFsxattr(f)
	return int(x.extents)
}

// onDataDevice: f does not lie on XFS' realtime device. In doubt, false.
func onDataDevice(f *os.File) bool {
	x, ok := getFsxattr(f)
	return ok && x.xflags&xflagRealtime == 0
}

// fetch gives extents of [at, at+length), in order; none when the rest is a hole.
// They are valid until the next call.
type fetch func(at, length int64) ([]fiemapExtent, error)

// reader asks f's file system. The first call writes dirty pages back: what is
// not on the disk has no address there.
func reader(f *os.File) fetch {
	m := new(fiemap)
	flags := uint32(fiemapSync)
	return func(at, length int64) ([]fiemapExtent, error) {
		for {
			m.start, m.length, m.flags, m.mapped, m.count = uint64(at), uint64(length), flags, 0, perCall
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocFiemap, uintptr(unsafe.Pointer(m)))
			switch errno {
			case 0:
				flags = 0
				return m.extents[:min(m.mapped, perCall)], nil
			case unix.EINTR:
				continue
			case unix.EOPNOTSUPP, unix.ENOTTY, unix.EBADR: // EBADR: it does not know the flag
				return nil, errNotTold
			}
			return nil, &os.PathError{Op: "fiemap", Path: f.Name(), Err: errno}
		}
	}
}

type kind uint8

const (
	unsure kind = iota // whatever is not one of the next
	zeros              // a hole, or allocated and never written
	shared             // at physical, and mapped by another file, too
)

// segment is a piece of a file that is all of one kind, from where it was asked for to end.
type segment struct {
	end      int64
	kind     kind
	physical uint64 // of its first byte
}

// walker goes through a file's extents. Its positions only grow.
type walker struct {
	size  int64
	fetch fetch
	page  []fiemapExtent // not passed yet
	last  bool           // nothing follows page
}

// at is the segment that begins at pos, below size.
func (w *walker) at(pos int64) (segment, error) {
	for {
		for len(w.page) > 0 && w.page[0].end() <= pos {
			w.page = w.page[1:]
		}
		if len(w.page) > 0 {
			return w.segment(pos, w.page[0]), nil
		}
		if w.last {
			return segment{end: w.size, kind: zeros}, nil
		}
		if err := w.next(pos); err != nil {
			return segment{}, err
		}
	}
}

func (w *walker) next(pos int64) error {
	page, err := w.fetch(pos, w.size-pos)
	if err != nil {
		return err
	}
	if len(page) == 0 {
		w.last = true
		return nil
	}
	last := page[len(page)-1]
	w.page, w.last = page, last.flags&flagLast != 0
	if last.end() <= pos && !w.last {
		return fmt.Errorf("the extent map does not go on at offset %d: check the file system", pos)
	}
	return nil
}

// segment is what e says of the file from pos on, where e is the first that ends later.
func (w *walker) segment(pos int64, e fiemapExtent) segment {
	if e.logical > uint64(pos) {
		return segment{end: min(int64(min(e.logical, math.MaxInt64)), w.size), kind: zeros}
	}
	s := segment{end: min(e.end(), w.size), physical: e.physical + uint64(pos) - e.logical}
	switch e.flags &^ (flagLast | flagMerged) {
	case flagShared:
		s.kind = shared
	case flagUnwritten, flagUnwritten | flagShared:
		s.kind = zeros
	}
	// Any other flag (delayed, unknown, compressed, encrypted, inline, one yet to
	// be invented) means that the address does not stand for the bytes. And a block
	// that two files map is shared: one that is not flagged so is in one of them only.
	return s
}

// part is e from from to to, which lie in it.
func (e fiemapExtent) part(from, to int64) fiemapExtent {
	e.physical += uint64(from) - e.logical
	e.logical, e.length = uint64(from), uint64(to-from)
	return e
}

// end is where e ends, as far as an offset goes.
func (e fiemapExtent) end() int64 {
	sum := e.logical + e.length
	if sum < e.logical || sum > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(sum)
}
