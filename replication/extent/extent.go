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

func (r Range) end() int64 { return r.Offset + r.Length }

// Union is what lies in a or in b, in order, none touching the next. Both are in order.
func Union(a, b []Range) []Range {
	out := make([]Range, 0, len(a)+len(b))
	for len(a)+len(b) > 0 {
		next := &a
		if len(a) == 0 || len(b) > 0 && b[0].Offset < a[0].Offset {
			next = &b
		}
		r := (*next)[0]
		*next = (*next)[1:]
		if n := len(out); n > 0 && out[n-1].end() >= r.Offset {
			out[n-1].Length = max(out[n-1].end(), r.end()) - out[n-1].Offset
		} else {
			out = append(out, r)
		}
	}
	return out
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
	return against(ia, reader(a), b, size)
}

// against is Changed of a file that fetchA tells of.
func against(ia info, fetchA fetch, b *os.File, size int64) ([]Range, bool, error) {
	ib, ok, err := look(b)
	if err != nil || !ok || ia.dev != ib.dev {
		return nil, false, err
	}
	both := max(0, min(size, ia.size, ib.size))
	ranges, err := compare(&walker{size: both, fetch: fetchA}, &walker{size: both, fetch: reader(b)})
	if errors.Is(err, errNotTold) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return appendRange(ranges, both, size), true, nil
}

// Map is where a file lies on the disk, for as long as nobody writes to it.
type Map struct {
	info
	extents []fiemapExtent
}

// mapMost is how many extents a Map has at most: 14 MiB of them.
const mapMost = 1 << 18

// Take looks where f lies, up front: of two files that are compared then one needs no more looking at.
// nil where Changed cannot tell either, where it lies in too many places, and where it may be moved at rest: by the file system, as
// btrfs does, or by whoever defragments it (see StayPut).
func Take(f *os.File) (*Map, error) {
	is, ok, err := look(f)
	if err != nil || !ok || is.moves || !staysPut(f) || Count(f) > mapMost {
		return nil, err
	}
	m := &Map{info: is}
	w := &walker{size: is.size, fetch: reader(f)}
	for at := int64(0); at < is.size; {
		w.page = nil
		if err := w.next(at); errors.Is(err, errNotTold) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		if m.extents = append(m.extents, w.page...); w.last {
			break
		}
		if len(m.extents) >= mapMost {
			return nil, nil
		}
		at = w.page[len(w.page)-1].end()
	}
	return m, nil
}

// Changed is Changed of the file that m was taken of.
func (m *Map) Changed(b *os.File, size int64) ([]Range, bool, error) {
	rest := m.extents
	return against(m.info, func(int64, int64) ([]fiemapExtent, error) {
		page := rest
		rest = nil
		return page, nil
	}, b, size)
}

// Update is m of f after ranges of it, in order and beginning at whole blocks, were cloned into it anew, or cut off its
// end: only there it is looked at. nil as of Take, and of nil.
func (m *Map) Update(f *os.File, ranges []Range) (*Map, error) {
	if m == nil || len(ranges) == 0 {
		return m, nil
	}
	is, ok, err := look(f)
	if err != nil || !ok {
		return nil, err
	}
	whole := make([]Range, len(ranges)) // a block is replaced as one, also the last of the file
	for i, r := range ranges {
		whole[i] = Range{r.Offset, (r.Length + is.block - 1) / is.block * is.block}
	}
	var anew []fiemapExtent
	fetch := reader(f)
	for _, r := range whole {
		for at, end := r.Offset, min(r.end(), (is.size+is.block-1)/is.block*is.block); at < end; {
			page, err := fetch(at, end-at)
			if errors.Is(err, errNotTold) {
				return nil, nil
			} else if err != nil {
				return nil, err
			}
			for _, e := range page {
				if from, to := max(at, int64(e.logical)), min(end, e.end()); from < to {
					anew = append(anew, e.part(from, to))
				}
			}
			if len(page) < perCall {
				break
			}
			at = page[len(page)-1].end()
		}
	}
	extents := merge(m.outside(whole), anew)
	if len(extents) > mapMost {
		return nil, nil
	}
	return &Map{info: is, extents: extents}, nil
}

// merge is both, each in order, in order.
func merge(a, b []fiemapExtent) []fiemapExtent {
	if len(b) == 0 {
		return a
	}
	out := make([]fiemapExtent, 0, len(a)+len(b))
	for _, e := range b {
		i := 0
		for i < len(a) && a[i].logical < e.logical {
			i++
		}
		out = append(append(out, a[:i]...), e)
		a = a[i:]
	}
	return append(out, a...)
}

// outside is m without ranges.
func (m *Map) outside(ranges []Range) []fiemapExtent {
	out := make([]fiemapExtent, 0, len(m.extents)+2*len(ranges))
	for _, e := range m.extents {
		for len(ranges) > 0 && ranges[0].end() <= int64(e.logical) {
			ranges = ranges[1:]
		}
		at := int64(e.logical)
		for _, r := range ranges {
			if r.Offset >= e.end() {
				break
			}
			if at < r.Offset {
				out = append(out, e.part(at, r.Offset))
			}
			at = max(at, r.end())
		}
		if at < e.end() {
			out = append(out, e.part(at, e.end()))
		}
	}
	return out
}

// Len counts the extents, none of nil.
func (m *Map) Len() int {
	if m == nil {
		return 0
	}
	return len(m.extents)
}

// info is what is known of a file before where it lies is looked at; dev must agree for two to be compared.
type info struct {
	dev   uint64
	size  int64
	block int64 // of the file system, bytes
	moves bool  // what lies in a file may come to lie elsewhere without being written to
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
		onDataDevice(f)
	return info{dev: uint64(st.Dev), size: st.Size, block: max(1, fs.Bsize), moves: uint32(fs.Type) != unix.XFS_SUPER_MAGIC}, ok, nil // types differ by architecture
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
	if n := len(ranges); n > 0 && ranges[n-1].end() == from {
		ranges[n-1].Length += to - from
		return ranges
	}
	return append(ranges, Range{Offset: from, Length: to - from})
}
