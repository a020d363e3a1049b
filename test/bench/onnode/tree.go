package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// perDir is how many files a directory of a tree of small files has.
const perDir = 250

// The sizes of small files, bytes: a mean of about 3 KiB in a tree of small
// files, 400 in one that is only there for the number of its entries.
const (
	smallLeast, smallMost = 256, 8 << 10
	tinyLeast, tinyMost   = 64, 1 << 10
)

// made is what tree and files print.
type made struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// smallPath is where a tree has its i-th small file.
func smallPath(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("d%02d", i/perDir/100), fmt.Sprintf("e%05d", i/perDir), fmt.Sprintf("f%07d", i))
}

// makeFiles brings a tree of small files from one number of files to another.
func makeFiles(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	dir := f.String("dir", "", "root of the tree")
	from := f.Int("from", 0, "files there are")
	to := f.Int("to", 0, "files there shall be")
	seed := f.Uint64("seed", 1, "seed of the content")
	tiny := f.Bool("tiny", false, "files of some hundred bytes")
	_ = f.Parse(args) // exits on error
	least, most := smallLeast, smallMost
	if *tiny {
		least, most = tinyLeast, tinyMost
	}
	m := &maker{src: newSource(*seed + uint64(*from)<<32)}
	for i := *from; i < *to && ctx.Err() == nil; i++ {
		if err := m.file(smallPath(*dir, i), int64(m.src.between(least, most)), m.src.text); err != nil {
			return nil, err
		}
	}
	for i := *from - 1; i >= *to && ctx.Err() == nil; i-- {
		path := smallPath(*dir, i)
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		if i%perDir == 0 {
			_ = os.Remove(filepath.Dir(path)) // the last one of it was this
		}
	}
	return m.made, ctx.Err()
}

// makeTree makes a tree of so many bytes: "noise" is files of 64 MiB that nothing
// can compress, "file" one such file, "mixed" half of that, a quarter text of
// 1 MiB each, a quarter text of 4 to 32 KiB.
func makeTree(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	dir := f.String("dir", "", "root of the tree; made")
	kind := f.String("kind", "noise", "noise, file or mixed")
	size := f.Int64("bytes", 1<<20, "how much")
	seed := f.Uint64("seed", 1, "seed of the content")
	_ = f.Parse(args) // exits on error
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return nil, err
	}
	m := &maker{src: newSource(*seed)}
	large := func(total int64) error {
		return m.fill(ctx, filepath.Join(*dir, "large"), total, 64<<20, m.src.noise)
	}
	var err error
	switch *kind {
	case "file":
		err = m.file(filepath.Join(*dir, "file"), *size, m.src.noise)
	case "noise":
		err = large(*size)
	case "mixed":
		err = errors.Join(
			large(*size/2),
			m.fill(ctx, filepath.Join(*dir, "medium"), *size/4, 1<<20, m.src.text),
			m.fill(ctx, filepath.Join(*dir, "small"), *size/4, 0, m.src.text))
	default:
		err = fmt.Errorf("no kind of tree %q", *kind)
	}
	return m.made, err
}

// maker writes files and counts them.
type maker struct {
	src *source
	made
	buf []byte
}

// fill makes files of one size in dir until they have so many bytes; one: 4 to 32 KiB for 0.
func (m *maker) fill(ctx context.Context, dir string, total, one int64, content func([]byte)) error {
	for i, left := 0, total; left > 0 && ctx.Err() == nil; i++ {
		size := one
		if one == 0 {
			size = int64(m.src.between(4<<10, 32<<10))
		}
		size = min(size, left)
		left -= size
		if err := m.file(filepath.Join(dir, fmt.Sprintf("e%05d", i/perDir), fmt.Sprintf("f%07d", i)), size, content); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *maker) file(path string, size int64, content func([]byte)) error {
	f, err := os.Create(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			f, err = os.Create(path)
		}
	}
	if err != nil {
		return err
	}
	if m.buf == nil {
		m.buf = make([]byte, 1<<20)
	}
	for left := size; left > 0 && err == nil; {
		b := m.buf[:min(left, int64(len(m.buf)))]
		content(b)
		_, err = f.Write(b)
		left -= int64(len(b))
	}
	m.Files++
	m.Bytes += size
	return errors.Join(err, f.Close())
}
