package watch

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// view is the roots as they are during one drain.
type view struct {
	w       *Watcher
	mounts  map[fsid][]*mount
	located bool // the roots know their paths
}

// mount is a mount that roots are reached by, and paths are of.
type mount struct {
	id    int
	roots []*root
}

// root is a volume's, open.
type root struct {
	*volume
	fd   int
	path string // as the mount has it
}

// place is what a directory is to a volume: it is in it at rel, or lies above
// its root, on whose path next follows.
type place struct {
	volume *volume
	rel    string
	next   string
}

// maxPlaces is how many directories are remembered, the neighbours' included.
const maxPlaces = 10_000

// view opens the roots. Where there is something else than what is watched,
// the volume's hints become All, and what is there now is watched.
func (w *Watcher) view() *view {
	s := &view{w: w, mounts: map[fsid][]*mount{}}
	var lost []*volume
	for _, v := range w.volumes {
		if !s.open(v) {
			lost = append(lost, v)
		}
	}
	// Only now: a new mark would make the others' file system look watched.
	for _, v := range lost {
		v.hints.all()
		err := w.attach(v)
		switch {
		case err == nil:
			w.log.Info("a volume's directory was replaced; everything in it is looked at", "volume", v.name, "root", v.root)
		case !v.lost:
			w.log.Warn("a volume's directory cannot be watched; every capture looks at every file in it", "volume", v.name, "root", v.root, "err", err)
		}
		v.lost = err != nil
		clear(w.places)
	}
	return s
}

// open adds v's root to the view, if it is the one that is watched.
func (s *view) open(v *volume) bool {
	fd, is, err := openRoot(v.root)
	if err != nil {
		return false
	}
	if v.lost || !is.same(v.is) || !s.marked(v, fd) {
		_ = unix.Close(fd) // nothing was written
		return false
	}
	r := &root{volume: v, fd: fd}
	for _, m := range s.mounts[v.is.fs] {
		if m.id == is.mount {
			m.roots = append(m.roots, r)
			return true
		}
	}
	s.mounts[v.is.fs] = append(s.mounts[v.is.fs], &mount{id: is.mount, roots: []*root{r}})
	return true
}

// marked asks once for each file system: this is in a freeze, and a subvolume of btrfs is mounted for it.
func (s *view) marked(v *volume, fd int) bool {
	for _, m := range s.mounts[v.is.fs] {
		if slices.ContainsFunc(m.roots, func(r *root) bool { return r.is.dev == v.is.dev }) {
			return true
		}
	}
	return s.w.marked(fd)
}

func (s *view) close() {
	if s != nil {
		s.each(func(_ *mount, r *root) { _ = unix.Close(r.fd) }) // nothing was written
	}
}

func (s *view) each(f func(*mount, *root)) {
	for _, ms := range s.mounts {
		for _, m := range ms {
			for _, r := range m.roots {
				f(m, r)
			}
		}
	}
}

// locate finds the roots' paths, for the first event. Where one is not as it was
// the last time, nothing that is remembered of places counts.
func (s *view) locate() {
	s.located = true
	s.each(func(m *mount, r *root) {
		path, err := s.w.readlink(r.fd)
		if err != nil {
			r.hints.all()
			path = ""
		}
		if r.path = path; path != r.volume.path || m.id != r.volume.mount {
			r.volume.path, r.volume.mount = path, m.id
			clear(s.w.places)
		}
	})
}

// find says what an event's directory is to the volumes: most often nothing.
func (s *view) find(e event) []place {
	if !s.located {
		s.locate()
	}
	if p, ok := s.w.places[string(e.dir)]; ok {
		return p
	}
	var ps []place
	fs, h := e.handle()
	for _, m := range s.mounts[fs] {
		path, err := s.w.pathOf(m.roots[0].fd, h)
		if errors.Is(err, unix.ESTALE) {
			continue // it is gone: what its parent told covers it
		}
		for _, r := range m.roots {
			if err != nil { // too long a path, no memory, …
				r.hints.all()
			} else if p, ok := r.place(path); ok {
				ps = append(ps, p)
			}
		}
		if err != nil {
			return nil // and ask again the next time
		}
	}
	if len(s.w.places) >= maxPlaces {
		clear(s.w.places)
	}
	s.w.places[string(e.dir)] = ps
	return ps
}

// pathOf is the path of the directory that h is the handle of. One that was
// removed and is still in use has a path nobody knows, which harms nobody.
func (w *Watcher) pathOf(mount int, h unix.FileHandle) (string, error) {
	fd, err := unix.OpenByHandleAt(mount, h, unix.O_PATH|unix.O_CLOEXEC)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.OpenByHandleAt(mount, h, unix.O_PATH|unix.O_CLOEXEC)
	}
	if err != nil {
		return "", err
	}
	path, err := w.readlink(fd)
	return path, errors.Join(err, unix.Close(fd))
}

// readlink is the path of an open directory.
func (w *Watcher) readlink(fd int) (string, error) {
	b := w.path[:cap(w.path)]
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), b)
	if err == nil && n == len(b) {
		err = unix.ENAMETOOLONG // it may be cut off
	}
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// place says what the directory at path is to the volume.
func (r *root) place(path string) (place, bool) {
	if r.path == "" {
		return place{}, false
	}
	if path == r.path {
		return place{volume: r.volume, rel: "."}, true
	}
	if rel, ok := below(path, r.path); ok {
		return place{volume: r.volume, rel: rel}, true
	}
	if rest, ok := below(r.path, path); ok {
		next, _, _ := strings.Cut(rest, "/")
		return place{volume: r.volume, next: next}, true
	}
	return place{}, false
}

// below is path as seen from dir, if it is in there.
func below(path, dir string) (string, bool) {
	rest, ok := strings.CutPrefix(path, dir)
	if ok && dir == "/" {
		return rest, rest != ""
	}
	if !ok || !strings.HasPrefix(rest, "/") {
		return "", false
	}
	return rest[1:], true
}
