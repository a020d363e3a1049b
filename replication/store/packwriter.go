package store

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// PackFile is a sealed pack.
type PackFile struct {
	Hash      replication.Hash // of the whole file; its name is Hash + ".pack"
	Path      string
	Size      int64
	Temporary bool // made for this shipment; gone after cleanup
}

// PackWriter writes chunks into new packs. For one goroutine.
type PackWriter struct {
	s       *Store
	cur     *openedPack // nil: none begun
	sealed  []PackFile
	written map[replication.Hash]struct{} // by this writer
	keep    bool                          // leave packs in incoming instead of taking them into the store
	failed  error                         // the first error sticks
}

// openedPack is a pack being written.
type openedPack struct {
	f      *os.File
	w      *bufio.Writer
	sum    *blake3.Hasher
	chunks []packChunk
	at     int64
}

// NewPack begins a pack in incoming. Seal or Abort it.
func (s *Store) NewPack() *PackWriter {
	return &PackWriter{s: s, written: map[replication.Hash]struct{}{}}
}

// Has says whether the store or this writer has the chunk already.
func (w *PackWriter) Has(h replication.Hash) bool {
	_, ok := w.written[h]
	return ok || w.s.Has(h)
}

// Put adds a chunk of 1..ChunkSize bytes whose hash is h; one that Has is skipped.
func (w *PackWriter) Put(h replication.Hash, data []byte) error {
	if w.failed != nil {
		return w.failed
	}
	if len(data) == 0 || len(data) > replication.ChunkSize {
		return fmt.Errorf("%w: a chunk of %d bytes", replication.ErrFormat, len(data))
	}
	if w.Has(h) {
		return nil
	}
	if replication.Hash(blake3.Sum256(data)) != h { // it would be refused at the other end; better here
		return fmt.Errorf("chunk %s: %w", h, replication.ErrBadHash)
	}
	stored, flags := w.s.codec.pack(data)
	return w.put(packChunk{hash: h, raw: uint32(len(data)), flags: flags}, stored)
}

// put adds a chunk in its stored form.
func (w *PackWriter) put(c packChunk, stored []byte) error {
	if w.cur == nil {
		if err := w.begin(); err != nil {
			return w.fail(err)
		}
	}
	p := w.cur
	c.offset, c.stored = p.at, uint32(len(stored))
	if err := p.write(stored); err != nil {
		return w.fail(err)
	}
	p.chunks = append(p.chunks, c)
	w.written[c.hash] = struct{}{}
	if p.at >= w.s.o.PackSize || len(p.chunks) >= maxPackCount {
		return w.fail(w.finish())
	}
	return nil
}

func (w *PackWriter) fail(err error) error {
	if w.failed == nil {
		w.failed = err
	}
	return err
}

func (w *PackWriter) begin() error {
	f, err := os.CreateTemp(w.s.IncomingDir(), "pack-*.tmp")
	if err != nil {
		return err
	}
	w.cur = &openedPack{f: f, w: bufio.NewWriterSize(f, 256<<10), sum: blake3.New()}
	return w.cur.write(packHead())
}

func (p *openedPack) write(b []byte) error {
	p.at += int64(len(b))
	if _, err := p.sum.Write(b); err != nil {
		return err
	}
	_, err := p.w.Write(b)
	return err
}

// finish seals the current pack.
func (w *PackWriter) finish() error {
	p := w.cur
	if err := p.write(packTail(p.chunks, p.at)); err != nil {
		return err
	}
	if err := p.w.Flush(); err != nil {
		return err
	}
	if err := p.f.Chmod(sealMode); err != nil {
		return err
	}
	pf := PackFile{Hash: replication.Hash(p.sum.Sum(nil)), Path: p.f.Name(), Size: p.at, Temporary: w.keep}
	if !w.keep {
		if err := w.s.o.Hook.At("sync pack"); err != nil {
			return err
		}
		if err := p.f.Sync(); err != nil {
			return err
		}
	}
	if err := p.f.Close(); err != nil {
		return err
	}
	if !w.keep {
		path, err := w.s.takePack(pf.Path, pf.Hash)
		if err != nil {
			return err
		}
		pf.Path = path
	}
	w.cur = nil
	w.sealed = append(w.sealed, pf)
	return nil
}

// takePack moves a verified, synced pack into packs. The same pack may be there
// already; it is replaced only when it is damaged.
func (s *Store) takePack(from string, h replication.Hash) (string, error) {
	to := s.path("packs", packName(h))
	err := durable.RenameNoReplace(from, to, s.o.Hook)
	if !errors.Is(err, fs.ErrExist) {
		return to, err
	}
	if s.intact(to, h) {
		return to, os.Remove(from)
	}
	s.log.Error("a damaged pack of the store is replaced", "pack", to)
	defer s.index.forget()
	return to, durable.Rename(from, to, s.o.Hook)
}

func (s *Store) intact(path string, h replication.Hash) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return s.verifyPack(f, h) == nil
}

// Seal makes the packs durable in the store and lists them; none if nothing was Put.
func (w *PackWriter) Seal() ([]PackFile, error) {
	if w.failed != nil {
		return nil, w.failed
	}
	if w.cur != nil {
		if err := w.finish(); err != nil {
			return nil, w.fail(err)
		}
	}
	return w.sealed, nil
}

// Abort drops what is not sealed. After Seal it does nothing.
func (w *PackWriter) Abort() {
	if w.cur == nil {
		return
	}
	_ = w.cur.f.Close() // fails when finish closed it already
	if err := os.Remove(w.cur.f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.s.log.Warn("an unfinished pack stays until it is swept", "path", w.cur.f.Name(), "error", err)
	}
	w.cur = nil
	if w.failed == nil {
		w.failed = errors.New("the pack was aborted")
	}
}
