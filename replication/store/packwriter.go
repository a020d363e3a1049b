package store

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/tree"
)

// PackFile is a sealed pack.
type PackFile struct {
	Hash      replication.Hash // of its index, which names all else; the file is Hash + ".pack"
	Path      string
	Size      int64
	Temporary bool // made for this shipment; gone after cleanup

	parts []part // that live files have too
}

// PackWriter writes chunks into new packs. Has and Put may be called from several goroutines,
// which compress side by side. While a pack is made durable, the next one is written.
type PackWriter struct {
	// Hashed says that whoever calls Put has just worked out the hash from the very
	// bytes, as capture does: it is not worked out again.
	Hashed bool
	// Sealed is told, perhaps from another goroutine, of a pack that is in the store,
	// durably. It must not block, nor call the writer. nil: nobody is told.
	Sealed func(PackFile)
	// Final says that it is for a hand-over's last generation: see RoomToSeal.
	Final bool

	s    *Store
	keep bool // leave packs in incoming instead of taking them into the store

	mu      sync.Mutex  // guards what follows in Has and Put; the rest is called when these are done
	cur     *openedPack // nil: none begun
	sealed  []PackFile
	failed  error                         // the first error sticks
	closing chan closed                   // the pack that is being made durable; nil: none
	closed  map[replication.Hash]struct{} // what is in that
}

// closed is how that ended.
type closed struct {
	pf  PackFile
	err error
}

// openedPack is a pack being written.
type openedPack struct {
	f      *os.File
	w      *bufio.Writer
	chunks []packChunk
	has    map[replication.Hash]struct{}
	parts  []part
	at     int64
	begun  int64 // up to here the kernel was asked to write to the disk
}

// Contents reads which chunks are in the pack, in order. DamagedPack.
func (p PackFile) Contents() ([]replication.Hash, error) {
	f, err := os.Open(p.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	chunks, err := readPackIndex(f, p.Size)
	if err != nil {
		return nil, &DamagedPack{p.Hash, err}
	}
	hs := make([]replication.Hash, len(chunks))
	for i, c := range chunks {
		hs[i] = c.hash
	}
	return hs, nil
}

// NewPack begins a pack in incoming. Seal or Abort it.
func (s *Store) NewPack() *PackWriter {
	return &PackWriter{s: s}
}

// Has says whether the store or this writer has the chunk already.
func (w *PackWriter) Has(h replication.Hash) bool {
	w.mu.Lock()
	ok := w.hasLocked(h)
	w.mu.Unlock()
	return ok || w.s.index.has(h)
}

// hasLocked: in a pack that is not the store's yet.
func (w *PackWriter) hasLocked(h replication.Hash) bool {
	_, ok := w.closed[h]
	if !ok && w.cur != nil {
		_, ok = w.cur.has[h]
	}
	return ok
}

// Put adds a chunk of 1..ChunkSize bytes whose hash is h; one that Has is skipped. It
// lies in from's clone at offset at, where nobody changes it until Put returns, so that the pack can
// share its blocks; nil: it may change.
func (w *PackWriter) Put(h replication.Hash, data []byte, from *tree.Twin, at int64) error {
	if len(data) == 0 || len(data) > replication.ChunkSize {
		return fmt.Errorf("%w: a chunk of %d bytes", replication.ErrFormat, len(data))
	}
	if w.Has(h) {
		return nil
	}
	if !w.Hashed && replication.Hash(blake3.Sum256(data)) != h { // it would be refused at the other end; better here
		return fmt.Errorf("chunk %s: %w", h, replication.ErrBadHash)
	}
	stored, flags := w.s.codec.pack(data)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return w.failed
	}
	if w.hasLocked(h) { // by another goroutine meanwhile
		return nil
	}
	return w.put(packChunk{hash: h, raw: uint32(len(data)), flags: flags}, stored, from, at)
}

// put adds a chunk in its stored form. from: see Put.
func (w *PackWriter) put(c packChunk, stored []byte, from *tree.Twin, at int64) error {
	if w.cur == nil {
		if err := w.begin(); err != nil {
			return w.fail(err)
		}
	}
	p := w.cur
	if p.at-p.begun >= writeBack {
		if err := w.room(); err != nil {
			return w.fail(err)
		}
		p.writeBack()
	}
	c.stored = uint32(len(stored))
	if c.shareable() {
		if err := p.write(make([]byte, aligned(p.at)-p.at)); err != nil {
			return w.fail(err)
		}
	}
	c.begin = uint32(p.at)
	if from != nil && c.shareable() && !w.s.o.Apart {
		n, err := p.share(from.Clone, at, int64(len(stored)))
		if err != nil {
			return w.fail(err)
		}
		p.noteShared(n, from, at)
		stored = stored[n:]
	}
	if err := p.write(stored); err != nil {
		return w.fail(err)
	}
	p.chunks = append(p.chunks, c)
	p.has[c.hash] = struct{}{}
	if p.at >= w.s.o.PackSize || len(p.chunks) == packChunks {
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
	if err := w.room(); err != nil {
		return err
	}
	f, err := os.CreateTemp(w.s.IncomingDir(), "pack-*.tmp")
	if err != nil {
		return err
	}
	w.cur = &openedPack{f: f, has: map[replication.Hash]struct{}{}, w: bufio.NewWriterSize(f, 256<<10)}
	return w.cur.write(packHead())
}

// room fails where the disk is as full as it may become. What is only on its way to another
// node goes as long as there is anything.
func (w *PackWriter) room() error {
	if w.keep {
		return nil
	}
	return w.s.RoomToSeal(w.Final)
}

// writeBack is how much is written before the kernel is asked to begin with the disk,
// bytes: so that little is left to wait for at the end.
const writeBack = 8 << 20

func (p *openedPack) write(b []byte) error {
	p.at += int64(len(b))
	_, err := p.w.Write(b)
	return err
}

// writeBack asks the kernel to begin. Only a hint: the sync at the end is what counts.
func (p *openedPack) writeBack() {
	_ = unix.SyncFileRange(int(p.f.Fd()), p.begun, p.at-p.begun, unix.SYNC_FILE_RANGE_WRITE)
	p.begun = p.at
}

// finish ends the current pack, and has it made durable.
func (w *PackWriter) finish() error {
	p := w.cur
	tail, name := packTail(p.chunks, p.at)
	if err := p.write(tail); err != nil {
		return err
	}
	if err := p.w.Flush(); err != nil {
		return err
	}
	if err := p.f.Chmod(sealMode); err != nil {
		return err
	}
	pf := PackFile{Hash: name, Path: p.f.Name(), Size: p.at, Temporary: w.keep, parts: p.parts}
	if w.keep {
		if err := p.f.Close(); err != nil {
			return err
		}
		w.cur = nil
		w.sealed = append(w.sealed, pf)
		return nil
	}
	if err := w.settle(); err != nil { // one at a time
		return err
	}
	done := make(chan closed, 1)
	w.cur, w.closing, w.closed = nil, done, p.has
	go func() { // settle waits for it
		pf, err := w.s.keepPack(p.f, pf)
		if err == nil && w.Sealed != nil {
			w.Sealed(pf)
		}
		done <- closed{pf, err}
	}()
	return nil
}

// settle waits for the pack that is being made durable.
func (w *PackWriter) settle() error {
	if w.closing == nil {
		return nil
	}
	c := <-w.closing
	w.closing = nil
	if c.err == nil {
		w.sealed = append(w.sealed, c.pf)
		c.err = w.s.index.look() // that has what is in it from here on
	}
	w.closed = nil
	return c.err
}

// keepPack makes a pack of our own durable, and one of the store.
func (s *Store) keepPack(f *os.File, pf PackFile) (PackFile, error) {
	err := s.o.Hook.At("sync pack")
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		var to string
		if to, err = s.takePack(pf.Path, pf.Hash); err == nil {
			pf.Path = to
			s.origins.note(pf.Hash, pf.parts)
			return pf, nil
		}
	}
	s.dropTemp(pf.Path)
	return pf, err
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
	if err := w.settle(); err != nil {
		return nil, w.fail(err)
	}
	return w.sealed, nil
}

// Abort drops what is not sealed. After Seal it does nothing.
func (w *PackWriter) Abort() {
	if err := w.settle(); err != nil {
		w.s.log.Warn("a pack was not made durable", "error", w.fail(err))
	}
	if w.cur == nil {
		return
	}
	_ = w.cur.f.Close() // fails when finish closed it already
	w.s.dropTemp(w.cur.f.Name())
	w.cur = nil
	if w.failed == nil {
		w.failed = errors.New("the pack was aborted")
	}
}

func (s *Store) dropTemp(path string) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("an unfinished pack stays until it is swept", "path", path, "error", err)
	}
}
