package apply

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// fake gives out manifests that no store would accept.
type fake map[replication.ID]*replication.Manifest

func (f fake) Load(id replication.ID) (*replication.Manifest, error) {
	if m := f[id]; m != nil {
		return m, nil
	}
	return nil, replication.ErrNotFound
}

func (f fake) Shares(replication.Hash, int64, int64, int64) (int64, error)          { return 0, nil }
func (f fake) Dir() string                                                          { return "/" }
func (f fake) Share(replication.Hash, int64, int64, *os.File, int64) (int64, error) { return 0, nil }

func (f fake) Get(replication.Hash) ([]byte, error) { return nil, replication.ErrNotFound }

// Whatever a manifest says and whatever is planted in the tree: nothing outside changes.
func TestNothingEscapes(t *testing.T) {
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	treetest.Must(t, os.Mkdir(root, 0o755))
	treetest.Must(t, os.Mkdir(outside, 0o755))
	treetest.Write(t, outside+"/victim", []byte("untouched"))
	top := replication.Entry{Path: ".", Type: replication.TypeDir, Mode: 0o755}
	file := func(p string) replication.Entry {
		return replication.Entry{Path: p, Type: replication.TypeFile, Mode: 0o777}
	}
	tests := map[string][]replication.Entry{
		"dot dot":         {file("../outside/victim")},
		"dot dot inside":  {file("x/../../outside/victim")},
		"absolute":        {file(outside + "/victim")},
		"through symlink": {{Path: "planted", Type: replication.TypeDir}, file("planted/victim")},
		"own symlink":     {{Path: "l", Type: replication.TypeSymlink, Target: outside}, file("l/victim")},
		"hard link out":   {{Path: "h", Type: replication.TypeFile, Link: "../outside/victim"}},
		"metadata":        {{Path: "planted", Type: replication.TypeDir, Mode: 0o700, UID: 1}},
	}
	before, err := os.Lstat(outside)
	treetest.Must(t, err)
	for name, entries := range tests {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", name, known), func(t *testing.T) {
				treetest.Must(t, os.RemoveAll(root+"/planted"))
				treetest.Must(t, os.Symlink(outside, root+"/planted"))
				v := func(es ...replication.Entry) []replication.Volume {
					return []replication.Volume{{Name: "data", Entries: listed(append([]replication.Entry{top}, es...))}}
				}
				one, two := replication.ID{Term: 1, Seq: 1}, replication.ID{Term: 1, Seq: 2}
				g := fake{
					// The tree is said to hold a directory where the symlink was planted.
					one: {ID: one, Volumes: v(replication.Entry{Path: "planted", Type: replication.TypeDir, Mode: 0o755}, file("planted/victim"))},
					two: {ID: two, Volumes: v(entries...)},
				}
				a, err := New(t.TempDir(), g, Options{})
				treetest.Must(t, err)
				if known {
					treetest.Must(t, a.SetApplied(one))
				}
				_, err = a.Apply(context.Background(), two, map[string]string{"data": root})
				t.Logf("apply: %v", err)
				b, err := os.ReadFile(outside + "/victim")
				if err != nil || string(b) != "untouched" {
					t.Fatalf("the victim: %q, %v", b, err)
				}
				after, err := os.Lstat(outside)
				treetest.Must(t, err)
				if after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
					t.Error("the directory outside changed")
				}
			})
		}
	}
}

// Paths that are too long for one system call are carried too.
func TestDeeperThanPathMax(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "xfs"))
	root, err := tree.OpenRoot(r.src)
	treetest.Must(t, err)
	p := "d"
	treetest.Must(t, root.Mkdir(p))
	for range 40 {
		p += "/" + strings.Repeat("n", 250)
		treetest.Must(t, root.Mkdir(p))
	}
	f, err := root.Create(p + "/bottom")
	treetest.Must(t, err)
	_, err = f.WriteString("deep down")
	treetest.Must(t, err)
	treetest.Must(t, f.Close())
	treetest.Must(t, root.Close())
	r.cycle(t)
	dst, err := tree.OpenRoot(r.dst)
	treetest.Must(t, err)
	treetest.Must(t, dst.RemoveAll("d"))
	treetest.Must(t, dst.Close())
	treetest.Must(t, r.applier.SetApplied(replication.ID{}))
	r.apply(t)
	r.check(t)
}

func listed(es []replication.Entry) *replication.Entries {
	out := replication.NewEntries()
	for i := range es {
		out.Set(&es[i])
	}
	return out
}
