package store

import (
	"errors"
	"os"
	"sort"
	"sync"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// A pack that shares blocks with a clone has nothing of them in memory, and the live file that was
// cloned mostly has all of it: a pack that is sent soon after it was made is read through that file
// while it has not changed. What is remembered for it is nothing to rely on.

// part is a part of a pack that a live file has too.
type part struct {
	at, length int64 // in the pack, bytes
	origin     tree.Origin
	from       int64 // in the origin
}

// maxParts bounds what is remembered of packs: a gigabyte of large files has some ten to
// a thousand.
const maxParts = 1 << 16

// origins remembers the parts of packs made of late.
type origins struct {
	mu    sync.Mutex // guards what follows
	of    map[replication.Hash][]part
	order []replication.Hash // the oldest first
	parts int
}

func (o *origins) note(h replication.Hash, parts []part) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(parts) == 0 || o.of[h] != nil {
		return
	}
	if o.of == nil {
		o.of = map[replication.Hash][]part{}
	}
	o.of[h] = parts
	o.order = append(o.order, h)
	for o.parts += len(parts); o.parts > maxParts && len(o.order) > 1; o.order = o.order[1:] {
		o.parts -= len(o.of[o.order[0]])
		delete(o.of, o.order[0])
	}
}

func (o *origins) get(h replication.Hash) []part {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.of[h]
}

// noteShared notes that the last n bytes of p came from twin at offset from.
func (p *openedPack) noteShared(n int64, twin *tree.Twin, from int64) {
	if n == 0 || twin.Origin == (tree.Origin{}) {
		return
	}
	next := part{at: p.at - n, length: n, origin: twin.Origin, from: from}
	if k := len(p.parts) - 1; k >= 0 {
		last := &p.parts[k]
		if last.origin == next.origin && last.at+last.length == next.at && last.from+last.length == next.from {
			last.length += n
			return
		}
	}
	p.parts = append(p.parts, next)
}

// PackReader reads a pack. For one goroutine.
type PackReader struct {
	f     *os.File
	parts []part
	live  map[int]*tree.Live // of the parts that were come to; nil: not to be used, or done with
}

// Live says whether live files have parts of the pack, or had them when it was made.
func (p PackFile) Live() bool { return len(p.parts) > 0 }

// Open opens the pack to be read, through live files where those have the same; else from its
// own file. Close it.
func (p PackFile) Open() (*PackReader, error) {
	f, err := os.Open(p.Path)
	if err != nil {
		return nil, err
	}
	return &PackReader{f: f, parts: p.parts, live: map[int]*tree.Live{}}, nil
}

// ReadAt reads from the pack.
func (r *PackReader) ReadAt(b []byte, at int64) (n int, err error) {
	for len(b) > 0 {
		k := sort.Search(len(r.parts), func(i int) bool { return r.parts[i].at+r.parts[i].length > at })
		some, live := b, false
		if k < len(r.parts) {
			p := r.parts[k]
			if live = p.at <= at; live {
				some = b[:min(int64(len(b)), p.at+p.length-at)]
			} else {
				some = b[:min(int64(len(b)), p.at-at)]
			}
		}
		if !live || !r.readLive(k, some, at) {
			got, err := r.f.ReadAt(some, at)
			if err != nil {
				return n + got, err
			}
		}
		n, at, b = n+len(some), at+int64(len(some)), b[len(some):]
	}
	return n, nil
}

// readLive reads from part k's live file, if that can be.
func (r *PackReader) readLive(k int, b []byte, at int64) bool {
	p := r.parts[k]
	if _, ok := r.live[k]; !ok {
		r.live[k], _ = p.origin.Open() // or the pack's own file is read
	}
	if r.live[k] == nil {
		return false
	}
	_, err := r.live[k].ReadAt(b, p.from+at-p.at)
	if err != nil || at+int64(len(b)) == p.at+p.length { // done with it, or it has changed
		_ = r.live[k].Close() // read only
		r.live[k] = nil
	}
	return err == nil
}

// Close closes the pack.
func (r *PackReader) Close() error {
	errs := []error{r.f.Close()}
	for _, l := range r.live {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}
