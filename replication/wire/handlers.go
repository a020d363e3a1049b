package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkg/sftp"
)

// The handlers below are all of the virtual file system. pkg/sftp calls them
// for every request, from several goroutines; paths arrive cleaned and absolute.
var (
	_ sftp.FileReader           = (*session)(nil)
	_ sftp.FileWriter           = (*session)(nil)
	_ sftp.PosixRenameFileCmder = (*session)(nil)
	_ sftp.LstatFileLister      = (*session)(nil)
	_ sftp.ReadlinkFileLister   = (*session)(nil)
)

// Fileread opens state, or the answer to a want. Nothing else can be read: a
// sender's key is no key to the data that other nodes have sent.
func (s *session) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	if err := s.o.Hook.At("read " + r.Filepath); err != nil {
		return nil, s.refused("read", r.Filepath, err)
	}
	b, err := s.document(r.Filepath)
	if err != nil {
		return nil, s.refused("read", r.Filepath, err)
	}
	release, err := s.acquire()
	if err != nil {
		return nil, s.refused("read", r.Filepath, err)
	}
	return &document{Reader: bytes.NewReader(b), release: release}, nil
}

// document makes the content of a readable path.
func (s *session) document(path string) ([]byte, error) {
	n, err := resolve(path)
	if err != nil {
		return nil, err
	}
	if n.kind != kindState && n.kind != kindWant {
		return nil, fmt.Errorf("%w: only state and want can be read", ErrNotAllowed)
	}
	sv, err := s.store(n.service)
	if err != nil {
		return nil, err
	}
	if n.kind == kindWant {
		s.mu.Lock()
		defer s.mu.Unlock()
		return sv.wanted, nil
	}
	st, err := sv.State()
	if err != nil {
		return nil, err
	}
	return st.JSON()
}

// document is a small file held in memory.
type document struct {
	*bytes.Reader
	release func()
}

func (d *document) Close() error {
	d.release()
	return nil
}

// Filewrite opens want, or a file in incoming.
func (s *session) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	w, err := s.write(r)
	if err != nil {
		return nil, s.refused("write", r.Filepath, err)
	}
	return w, nil
}

func (s *session) write(r *sftp.Request) (io.WriterAt, error) {
	n, err := resolve(r.Filepath)
	if err != nil {
		return nil, err
	}
	upload := n.dir == dirIncoming && n.kind != kindDir
	if !upload && n.kind != kindWant {
		return nil, fmt.Errorf("%w: only want and files in incoming can be written", ErrNotAllowed)
	}
	sv, err := s.store(n.service)
	if err == nil {
		err = s.o.Hook.At("open " + r.Filepath)
	}
	if err != nil {
		return nil, err
	}
	release, err := s.acquire()
	if err != nil {
		return nil, err
	}
	if n.kind == kindWant {
		return &want{session: s, service: sv, path: r.Filepath, release: release}, nil
	}
	u, err := s.upload(sv, n, r.Pflags(), release)
	if err != nil {
		release()
		return nil, err
	}
	return u, nil
}

// upload opens a file in incoming at its present size, or empty when the
// sender begins anew.
func (s *session) upload(sv *service, n node, flags sftp.FileOpenFlags, release func()) (_ *upload, err error) {
	root, err := os.OpenRoot(sv.IncomingDir())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	mode := os.O_RDWR
	if flags.Creat {
		mode |= os.O_CREATE
	}
	if flags.Excl {
		mode |= os.O_EXCL
	}
	f, err := lockIncoming(root, n.base, mode)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	// Only now that the file is ours: O_TRUNC would have emptied somebody else's.
	if flags.Trunc {
		if err := f.Truncate(0); err != nil {
			return nil, err
		}
	}
	u := &upload{f: f, limit: s.limit(n.kind), minFree: s.o.MinFree, minFiles: s.o.MinFiles, stall: s.o.StallTimeout, hook: s.o.Hook, release: release}
	return u, u.begin()
}

func (s *session) limit(k kind) int64 {
	switch k {
	case kindPack:
		return s.o.MaxPack
	case kindImage:
		return s.o.MaxImage
	default:
		return s.o.MaxManifest
	}
}

// Filecmd has one verb, the rename that accepts; the rest is refused.
func (s *session) Filecmd(r *sftp.Request) error {
	path := r.Filepath
	if r.Target != "" {
		path += " -> " + r.Target
	}
	if r.Method != "Rename" {
		err := fmt.Errorf("%w: this store only grows; there is no %s", ErrNotAllowed, strings.ToLower(r.Method))
		return s.refused(strings.ToLower(r.Method), path, err)
	}
	return s.refused("rename", path, s.accept(r.Filepath, r.Target))
}

// PosixRename is the same as Rename: neither ever replaces anything.
func (s *session) PosixRename(r *sftp.Request) error {
	return s.Filecmd(&sftp.Request{Method: "Rename", Filepath: r.Filepath, Target: r.Target})
}

// accept is the rename: it returns when what was sent is verified and durable.
func (s *session) accept(from, to string) error {
	n, err := resolve(from)
	if err != nil {
		return err
	}
	if n.dir != dirIncoming || n.kind == kindDir {
		return fmt.Errorf("%w: only files in incoming can be renamed", ErrNotAllowed)
	}
	if to != n.target() {
		return fmt.Errorf("%w: %s can become %s only", ErrNotAllowed, from, n.target())
	}
	sv, err := s.store(n.service)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(sv.IncomingDir())
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := lockIncoming(root, n.base, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close() // with it goes the lock, after the file has its new name
	if err := s.o.Hook.At("accept " + n.base); err != nil {
		return err
	}
	begun := time.Now()
	path := filepath.Join(sv.IncomingDir(), n.base)
	switch n.kind {
	case kindPack:
		err = sv.AcceptPack(path, n.hash)
	case kindManifest:
		err = sv.CommitEncoded(path, n.id)
	default:
		err = acceptImage(path, filepath.Join(sv.Dir(), dirImages), n, s.o.Hook)
	}
	if err != nil {
		return err
	}
	s.o.Logger.Info("accepted", "service", n.service, "file", n.base, "took", time.Since(begun))
	if n.kind != kindPack {
		s.o.Accepted(n.service)
	}
	return s.o.Hook.At("answer " + n.base)
}

// Filelist answers a directory, or one file's attributes.
func (s *session) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	l, err := s.list(r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fs.ErrNotExist // the one status a client needs as a code
	}
	if err != nil {
		return nil, s.refused(strings.ToLower(r.Method), r.Filepath, err)
	}
	return l, nil
}

// Lstat is Stat: there are no links.
func (s *session) Lstat(r *sftp.Request) (sftp.ListerAt, error) { return s.Filelist(r) }

// Readlink is refused: there are no links.
func (s *session) Readlink(path string) (string, error) {
	return "", s.refused("readlink", path, fmt.Errorf("%w: there are no links here", ErrNotAllowed))
}
