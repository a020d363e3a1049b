package store

import (
	"errors"
	"os"
	"sync"
	"time"
)

// openPacks keeps the packs open that were read last: whoever applies a generation reads
// thousands of small chunks from one. A pack that another process sweeps takes its room
// until it is closed here, so none stays open that nobody reads.
type openPacks struct {
	mu     sync.Mutex // guards what follows
	files  map[*pack]*os.File
	used   bool        // since the timer ran last
	timer  *time.Timer // nil: nothing is open
	closed bool        // for good
}

const (
	openAtMost = 8
	openIdle   = time.Second // without any read
)

// read reads a chunk's stored form.
func (o *openPacks) read(w where) ([]byte, error) {
	b := make([]byte, w.chunk().stored)
	f, err := o.open(w.pack)
	if err == nil {
		_, err = f.ReadAt(b, w.chunk().offset())
	}
	if errors.Is(err, os.ErrClosed) { // by a reader of other packs, by the timer, or for good
		return readStored(w)
	}
	return b, err
}

func (o *openPacks) open(p *pack) (*os.File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.used = true
	if f := o.files[p]; f != nil {
		return f, nil
	}
	if o.closed { // nobody would close it
		return nil, os.ErrClosed
	}
	f, err := os.Open(p.path())
	if err != nil {
		return nil, err
	}
	if len(o.files) >= openAtMost {
		o.closeLocked()
	}
	if o.files == nil {
		o.files = map[*pack]*os.File{}
	}
	o.files[p] = f
	if o.timer == nil {
		o.timer = time.AfterFunc(openIdle, o.idle)
	}
	return f, nil
}

// idle closes all that is open when nothing was read since it was called last.
func (o *openPacks) idle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	if o.used {
		o.used = false
		o.timer.Reset(openIdle)
		return
	}
	o.closeLocked()
	o.timer = nil
}

func (o *openPacks) closeLocked() {
	for p, f := range o.files {
		_ = f.Close() // only read
		delete(o.files, p)
	}
}

// forget closes all: a pack may have been replaced by one of the same name.
func (o *openPacks) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closeLocked()
}

// close is forget for good.
func (o *openPacks) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.closeLocked()
	if o.timer != nil {
		o.timer.Stop()
	}
}
