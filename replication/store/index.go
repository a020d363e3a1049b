package store

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

const packSuffix = ".pack"

// pack is a verified pack of the store.
type pack struct {
	hash   replication.Hash
	dir    string
	size   int64
	chunks []packChunk // empty when its index cannot be read
	look   uint64      // of the index, that saw it last
}

func (p *pack) path() string { return filepath.Join(p.dir, packName(p.hash)) }

// chunkIndex knows the packs directory. Another process may add or sweep
// packs, so it looks again whenever the directory's mtime says so.
type chunkIndex struct {
	dir string
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	packs  map[replication.Hash]*pack
	chunks chunkTable
	mtime  time.Time // of the directory at the last scan
	at     time.Time // of the last scan
	looked time.Time // when has looked last
	looks  uint64    // at the directory, so far
	losses uint64    // how often packs went, or could not be read
}

// racy is how close to a scan a directory's change may be and still get the
// same mtime as a change after the scan: several ticks of the slowest kernel clock.
const racy = 50 * time.Millisecond

// refreshLocked brings the index up to date with the directory.
func (x *chunkIndex) refreshLocked() error {
	fi, err := os.Stat(x.dir)
	if err != nil {
		return err
	}
	if x.packs != nil && fi.ModTime().Equal(x.mtime) && x.mtime.Before(x.at.Add(-racy)) {
		return nil
	}
	now := time.Now()
	d, err := os.Open(x.dir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	if x.packs == nil {
		x.packs, x.chunks = map[replication.Hash]*pack{}, newChunkTable()
	}
	x.looks++
	for _, name := range names {
		h, err := parsePackName(name)
		if err != nil {
			continue
		}
		if p, ok := x.packs[h]; ok {
			p.look = x.looks
			continue
		}
		p, err := openPack(x.dir, h)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil { // its chunks count as missing and will be sent again
			x.losses++
			x.log.Error("a pack of the store cannot be read; its content counts as missing", "pack", name, "error", err)
		}
		p.look = x.looks
		x.addLocked(p)
	}
	x.dropLocked()
	x.mtime, x.at = fi.ModTime(), now
	return nil
}

func (x *chunkIndex) addLocked(p *pack) {
	x.packs[p.hash] = p
	x.chunks.add(p)
}

// dropLocked forgets packs that the last look did not see. A chunk may be in several packs, so
// the map is made anew.
func (x *chunkIndex) dropLocked() {
	gone := false
	for h, p := range x.packs {
		if p.look != x.looks {
			delete(x.packs, h)
			gone = true
		}
	}
	if !gone {
		return
	}
	x.losses++
	x.chunks = newChunkTable()
	for _, p := range x.packs {
		x.addLocked(p)
	}
}

// find says where a chunk is, after a look at the directory.
func (x *chunkIndex) find(h replication.Hash) (where, bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.refreshLocked(); err != nil {
		return where{}, false, err
	}
	w, ok := x.chunks.find(h)
	return w, ok, nil
}

// lately is how long ago a look at the directory may be for what can do without its latest.
const lately = 100 * time.Millisecond

// has says whether a chunk was there lately: to save storing it once more. What commits looks
// itself.
func (x *chunkIndex) has(h replication.Hash) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if now := time.Now(); x.packs == nil || now.Sub(x.looked) > lately {
		if x.refreshLocked() != nil {
			return false
		}
		x.looked = now
	}
	_, ok := x.chunks.find(h)
	return ok
}

// look brings the index up to date.
func (x *chunkIndex) look() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refreshLocked()
}

// lost changes when packs were lost, after a look at the directory; never 0.
func (x *chunkIndex) lost() (uint64, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.refreshLocked()
	return x.losses + 1, err
}

// finding is find for many, with one look at the directory. f must not use the index in another way.
func (x *chunkIndex) finding(f func(find func(replication.Hash) (where, bool))) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.refreshLocked(); err != nil {
		return err
	}
	f(x.chunks.find)
	return nil
}

// all lists the packs, after a look at the directory.
func (x *chunkIndex) all() ([]*pack, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.refreshLocked(); err != nil {
		return nil, err
	}
	ps := make([]*pack, 0, len(x.packs))
	for _, p := range x.packs {
		ps = append(ps, p)
	}
	return ps, nil
}

// forget makes the next look a full one.
func (x *chunkIndex) forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.packs, x.chunks = nil, chunkTable{}
	x.losses++
}

func packName(h replication.Hash) string { return h.String() + packSuffix }

func parsePackName(name string) (replication.Hash, error) {
	text, ok := strings.CutSuffix(name, packSuffix)
	if !ok {
		return replication.Hash{}, replication.ErrFormat
	}
	return ParseHash(text)
}

// openPack reads a pack's index. With an error it still gives a pack, without chunks.
func openPack(dir string, h replication.Hash) (*pack, error) {
	p := &pack{hash: h, dir: dir}
	f, err := os.OpenFile(p.path(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return p, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return p, err
	}
	p.size = fi.Size()
	p.chunks, err = readPackIndex(f, p.size)
	return p, err
}
