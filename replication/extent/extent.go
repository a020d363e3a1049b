package extent

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Range is a part of a file, in bytes.
type Range struct {
	Offset, Length int64
}

// Supported says whether f is a file on a file system whose extent maps tell
// what clones share: XFS or btrfs.
func Supported(f *os.File) bool {
	_, ok, err := look(f)
	return ok && err == nil
}

// Changed gives the parts of the first size bytes in which a and b may differ,
// in order, none touching the next. In every other part both read the same,
// holes as zeros; what is beyond the end of either counts as changed. Dirty
// pages of both are written back on the way. False where the file system
// cannot tell, or where a and b cannot share blocks: compare their bytes instead.
func Changed(a, b *os.File, size int64) ([]Range, bool, error) {
	ia, ok, err := look(a)
	if err != nil || !ok {
		return nil, false, err
	}
	ib, ok, err := look(b)
	if err != nil || !ok || ia.dev != ib.dev {
		return nil, false, err
	}
	both := max(0, min(size, ia.size, ib.size))
	ranges, err := compare(&walker{size: both, fetch: reader(a)}, &walker{size: both, fetch: reader(b)})
	if errors.Is(err, errNotTold) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return appendRange(ranges, both, size), true, nil
}

// info is what must agree before two files' physical addresses can be compared.
type info struct {
	dev  uint64
	size int64
}

// look says whether f's extent map can be asked. A file on XFS' realtime device
// cannot: its addresses are not those of the data device.
func look(f *os.File) (info, bool, error) {
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return info{}, false, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return info{}, false, &os.PathError{Op: "statfs", Path: f.Name(), Err: err}
	}
	ok := st.Mode&unix.S_IFMT == unix.S_IFREG &&
		(uint32(fs.Type) == unix.XFS_SUPER_MAGIC || uint32(fs.Type) == unix.BTRFS_SUPER_MAGIC) &&
		onDataDevice(fd)
	return info{dev: uint64(st.Dev), size: st.Size}, ok, nil // types differ by architecture
}

// compare walks both to their size, which is one.
func compare(a, b *walker) ([]Range, error) {
	var ranges []Range
	for at := int64(0); at < a.size; {
		sa, err := a.at(at)
		if err != nil {
			return nil, err
		}
		sb, err := b.at(at)
		if err != nil {
			return nil, err
		}
		end := min(sa.end, sb.end)
		if !same(sa, sb) {
			ranges = appendRange(ranges, at, end)
		}
		at = end
	}
	return ranges, nil
}

// same: two pieces that begin at one offset read alike as far as both go.
func same(a, b segment) bool {
	switch {
	case a.kind == zeros && b.kind == zeros:
		return true
	case a.kind == shared && b.kind == shared:
		return a.physical == b.physical
	}
	return false
}

// appendRange adds [from, to), where that is not empty, joined to what it touches.
func appendRange(ranges []Range, from, to int64) []Range {
	if from >= to {
		return ranges
	}
	if n := len(ranges); n > 0 && ranges[n-1].Offset+ranges[n-1].Length == from {
		ranges[n-1].Length += to - from
		return ranges
	}
	return append(ranges, Range{Offset: from, Length: to - from})
}
