package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options for New.
type Options struct {
	Logger *slog.Logger // default: discards
}

// Watcher gathers what the kernel tells of changes below the roots of volumes.
// Its methods may be called from several goroutines.
type Watcher struct {
	log   *slog.Logger
	group int // the fanotify group
	queue int // events that it holds at most
	stop  chan struct{}
	done  chan struct{}

	mu      sync.Mutex // guards the rest
	closed  bool
	volumes map[string]*volume
	places  map[string][]place // where directories are, by event.dir; see find
	buf     []byte             // one read's
	path    []byte             // scratch
}

// mask is what may change an entry: its content, its metadata, its being there.
// CLOSE_WRITE tells of stores through a mapping, late.
const mask = unix.FAN_MODIFY | unix.FAN_CLOSE_WRITE | unix.FAN_ATTRIB |
	unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO | unix.FAN_ONDIR

const (
	// interval is how often the queue is emptied when nobody takes. A longer one
	// lets more events of one name merge in the queue, a shorter one overflows
	// later: this one at 160,000 different names a second.
	interval = 100 * time.Millisecond

	bufLen       = 256 << 10
	defaultQueue = 16384
)

// New makes a Watcher of nothing. It needs Linux 5.9 and the rights of root in
// the machine's own user namespace; an error means that everything has to be
// scanned instead.
func New(o Options) (*Watcher, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	// UNLIMITED_MARKS takes the right that marks take, so that it is missed here.
	const flags = unix.FAN_CLASS_NOTIF | unix.FAN_REPORT_DFID_NAME | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK | unix.FAN_UNLIMITED_MARKS
	group, err := unix.FanotifyInit(flags, unix.O_CLOEXEC)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("watching for changes needs the capability CAP_SYS_ADMIN: run the agent as root (%w)", err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return nil, fmt.Errorf("this kernel does not tell the names of what changed, every capture looks at every file: Linux 5.9 or later avoids that (%w)", err)
	case err != nil:
		return nil, fmt.Errorf("fanotify_init: %w", err)
	}
	w := &Watcher{
		log: o.Logger, group: group, queue: queueLen(), stop: make(chan struct{}), done: make(chan struct{}),
		volumes: map[string]*volume{}, places: map[string][]place{}, buf: make([]byte, bufLen), path: make([]byte, unix.PathMax),
	}
	go w.keepUp()
	return w, nil
}

// queueLen is how many events a group holds before it overflows.
func queueLen() int {
	b, err := os.ReadFile("/proc/sys/fs/fanotify/max_queued_events")
	n, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || err2 != nil || n <= 0 {
		return defaultQueue
	}
	return n
}

// Add watches the volume's tree at root, an absolute path, instead of what was
// watched under that name. The first hint is to look at everything. An error
// means that changes there are not told: file systems without file handles or
// a stable ID.
func (w *Watcher) Add(name, root string) error {
	if !filepath.IsAbs(root) {
		return fmt.Errorf("watch volume %s: %s is not an absolute path", name, root)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("watch volume %s: %w", name, os.ErrClosed)
	}
	w.view().close() // notices what the mark made now would hide: see view
	v := &volume{name: name, root: filepath.Clean(root)}
	if err := w.attach(v); err != nil {
		return fmt.Errorf("watch volume %s: %w", name, err)
	}
	if old := w.volumes[name]; old != nil {
		w.removeLocked(old)
	}
	v.hints.all()
	w.volumes[name] = v
	clear(w.places)
	return nil
}

// Remove ends the watch on a volume; one that is not watched is a success.
func (w *Watcher) Remove(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := w.volumes[name]; v != nil {
		w.removeLocked(v)
	}
	return nil
}

// Take gives what was told since the last Take, and forgets it: every change
// whose system call had returned before. It does not wait for anything but
// another method's turn, and takes a microsecond for each event of the last
// 100 ms. After Close it knows nothing: all of every volume is to be looked at.
func (w *Watcher) Take() Hints {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.drain(true)
	}
	h := Hints{}
	for name, v := range w.volumes {
		if w.closed {
			v.hints.all()
		}
		if !v.hints.empty() {
			h[name] = v.hints
			v.hints = VolumeHints{}
		}
	}
	return h
}

// Close ends all watching. It may be called twice.
func (w *Watcher) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	close(w.stop)
	w.mu.Unlock()
	<-w.done
	return unix.Close(w.group)
}

// keepUp empties the queue between Takes, so that a busy neighbour on the file
// system does not make it overflow. By a clock, not when events arrive: one
// wake-up for each would cost more than the events do.
func (w *Watcher) keepUp() {
	defer close(w.done)
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-t.C:
			w.tick()
		}
	}
}

func (w *Watcher) tick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.drain(false)
	}
}
