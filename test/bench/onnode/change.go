package main

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// changed is what change and blocks print.
type changed struct {
	Paths []string `json:"paths"` // relative to the root
	Bytes int64    `json:"bytes"`
}

// changeFiles rewrites some of a tree's small files, as an editor does that
// truncates and writes.
func changeFiles(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	dir := f.String("dir", "", "root of the tree")
	of := f.Int("of", 0, "files in the tree")
	count := f.Int("count", 10, "how many to change")
	size := f.Int64("bytes", 0, "size of each; 0: as small files are")
	seed := f.Uint64("seed", 1, "of the choice and the content")
	_ = f.Parse(args) // exits on error
	m := &maker{src: newSource(*seed)}
	out := changed{}
	for _, i := range rand.New(m.src.rng).Perm(*of)[:min(*count, *of)] {
		path := smallPath(*dir, i)
		n, content := *size, m.src.noise
		if n == 0 {
			n, content = int64(m.src.between(smallLeast, smallMost)), m.src.text
		}
		if err := errors.Join(ctx.Err(), m.file(path, n, content)); err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(*dir, path)
		if err != nil {
			return nil, err
		}
		out.Paths = append(out.Paths, rel)
	}
	out.Bytes = m.Bytes
	return out, nil
}

// changeBlocks rewrites blocks of 4 KiB of a large file at random places, each at
// most once, in no order, and syncs the file as a database does.
func changeBlocks(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	path := f.String("file", "", "the file")
	share := f.Float64("share", 0.01, "of its blocks")
	seed := f.Uint64("seed", 1, "of the choice and the content")
	_ = f.Parse(args) // exits on error
	const block = 4096
	file, err := os.OpenFile(*path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	src := newSource(*seed)
	blocks := int(st.Size() / block)
	out := changed{Paths: []string{filepath.Base(*path)}}
	b := make([]byte, block)
	for _, i := range rand.New(src.rng).Perm(blocks)[:max(1, int(float64(blocks)**share))] {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		src.noise(b)
		if _, err := file.WriteAt(b, int64(i)*block); err != nil {
			return nil, err
		}
		out.Bytes += block
	}
	return out, file.Sync()
}
