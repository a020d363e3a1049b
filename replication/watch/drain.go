package watch

import (
	"errors"

	"golang.org/x/sys/unix"
)

// drain empties the queue, as far as it was filled when it was called. With
// look it also makes sure that the roots are what is watched.
func (w *Watcher) drain(look bool) {
	var s *view
	defer func() { s.close() }()
	if look {
		s = w.view()
	}
	// One more than the queue holds: the last one says that it was full. And no
	// more: a busy neighbour must not keep us here.
	for read := 0; read <= w.queue; {
		n, err := unix.Read(w.group, w.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			w.unsure("reading change notifications failed", err)
			return
		}
		if s == nil {
			s = w.view()
		}
		events, err := s.take(w.buf[:n])
		if err != nil {
			w.unsure("a change notification cannot be understood", err)
		}
		read += events
	}
}

// unsure makes every volume be looked at as a whole.
func (w *Watcher) unsure(why string, err error) {
	told := false
	for _, v := range w.volumes {
		told = told || v.hints.All
		v.hints.all()
	}
	clear(w.places) // a rename may be among what is not known
	if !told {
		w.log.Warn(why+"; the next capture looks at every file", "err", err)
	}
}

var errOverflow = errors.New("the kernel's queue was full")

// take goes through what one read gave, and says how many events that was.
func (s *view) take(b []byte) (events int, err error) {
	for len(b) > 0 {
		var e event
		if e, b, err = next(b); err != nil {
			return events, err
		}
		events++
		switch {
		case e.mask&unix.FAN_Q_OVERFLOW != 0:
			s.w.unsure("changes came faster than they could be noted", errOverflow)
		case e.dir == nil:
			s.w.unsure("a change was told without its place", errMalformed)
		default:
			s.note(e)
		}
	}
	return events, nil
}

const (
	entries = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO
	arrival = unix.FAN_CREATE | unix.FAN_MOVED_TO
	renamed = unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO
)

// note adds an event to the hints of the volumes that it is in.
func (s *view) note(e event) {
	isDir := e.mask&unix.FAN_ONDIR != 0
	if isDir && e.mask&renamed != 0 {
		// What is remembered may lie elsewhere now. Where something was noted by its
		// old place before this was known, the tree that is noted here covers it.
		clear(s.w.places)
	}
	for _, p := range s.find(e) {
		h := &p.volume.hints
		if p.next != "" {
			// Above the root: did the way to it change?
			if e.mask&entries != 0 && p.next == string(e.name) {
				h.all()
			}
			continue
		}
		if e.mask&entries != 0 {
			s.w.path = append(s.w.path[:0], p.rel...)
			h.add(s.w.path, false) // its times and its link count
		}
		s.w.path = join(s.w.path[:0], p.rel, e.name)
		h.add(s.w.path, isDir && e.mask&arrival != 0)
	}
}

// join appends to b the path of name in the directory rel.
func join(b []byte, rel string, name []byte) []byte {
	switch {
	case string(name) == ".":
		return append(b, rel...)
	case rel == ".":
		return append(b, name...)
	}
	return append(append(append(b, rel...), '/'), name...)
}
