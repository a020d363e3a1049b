package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// ReadChunks reads a file's first size bytes, without its holes, cut at
// multiples of ChunkSize, and gives each to emit; data is valid until emit
// returns. It returns the chunks and how many bytes were read. A file that
// becomes shorter meanwhile is io.ErrUnexpectedEOF or seems to end in a hole:
// where others may write, compare its stat afterwards.
func ReadChunks(ctx context.Context, f *os.File, size int64, emit func(h replication.Hash, data []byte) error) (cs []replication.Chunk, read int64, err error) {
	return ReadData(ctx, NewData(f, size), 0, size, make([]byte, min(size, replication.ChunkSize)),
		func(c replication.Chunk, data []byte) error { return emit(c.Hash, data) })
}

// ReadData is ReadChunks of the bytes from from to to of a file whose data is
// found with d, and says where the data is. It reads into buf, of ChunkSize bytes or as many as are read.
func ReadData(ctx context.Context, d *Data, from, to int64, buf []byte, emit func(c replication.Chunk, data []byte) error) (cs []replication.Chunk, read int64, err error) {
	for at := from; at < to; {
		start, end, err := d.Next(at)
		if err != nil || start >= to {
			return cs, read, err
		}
		end = min(end, to)
		for at = start; at < end; {
			if ctx.Err() != nil {
				return nil, read, context.Cause(ctx)
			}
			stop := min(end, (at/replication.ChunkSize+1)*replication.ChunkSize)
			b := buf[:stop-at]
			if n, err := d.content.ReadAt(b, at); err != nil {
				if errors.Is(err, io.EOF) {
					err = fmt.Errorf("%s became shorter while it was read: %w", d.f.Name(), io.ErrUnexpectedEOF)
				}
				return nil, read + int64(n), err
			}
			c := replication.Chunk{Offset: at, Length: stop - at, Hash: blake3.Sum256(b)}
			if err := emit(c, b); err != nil {
				return nil, read, err
			}
			cs = append(cs, c)
			read += c.Length
			at = stop
		}
	}
	return cs, read, nil
}

// Data finds where a file is not a hole, and remembers it: to find the end of what is
// data, a file system walks all its extents. A hole that is made meanwhile is read
// as zeros.
type Data struct {
	f                *os.File
	content          io.ReaderAt // what is read of it
	size             int64
	from, start, end int64 // from from to start is a hole, from there to end is data
}

// NewData is of the first size bytes of f.
func NewData(f *os.File, size int64) *Data { return &Data{f: f, content: f, size: size} }

// NewTwinData is NewData of a clone that is read through its twin.
func NewTwinData(t *Twin, size int64) *Data { return &Data{f: t.Clone, content: t, size: size} }

// Next is NextData.
func (d *Data) Next(at int64) (start, end int64, err error) {
	if at < d.from || at >= d.end {
		if start, end, err = NextData(d.f, at, d.size); err != nil {
			return 0, 0, err
		}
		d.from, d.start, d.end = at, start, end
	}
	return max(at, d.start), d.end, nil
}

// NextData finds the next extent that is not a hole, at or after at and before
// size; start is size where there is none.
func NextData(f *os.File, at, size int64) (start, end int64, err error) {
	fd := int(f.Fd())
	start, err = unix.Seek(fd, at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // a hole up to the end
		return size, size, nil
	case errors.Is(err, unix.EINVAL): // this file system does not know
		return at, size, nil
	case err != nil:
		return 0, 0, &os.PathError{Op: "seek", Path: f.Name(), Err: err}
	}
	end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // it has become shorter
		return size, size, nil
	}
	if err != nil {
		return 0, 0, &os.PathError{Op: "seek", Path: f.Name(), Err: err}
	}
	return min(start, size), min(end, size), nil
}

// Flush writes a file's dirty pages back. Afterwards a store through a mapping
// faults, and so moves the file's ctime: without this a page that was already
// dirty would change unseen.
func Flush(f *os.File) error {
	if err := flush(int(f.Fd())); err != nil {
		return &os.PathError{Op: "flush", Path: f.Name(), Err: err}
	}
	return nil
}

// BeginFlush has a file's dirty pages written back, without waiting for it: of several files side by side. It is a
// hint; what must have been written is flushed.
func BeginFlush(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

func flush(fd int) error {
	err := unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		err = unix.Fsync(fd)
	}
	return err
}

// Nameless makes a file on dir's file system that has no name: it goes when it is closed.
func Nameless(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err == nil || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	if f, err = os.CreateTemp(dir, ""); err == nil { // a file system without, such as NFS
		if err = os.Remove(f.Name()); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, err
}

// Clone makes dst share src's content by reflink; false where the file system cannot.
func Clone(dst, src *os.File) (bool, error) {
	return cloned(src, unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())))
}

// CloneRange is Clone for n bytes of src at from, which become those of dst at to. All
// three are multiples of the file system's block.
func CloneRange(dst *os.File, to int64, src *os.File, from, n int64) (bool, error) {
	return cloned(src, unix.IoctlFileCloneRange(int(dst.Fd()), &unix.FileCloneRange{
		Src_fd: int64(src.Fd()), Src_offset: uint64(from), Src_length: uint64(n), Dest_offset: uint64(to),
	}))
}

func cloned(src *os.File, err error) (bool, error) {
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EXDEV),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return false, nil
	}
	return false, &os.PathError{Op: "clone", Path: src.Name(), Err: err}
}

// Copy copies src's first size bytes into the empty file dst, holes kept.
func Copy(ctx context.Context, dst, src *os.File, size int64) error {
	buf := make([]byte, min(size, replication.ChunkSize))
	for at := int64(0); at < size; {
		start, end, err := NextData(src, at, size)
		if err != nil {
			return err
		}
		for at = start; at < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := src.ReadAt(buf[:min(end-at, int64(len(buf)))], at)
			if n == 0 && errors.Is(err, io.EOF) {
				return fmt.Errorf("%s became shorter while it was copied: %w", src.Name(), io.ErrUnexpectedEOF)
			}
			if n == 0 {
				return err
			}
			if _, err := dst.WriteAt(buf[:n], at); err != nil {
				return err
			}
			at += int64(n)
		}
	}
	return dst.Truncate(size)
}
