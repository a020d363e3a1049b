package apply

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return b
}

// TestNoRoomForTheLiveData: a generation that the tree's file system has no room for is not
// begun: the tree stays at the one before, exactly, and goes on when there is.
func TestNoRoomForTheLiveData(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	r := newRig(t, t.TempDir())
	treetest.Must(t, unix.Mount("understudy-test", r.dst, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { _ = unix.Unmount(r.dst, unix.MNT_DETACH) })
	in := inside(r.src)
	treetest.Write(t, in("kept"), noise(1, 4<<20))
	treetest.Write(t, in("goes"), noise(2, 6<<20))
	r.cycle(t)
	before := r.base

	treetest.Write(t, in("more"), noise(3, 8<<20))
	settle()
	if !r.capture(t) {
		t.Fatal("nothing changed")
	}
	r.ship(t)
	if _, err := r.applier.Apply(context.Background(), r.base.ID, r.roots()); !errors.Is(err, replication.ErrNoSpace) {
		t.Fatalf("%v", err)
	}
	full := r.base
	r.base = before
	r.check(t)
	r.base = full

	treetest.Must(t, os.Remove(in("goes"))) // what goes makes room for what comes
	settle()
	r.cycle(t)
	treetest.Must(t, os.Remove(in("more")))
	treetest.Write(t, in("kept"), noise(4, 4<<20)) // both are there for a moment
	settle()
	r.cycle(t)
}
