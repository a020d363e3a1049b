package apply

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// Of a large file that compression does not help, neither node's disk holds more than
// one copy: pack and live file share their blocks. What is written to either live
// file afterwards is in that one only.
func TestOneCopyOnEachDisk(t *testing.T) {
	const size = 24<<20 + 777
	seed := [32]byte{3}
	used := func(t *testing.T, apart bool) (grown int64) {
		mnt := treetest.Mount(t, "xfs")
		r := newRigWith(t, mnt, store.Options{Apart: apart})
		noise := make([]byte, size)
		rng := rand.NewChaCha8(seed)
		_, _ = rng.Read(noise)
		treetest.Write(t, filepath.Join(r.src, "big"), noise)
		before := blocksUsed(t, mnt)
		sync := func() {
			t.Helper()
			r.capture(t)
			r.ship(t)
			_, err := r.applier.Apply(t.Context(), r.base.ID, r.roots())
			treetest.Must(t, err)
		}
		sync()
		grown = blocksUsed(t, mnt) - before

		// Whoever writes to one of the files changes neither the other nor a pack.
		patch(t, filepath.Join(r.src, "big"), 5<<20+11, []byte("written on the active node"))
		sync()
		patch(t, filepath.Join(r.dst, "big"), 9<<20, []byte("written by who was promoted"))
		treetest.Must(t, r.applier.SetApplied(replication.ID{}))
		_, err := r.applier.Apply(t.Context(), r.base.ID, r.roots())
		treetest.Must(t, err)
		treetest.Same(t, r.src, r.dst)
		return grown
	}
	shared, apart := used(t, false), used(t, true)
	// Apart: a pack on each node and the replica, beside the source. Together: a pack
	// that was copied over, which the replica shares.
	if lo, hi := int64(size), int64(size+size/4); shared < lo || shared > hi {
		t.Errorf("%d bytes more are used with shared blocks, want one copy of %d and a bit", shared, size)
	}
	if lo := int64(3 * size); apart < lo {
		t.Errorf("%d bytes more are used without sharing, want three copies of %d at least: the comparison shows nothing", apart, size)
	}
	t.Logf("disk for a file of %d bytes, beside the file: %d with shared blocks, %d without", size, shared, apart)
}

func blocksUsed(t testing.TB, dir string) int64 {
	t.Helper()
	f, err := os.Open(dir)
	treetest.Must(t, err)
	defer f.Close()
	treetest.Must(t, unix.Syncfs(int(f.Fd())))
	var st unix.Statfs_t
	treetest.Must(t, unix.Statfs(dir, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}
