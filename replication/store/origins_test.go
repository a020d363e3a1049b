package store

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// onXFS writes a pack that shares blocks with a clone of a file beside it.
func onXFS(t *testing.T) (s *Store, p PackFile, live string) {
	t.Helper()
	dir := treetest.Mount(t, "xfs")
	for _, d := range []string{"/store", "/data"} {
		treetest.Must(t, os.Mkdir(dir+d, 0o755))
	}
	s = open(t, dir+"/store", Options{})
	live = dir + "/data/f"
	content := noise(5, 3<<20+4096+17)
	treetest.Write(t, live, content)
	src, err := os.Open(live)
	treetest.Must(t, err)
	defer src.Close()
	clone, err := os.Create(dir + "/clone")
	treetest.Must(t, err)
	t.Cleanup(func() { _ = clone.Close() })
	if ok, err := tree.Clone(clone, src); !ok || err != nil {
		t.Fatalf("no clone: %v, %v", ok, err)
	}
	st, err := tree.FileStat(src)
	treetest.Must(t, err)
	twin := tree.NewTwin(clone, src, tree.Origin{Tree: dir + "/data", Path: "f", Stat: st})
	w := s.NewPack()
	text := bytes.Repeat([]byte("text "), 50_000)
	treetest.Must(t, w.Put(hashOf(text), text, nil, 0))
	for at := 0; at < len(content); at += replication.ChunkSize {
		c := content[at:min(at+replication.ChunkSize, len(content))]
		treetest.Must(t, w.Put(hashOf(c), c, twin, int64(at)))
	}
	ps, err := w.Seal()
	treetest.Must(t, err)
	if len(ps) != 1 || !ps[0].Live() || len(ps[0].parts) != 1 {
		t.Fatalf("%d packs, the first with %d parts", len(ps), len(ps[0].parts))
	}
	return s, ps[0], live
}

func readPack(t *testing.T, p PackFile) []byte {
	t.Helper()
	r, err := p.Open()
	treetest.Must(t, err)
	defer func() { treetest.Must(t, r.Close()) }()
	var out []byte
	b := make([]byte, 100_001) // across where the parts end
	for sr := io.NewSectionReader(r, 0, p.Size); ; {
		n, err := sr.Read(b)
		out = append(out, b[:n]...)
		if err == io.EOF {
			return out
		}
		treetest.Must(t, err)
	}
}

// A pack is read through the live file, and is the same when that has changed since, or
// while it is read.
func TestPackIsReadThroughTheLiveFile(t *testing.T) {
	s, p, live := onXFS(t)
	want, err := os.ReadFile(p.Path)
	treetest.Must(t, err)
	if got := readPack(t, p); !bytes.Equal(got, want) {
		t.Fatal("through the live file it reads as something else")
	}
	hs, err := p.Contents()
	treetest.Must(t, err)
	packs, cleanup, err := s.PacksFor(hs)
	treetest.Must(t, err)
	cleanup()
	if len(packs) != 1 || !packs[0].Live() {
		t.Error("the store does not know any more that the live file has it too")
	}
	// That it is really read through it: from a pack whose own file is not there for that part.
	hollow := filepath.Join(t.TempDir(), "hollow")
	b := bytes.Clone(want)
	clear(b[p.parts[0].at : p.parts[0].at+p.parts[0].length])
	treetest.Write(t, hollow, b)
	through := p
	through.Path = hollow
	if got := readPack(t, through); !bytes.Equal(got, want) {
		t.Error("it is not read through the live file")
	}
	r, err := p.Open()
	treetest.Must(t, err)
	defer r.Close()
	half := make([]byte, p.Size/2)
	_, err = r.ReadAt(half, 0)
	treetest.Must(t, err)
	f, err := os.OpenFile(live, os.O_WRONLY, 0)
	treetest.Must(t, err)
	_, err = f.WriteAt([]byte("changed"), 3<<20)
	treetest.Must(t, err)
	treetest.Must(t, f.Close())
	rest := make([]byte, p.Size-p.Size/2)
	_, err = r.ReadAt(rest, p.Size/2)
	treetest.Must(t, err)
	if !bytes.Equal(append(half, rest...), want) || !bytes.Equal(readPack(t, p), want) {
		t.Error("a change of the live file shows in what is read of the pack")
	}
}

// What is remembered of packs is bounded.
func TestOriginsAreForgotten(t *testing.T) {
	var o origins
	many := make([]part, maxParts/2)
	for i := range 5 {
		o.note(replication.Hash{byte(i)}, many)
	}
	if o.parts > maxParts || len(o.of) != len(o.order) || o.get(replication.Hash{0}) != nil || o.get(replication.Hash{4}) == nil {
		t.Errorf("%d parts of %d packs", o.parts, len(o.of))
	}
}
