package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// Pace is told before each piece of a check how many bytes are to be read. It may
// wait; an error ends the check.
type Pace func(bytes int) error

// DamagedPack is an error about a pack whose content is not what was verified when
// it came. Its kind is ErrBadHash, ErrTruncated, ErrFormat, or what the disk says.
type DamagedPack struct {
	Pack replication.Hash
	Err  error
}

func (d *DamagedPack) Error() string { return fmt.Sprintf("pack %s is damaged: %v", d.Pack, d.Err) }

// Unwrap is what was wrong.
func (d *DamagedPack) Unwrap() error { return d.Err }

// Packs names the packs of the store, sorted, and how long each is, bytes.
func (s *Store) Packs() (names []replication.Hash, sizes map[replication.Hash]int64, err error) {
	entries, err := os.ReadDir(s.path("packs"))
	if err != nil {
		return nil, nil, err
	}
	sizes = map[replication.Hash]int64{}
	for _, e := range entries { // sorted, as hex is
		h, err := parsePackName(e.Name())
		if err != nil {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			continue // pruned meanwhile
		}
		names, sizes[h] = append(names, h), fi.Size()
	}
	return names, sizes, nil
}

// CheckPack reads a pack from the disk and verifies all of it. A [DamagedPack] is the
// finding; one that is not there any more is none.
func (s *Store) CheckPack(h replication.Hash, pace Pace) error {
	f, err := os.OpenFile(s.path("packs", packName(h)), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	// What is in memory says nothing of the disk.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	defer func() { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }()
	chunks, err := readPackIndex(f, fi.Size())
	if err != nil {
		return &DamagedPack{h, err}
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, fi.Size()), 1<<20)
	if _, err := r.Discard(packHeader); err != nil {
		return &DamagedPack{h, err}
	}
	buf := make([]byte, replication.ChunkSize)
	at := int64(packHeader)
	for _, c := range chunks {
		if err := pace(int(c.stored)); err != nil {
			return err
		}
		if err := skipZeros(r, c.offset()-at); err != nil {
			return &DamagedPack{h, err}
		}
		at = c.offset() + int64(c.stored)
		if _, err := io.ReadFull(r, buf[:c.stored]); err != nil {
			return &DamagedPack{h, err}
		}
		if _, err := s.codec.unpack(buf[:c.stored], c); err != nil {
			return &DamagedPack{h, err}
		}
	}
	if got, err := readPackName(f, fi.Size()); err != nil || got != h {
		return &DamagedPack{h, errors.Join(err, fmt.Errorf("the file's content is %s: %w", got, replication.ErrBadHash))}
	}
	return nil
}

// skipZeros checks what aligns a chunk.
func skipZeros(r io.Reader, n int64) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	if len(bytes.Trim(b, "\x00")) > 0 {
		return fmt.Errorf("%w: there is content between the chunks", replication.ErrBadHash)
	}
	return nil
}

// SetAside takes a damaged pack out of use. The file is kept in the folder "damaged", for
// a person to look at; what of its chunks is whole goes into a new pack, and the rest
// counts as missing. It says where the file is, and how many chunks were saved and
// lost; lost is -1 where the pack's index itself cannot be read.
func (s *Store) SetAside(h replication.Hash) (to string, saved, lost int, err error) {
	name := filepath.Join("packs", packName(h))
	if to, err = s.linkDamaged(name); err != nil || to == "" {
		return to, 0, 0, err
	}
	defer s.index.forget()
	sealed, saved, lost, err := s.salvage(h)
	if err != nil {
		return to, saved, lost, err
	}
	// Where only the frame was wrong, what was saved is the pack as it should be, and has its place.
	if slices.ContainsFunc(sealed, func(p PackFile) bool { return p.Hash == h }) {
		return to, saved, lost, nil
	}
	// Killed after it is gone, what it held must still be looked for.
	if err := s.noteUnsure(); err != nil {
		return to, saved, lost, err
	}
	return to, saved, lost, durable.Remove(s.path(name), s.o.Hook)
}

func (s *Store) noteUnsure() error {
	return s.lockedAs("prune.lock", func() error {
		was, err := s.recordedLacks()
		if err != nil || was.Unsure {
			return err
		}
		was.Unsure = true
		return s.writeLacks(was)
	})
}

// salvage makes a new pack of the chunks that are whole.
func (s *Store) salvage(h replication.Hash) (sealed []PackFile, saved, lost int, err error) {
	p, err := openPack(s.path("packs"), h)
	if errors.Is(err, fs.ErrNotExist) { // what is needed of it was copied meanwhile
		return nil, 0, 0, nil
	}
	if err != nil {
		return nil, 0, -1, nil //nolint:nilerr // that the index cannot be read is the answer
	}
	w := s.NewPack()
	w.Final = true // it may take what is set aside
	defer w.Abort()
	for i, c := range p.chunks {
		stored, err := readStored(where{p, i})
		if err == nil {
			_, err = s.codec.unpack(stored, c)
		}
		if err != nil {
			lost++
			continue
		}
		if err := w.put(c, stored, nil, 0); err != nil {
			return nil, saved, lost, err
		}
		saved++
	}
	sealed, err = w.Seal()
	return sealed, saved, lost, err
}

// linkDamaged gives a file of the store a second name in "damaged"; nothing there is
// ever read or removed by the store. "": the file is not there.
func (s *Store) linkDamaged(name string) (string, error) {
	if err := makeDir(s.path("damaged")); err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		to := filepath.Join("damaged", fmt.Sprintf("%s.%d", filepath.Base(name), n))
		if err := s.o.Hook.At("link " + to); err != nil {
			return "", err
		}
		err := os.Link(s.path(name), s.path(to))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", nil
		case errors.Is(err, fs.ErrExist):
			continue
		case err == nil:
			err = durable.SyncDir(s.path("damaged"))
		}
		return to, err
	}
}
