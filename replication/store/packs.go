package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// AcceptPack verifies the file at path (its index, whose hash is its name, and every
// chunk's hash) and moves it, durably, into packs. A pack that is there already
// is a success. The file is consumed on success only. ErrBadHash, ErrTruncated, ErrFormat.
func (s *Store) AcceptPack(path string, want replication.Hash) error {
	f, err := openIncoming(path)
	if err != nil {
		return fmt.Errorf("pack %s: %w", want, err)
	}
	defer f.Close()
	// The disk can work meanwhile. Only a hint: the sync below is what counts.
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	if err := s.verifyPack(f, want); err != nil {
		return fmt.Errorf("pack %s: %w", want, err)
	}
	// Its age counts from now, so that it is not swept before its manifest comes.
	now := s.o.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return err
	}
	if err := f.Chmod(sealMode); err != nil {
		return err
	}
	if err := s.o.Hook.At("sync pack"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := stillSealed(f); err != nil {
		return fmt.Errorf("pack %s: %w", want, err)
	}
	_, err = s.takePack(path, want)
	return err
}

// openIncoming opens a sender's file for verification. A read lease makes sure
// that nobody has it open for writing, or opens it before it is renamed:
// what is verified is what is kept.
func openIncoming(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%w: not a regular file", replication.ErrBadPath)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
		switch {
		case errors.Is(err, unix.EAGAIN):
			err = errors.New("the file is still open for writing; close it before it is renamed")
		case err != nil:
			err = nil // not this file system, or not our file: every read verifies again
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// stillSealed fails when somebody wants to write to the file (the lease is being broken).
func stillSealed(f *os.File) error {
	lease, err := unix.FcntlInt(f.Fd(), unix.F_GETLEASE, 0)
	if err == nil && lease == unix.F_UNLCK {
		// Never had, or being broken: a new one is refused only for the latter.
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK); errors.Is(err, unix.EAGAIN) {
			return errors.New("the file was opened for writing while it was verified")
		}
	}
	return nil
}

func (s *Store) verifyPack(f *os.File, want replication.Hash) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	chunks, err := readPackIndex(f, fi.Size())
	if err != nil {
		return err
	}
	got, err := readPackName(f, fi.Size())
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the file's content is %s: %w", got, replication.ErrBadHash)
	}
	buf := make([]byte, replication.ChunkSize)
	at := int64(packHeader)
	for _, c := range chunks {
		if err := readZeros(f, at, c.offset()); err != nil {
			return err
		}
		at = c.offset() + int64(c.stored)
		if _, err := f.ReadAt(buf[:c.stored], c.offset()); err != nil {
			return err
		}
		if _, err := s.codec.unpack(buf[:c.stored], c); err != nil {
			return err
		}
	}
	return nil
}

// readZeros checks what aligns a chunk: a pack has nothing that its name does not vouch for.
func readZeros(f *os.File, from, to int64) error {
	if from == to {
		return nil
	}
	b := make([]byte, to-from)
	if _, err := f.ReadAt(b, from); err != nil {
		return err
	}
	if len(bytes.Trim(b, "\x00")) > 0 {
		return fmt.Errorf("%w: the pack has content between its chunks, at %d", replication.ErrBadHash, from)
	}
	return nil
}

// PacksFor lists packs that together hold the missing chunks: a pack of the
// store as it is where all its chunks are missing, and temporary packs for the
// rest. Call cleanup when they are shipped, also after an error (never nil).
func (s *Store) PacksFor(missing []replication.Hash) (packs []PackFile, cleanup func(), err error) {
	w := &PackWriter{s: s, keep: true}
	cleanup = func() {
		w.Abort()
		for _, p := range w.sealed {
			if err := os.Remove(p.Path); err != nil {
				s.log.Warn("a temporary pack stays until it is swept", "path", p.Path, "error", err)
			}
		}
		w.sealed = nil
	}
	packs, rest, err := s.wholePacks(missing)
	if err != nil {
		return nil, cleanup, err
	}
	for _, loc := range rest {
		stored, err := readStored(loc)
		if err != nil {
			return nil, cleanup, loc.damaged(err)
		}
		if _, err := s.codec.unpack(stored, loc.chunk()); err != nil {
			return nil, cleanup, &DamagedPack{loc.pack.hash, err}
		}
		if err := w.put(loc.chunk(), stored, nil, 0); err != nil {
			return nil, cleanup, err
		}
	}
	temp, err := w.Seal()
	return append(packs, temp...), cleanup, err
}

// wholePacks finds packs all of whose chunks are wanted, and where the other
// wanted chunks are, in pack order.
func (s *Store) wholePacks(missing []replication.Hash) (whole []PackFile, rest []where, err error) {
	type some struct {
		is    []bool // by chunk; there may be as many as a service has files
		count int
	}
	wanted := map[*pack]*some{}
	var order []*pack
	var lost error
	err = s.index.finding(func(find func(replication.Hash) (where, bool)) {
		for _, h := range missing {
			w, ok := find(h)
			if !ok {
				lost = fmt.Errorf("chunk %s: %w", h, replication.ErrNotFound)
				continue
			}
			if wanted[w.pack] == nil {
				order, wanted[w.pack] = append(order, w.pack), &some{is: make([]bool, len(w.pack.chunks))}
			}
			if of := wanted[w.pack]; !of.is[w.at] {
				of.is[w.at] = true
				of.count++
			}
		}
	})
	if err = errors.Join(err, lost); err != nil {
		return nil, nil, err
	}
	for _, p := range order {
		of := wanted[p]
		if of.count == len(p.chunks) {
			whole = append(whole, PackFile{Hash: p.hash, Path: p.path(), Size: p.size, parts: s.origins.get(p.hash)})
			continue
		}
		for at, is := range of.is {
			if is {
				rest = append(rest, where{p, at})
			}
		}
	}
	return whole, rest, nil
}
