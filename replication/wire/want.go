package wire

import (
	"bytes"
	"fmt"
	"sync"
)

// want is the file a sender writes its hashes to; closing it works out the
// answer, which reading the same path in the same session gives back.
type want struct {
	session *session
	service *service
	path    string
	release func()

	mu  sync.Mutex // guards the rest
	buf []byte
}

// WriteAt takes writes in any order: they are few and small.
func (w *want) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	const most = maxWant * int64(hashLine)
	if off > most || int64(len(p)) > most-off {
		return 0, w.session.refused("write", w.path, fmt.Errorf("%w: more than %d hashes at once", ErrTooLarge, maxWant))
	}
	if end := int(off) + len(p); end > len(w.buf) {
		w.buf = append(w.buf, make([]byte, end-len(w.buf))...)
	}
	copy(w.buf[off:], p)
	return len(p), nil
}

// Close answers. A hole reads as zero bytes, and so as no hash: refused.
func (w *want) Close() error {
	defer w.release()
	w.mu.Lock()
	defer w.mu.Unlock()
	hs, err := parseHashes(bytes.NewReader(w.buf), maxWant)
	if err == nil {
		hs, err = w.service.Missing(hs)
	}
	if err != nil {
		return w.session.refused("want", w.path, err)
	}
	w.session.mu.Lock()
	defer w.session.mu.Unlock()
	w.service.wanted = formatHashes(hs)
	return nil
}
