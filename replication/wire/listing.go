package wire

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/pkg/sftp"
)

// info is a virtual file's attributes. Times and owners of the real ones are
// nobody's business.
type info struct {
	name string
	size int64
	dir  bool
	at   time.Time
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return i.at }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o444
}

// listing is a directory, or a single file for a stat, held in memory.
type listing struct {
	infos   []os.FileInfo
	release func()
}

// ListAt copies from off on, as sftp.ListerAt wants it.
func (l *listing) ListAt(to []os.FileInfo, off int64) (int, error) {
	if off >= int64(len(l.infos)) {
		return 0, io.EOF
	}
	n := copy(to, l.infos[off:])
	if n < len(to) {
		return n, io.EOF
	}
	return n, nil
}

func (l *listing) Close() error {
	if l.release != nil {
		l.release()
	}
	return nil
}

// list answers List, Stat and Lstat.
func (s *session) list(r *sftp.Request) (*listing, error) {
	n, err := resolve(r.Filepath)
	if err != nil {
		return nil, err
	}
	var sv *service
	if n.kind != kindRoot {
		if sv, err = s.store(n.service); err != nil {
			return nil, err
		}
	}
	if r.Method != "List" {
		i, err := s.stat(sv, n)
		return &listing{infos: []os.FileInfo{i}}, err
	}
	infos, err := s.entries(sv, n)
	if err != nil {
		return nil, err
	}
	release, err := s.acquire()
	return &listing{infos: infos, release: release}, err
}

// stat is one node's attributes; fs.ErrNotExist where there is no such file.
// The size of a file in incoming is where its sender can go on.
func (s *session) stat(sv *service, n node) (info, error) {
	switch n.kind {
	case kindRoot:
		return info{name: "/", dir: true}, nil
	case kindService:
		return info{name: n.service, dir: true}, nil
	case kindDir:
		return info{name: n.dir, dir: true}, nil
	case kindState, kindWant:
		name := map[kind]string{kindState: "state", kindWant: "want"}[n.kind]
		b, err := s.document("/" + n.service + "/" + name)
		return info{name: name, size: int64(len(b))}, err
	}
	fi, err := os.Lstat(filepath.Join(realDir(sv, n.dir), n.base))
	if err != nil {
		return info{}, err
	}
	return info{name: n.base, size: fi.Size(), at: fi.ModTime()}, nil
}

// maxListed bounds a directory's listing.
const maxListed = 100_000

// entries lists a directory: of a real one, only the files with a name of ours.
func (s *session) entries(sv *service, n node) ([]os.FileInfo, error) {
	var infos []os.FileInfo
	switch n.kind {
	case kindRoot:
		names, err := s.o.Services()
		for _, name := range names {
			infos = append(infos, info{name: name, dir: true})
		}
		return infos, err
	case kindService:
		for _, k := range []kind{kindState, kindWant} {
			i, err := s.stat(sv, node{kind: k, service: n.service})
			if err != nil {
				return nil, err
			}
			infos = append(infos, i)
		}
		for _, d := range []string{dirIncoming, dirPacks, dirGenerations, dirImages} {
			infos = append(infos, info{name: d, dir: true})
		}
		return infos, nil
	case kindDir:
		d, err := os.Open(realDir(sv, n.dir))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // images is made with the first
		}
		if err != nil {
			return nil, err
		}
		defer d.Close()
		found, err := d.ReadDir(maxListed)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		for _, e := range found {
			m, err := resolve(path.Join("/", n.service, n.dir, e.Name()))
			if err != nil {
				continue
			}
			if i, err := s.stat(sv, m); err == nil {
				infos = append(infos, i)
			}
		}
		return infos, nil
	}
	return nil, fmt.Errorf("%w: not a directory", ErrNotAllowed)
}

// realDir is where a wire directory is on disk.
func realDir(sv *service, dir string) string {
	if dir == dirIncoming {
		return sv.IncomingDir()
	}
	return filepath.Join(sv.Dir(), dir)
}
