package tree

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// origin is a file that says where it was read from, and a stand-in for its clone that
// says so too.
func origin(t *testing.T) (root *Root, o Origin, clone *os.File) {
	t.Helper()
	dir := t.TempDir()
	treetest.Write(t, filepath.Join(dir, "f"), []byte("live"))
	treetest.Write(t, filepath.Join(dir, "clone"), []byte("copy"))
	root, err := OpenRoot(dir)
	treetest.Must(t, err)
	st, err := root.Lstat("f")
	treetest.Must(t, err)
	clone, err = os.Open(filepath.Join(dir, "clone"))
	treetest.Must(t, err)
	t.Cleanup(func() { _, _ = root.Close(), clone.Close() })
	return root, Origin{Tree: dir, Path: "f", Stat: st}, clone
}

func says(t *testing.T, r io.ReaderAt) string {
	t.Helper()
	b := make([]byte, 4)
	if _, err := r.ReadAt(b, 0); err != nil {
		return err.Error()
	}
	return string(b)
}

// What happens to an origin after it was cloned.
var happenings = map[string]func(o Origin) error{
	"written": func(o Origin) error { return os.WriteFile(o.Tree+"/f", []byte("else"), 0o600) },
	"shorter": func(o Origin) error { return os.Truncate(o.Tree+"/f", 1) },
	"another": func(o Origin) error { return os.Rename(o.Tree+"/clone", o.Tree+"/f") },
	"gone":    func(o Origin) error { return os.Remove(o.Tree + "/f") },
	"a symlink": func(o Origin) error {
		return errors.Join(os.Rename(o.Tree+"/f", o.Tree+"/g"), os.Symlink("g", o.Tree+"/f"))
	},
	"a FIFO": func(o Origin) error { return errors.Join(os.Remove(o.Tree+"/f"), unix.Mkfifo(o.Tree+"/f", 0o600)) },
}

// A twin is read through its origin until that is not what it was, and through the clone
// from then on.
func TestTwin(t *testing.T) {
	for what, happens := range happenings {
		t.Run(what, func(t *testing.T) {
			root, o, clone := origin(t)
			src, err := root.Open("f")
			treetest.Must(t, err)
			defer src.Close()
			twin := NewTwin(clone, src, o)
			if got := says(t, twin); got != "live" || twin.Cold() {
				t.Fatalf("it read %q, cold %v", got, twin.Cold())
			}
			l, err := o.Open()
			treetest.Must(t, err)
			defer l.Close()
			if got := says(t, l); got != "live" {
				t.Fatalf("the origin reads as %q", got)
			}
			treetest.Must(t, happens(o))
			if got := says(t, twin); got != "copy" || !twin.Cold() {
				t.Errorf("it read %q afterwards, cold %v", got, twin.Cold())
			}
			if got := says(t, l); got == "live" || got == "else" {
				t.Errorf("the origin reads as %q afterwards", got)
			}
			if l, err := o.Open(); err == nil {
				if got := says(t, l); got == "live" || got == "copy" || got == "else" {
					t.Errorf("the origin opens afterwards and reads as %q", got)
				}
				treetest.Must(t, l.Close())
			}
		})
	}
	_, _, clone := origin(t)
	if cold := ColdTwin(clone); says(t, cold) != "copy" || !cold.Cold() {
		t.Error("a cold twin is not read from the clone")
	}
}

// ReadWhole gives what Meta and ReadChunks give, or says that it cannot.
func TestReadWhole(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		dir := treetest.Mount(t, fs)
		treetest.Corpus(t, dir)
		treetest.Write(t, dir+"/hole", []byte("data"))
		treetest.Must(t, os.Truncate(dir+"/hole", 100<<10))
		root, err := OpenRoot(dir)
		treetest.Must(t, err)
		defer root.Close()
		nodes, err := root.Scan(t.Context())
		treetest.Must(t, err)
		buf := make([]byte, 1<<20)
		read, sparse := 0, 0
		for _, n := range nodes {
			if n.Stat.Mode&unix.S_IFMT != unix.S_IFREG || n.Stat.Size > int64(len(buf)) {
				continue
			}
			want, err := root.Meta(n.Path, n.Stat)
			treetest.Must(t, err)
			e, data, err := root.ReadWhole(n.Path, n.Stat, buf)
			if errors.Is(err, errors.ErrUnsupported) {
				sparse++
				continue
			}
			treetest.Must(t, err)
			there, err := os.ReadFile(filepath.Join(dir, n.Path))
			treetest.Must(t, err)
			if !e.SameMeta(&want) || e.Type != want.Type || e.Size != want.Size || e.Path != want.Path || !bytes.Equal(data, there) {
				t.Errorf("%s: %q is read as %+v with %d bytes, want %+v with %d", fs, n.Path, e, len(data), want, len(there))
			}
			read++
		}
		if read == 0 || sparse == 0 {
			t.Errorf("%s: %d files were read and %d have holes: this tests too little", fs, read, sparse)
		}
	}
	for what, happens := range happenings {
		root, o, _ := origin(t)
		treetest.Must(t, happens(o))
		if _, data, err := root.ReadWhole("f", o.Stat, make([]byte, 8)); err == nil {
			t.Errorf("%s: it read %q", what, data)
		} else if what == "written" && !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
