package apply

import (
	"os"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// After a takeover that had to begin with an index of another generation, the index
// holds only what the last apply touched. What is removed by the new active must
// not stay in its generations.
func TestRemovalsAfterAPartialIndex(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			r := newRig(t, treetest.Mount(t, fs))
			treetest.Must(t, os.MkdirAll(r.src+"/dir/deep", 0o755))
			for _, name := range []string{"/pid", "/dir/a", "/dir/deep/b", "/stays"} {
				treetest.Write(t, r.src+name, []byte(name))
			}
			settle()
			r.cycle(t)
			r.reopen(t) // killed: what index there was is of the generation before, or none
			treetest.Must(t, os.RemoveAll(r.dir+"/state/index"))
			treetest.Write(t, r.src+"/dir/deep/c", []byte("c"))
			settle()
			r.cycle(t)
			x := r.applier.Index()
			if x == nil || x.Volumes["data"].Len() >= r.base.Volumes[0].Entries.Len() {
				t.Fatal("the index is whole: this tests nothing")
			}
			// The standby becomes the active.
			treetest.Must(t, r.applier.SetApplied(replication.ID{}))
			r.src, r.dst = r.dst, r.src
			r.index = r.applier.Index()
			treetest.Must(t, os.Remove(r.src+"/pid"))
			treetest.Must(t, os.RemoveAll(r.src+"/dir"))
			settle()
			if !r.capture(t) {
				t.Fatal("the removals were not seen")
			}
			for _, gone := range []string{"pid", "dir", "dir/a", "dir/deep", "dir/deep/b", "dir/deep/c"} {
				if r.base.Volumes[0].Entries.Get(gone) != nil {
					t.Errorf("%s is still in the generation", gone)
				}
			}
			if r.base.Volumes[0].Entries.Get("stays") == nil {
				t.Error("what stayed is gone")
			}
		})
	}
}
