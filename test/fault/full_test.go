package fault

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

// memory is a file system in memory whose size is set, so that it is full at any page.
type memory struct {
	dir string
}

func newMemory(t testing.TB) *memory {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a file system that is full needs root; run the tests as root")
	}
	m := &memory{dir: t.TempDir()}
	must(t, unix.Mount("small", m.dir, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(m.dir, unix.MNT_DETACH)) })
	return m
}

// leave leaves so many pages free.
func (m *memory) leave(t testing.TB, pages uint64) {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(m.dir, &st))
	m.resize(t, (st.Blocks-st.Bfree+pages)*uint64(st.Bsize))
}

// widen gives room again.
func (m *memory) widen(t testing.TB) {
	t.Helper()
	m.resize(t, 256<<20)
}

func (m *memory) resize(t testing.TB, size uint64) {
	t.Helper()
	must(t, unix.Mount("small", m.dir, "tmpfs", unix.MS_REMOUNT, "size="+strconv.FormatUint(size, 10)))
}

// TestDiskFullAtEveryWrite has the active's, then the standby's disk full after any number
// of pages, until the cycle fits.
func TestDiskFullAtEveryWrite(t *testing.T) {
	for _, process := range []replication.Process{replication.Sender, replication.Receiver, replication.Applier} {
		t.Run(string(process), func(t *testing.T) {
			m := newMemory(t)
			roomy, tight := t.TempDir(), m.dir
			if process == replication.Sender {
				roomy, tight = tight, roomy
			}
			p := newPair(t, newNode(t, filepath.Join(roomy, "n1")), newNode(t, filepath.Join(tight, "n2")), plant)
			p.contain()
			time.Sleep(300 * time.Millisecond) // what is at rest is not set aside, which takes as many pages as it has
			fits := false
			for pages := uint64(0); !fits; pages++ {
				if pages > 200 {
					t.Fatal("it never fits")
				}
				if fits = p.fullAt(process, m, pages); t.Failed() {
					t.Fatalf("with %d pages free", pages)
				}
			}
		})
	}
}

// fullAt runs a cycle with so many pages free for one process; whether that was enough.
func (p *pair) fullAt(process replication.Process, m *memory, pages uint64) bool {
	p.t.Helper()
	p.cycle++
	write(p.t, filepath.Join(p.n1.tree(), "new"), noise(p.cycle, 6000)) // a page or two
	var err error
	switch process {
	case replication.Sender, replication.Receiver:
		m.leave(p.t, pages)
		err = p.cycleOver(p.sshd.client)
	case replication.Applier:
		p.sealHome()
		must(p.t, p.shipped())
		m.leave(p.t, pages)
		err = p.n2.withEngine(nil, p.n2.apply)
	}
	// Full as it is, what was committed can be read.
	p.n1.withStore(p.t, func(s *store.Store) { whole(p.t, s) })
	p.n2.withStore(p.t, func(s *store.Store) { whole(p.t, s) })
	m.widen(p.t)
	if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, wire.ErrNoSpace) {
		p.t.Errorf("a full disk is reported as: %v", err)
	}
	p.check()
	p.heal()
	return err == nil
}

// TestFloorOfTheReceiver: below its floor of free space the receiver takes nothing, so that
// what it has can go on being used.
func TestFloorOfTheReceiver(t *testing.T) {
	m := newMemory(t)
	p := newPair(t, newNode(t, filepath.Join(t.TempDir(), "n1")), newNode(t, filepath.Join(m.dir, "n2")), plant)
	p.sshd.set(func() { p.sshd.tune = func(o *wire.ServerOptions) { o.MinFree = 0 } }) // the default
	m.leave(t, 1000)
	p.step()
	before := storeOf(t, p.n2)
	if err := p.cycleOver(p.sshd.client); !errors.Is(err, wire.ErrNoSpace) {
		t.Errorf("below the floor: %v", err)
	}
	if d := before.differs(storeOf(t, p.n2)); d != "" {
		t.Errorf("the store changed:\n%s", d)
	}
	m.widen(t)
	p.check()
	p.heal()
}

// TestDiskFullWhereBlocksAreShared has the standby's disk filled up before the shipment, then before the
// apply: with less room than a generation needs its tree stays, whole, at the one before, by what it says
// itself, until there is room.
func TestDiskFullWhereBlocksAreShared(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			d := newDisk(t, kind)
			p := newPair(t, newNode(t, filepath.Join(t.TempDir(), "n1")), newNode(t, filepath.Join(d.dir, "n2")), plant)
			p.contain()
			const size = 16 << 20
			for _, leave := range []int64{0, 2 << 20, size, 2 * size} {
				for _, process := range []replication.Process{replication.Receiver, replication.Applier} {
					p.cycle++
					before := p.n2.head(t)
					write(t, filepath.Join(p.n1.tree(), "new"), bytes.Repeat(noise(p.cycle, 4096), size/4096)) // it compresses
					if process == replication.Applier {
						must(t, p.cycleOver(p.sshd.client))
					}
					d.fill(t, leave)
					err := p.cycleOver(p.sshd.client)
					if err == nil {
						err = p.n2.withEngine(nil, p.n2.apply)
					}
					var at replication.ID
					if err := p.n2.withEngine(nil, func(e *engine.Engine) error { at = e.Applied(); return nil }); !replication.NoSpace(err) {
						must(t, err) // at its end it would have saved what can be made anew
					}
					switch {
					case err != nil && !replication.NoSpace(err):
						t.Errorf("a full disk is reported as: %v", err)
					case err != nil && at != before, err == nil && at != p.n1.head(t):
						t.Errorf("the replica is at %s, and was at %s: %v", at, before, err)
					case err == nil && leave <= size, err != nil && leave >= 2*size:
						t.Errorf("with that much room: %v", err)
					}
					p.isAt(at)
					d.empty(t)
					p.check()
					p.heal()
					if t.Failed() {
						t.Fatalf("the %s, with %d MiB left", process, leave>>20)
					}
				}
			}
		})
	}
}

// TestActivesDiskFullWhereBlocksAreShared has the active's disk filled up by its own service, before a capture:
// with less room than that needs it is dropped, with nothing left behind of clones and packs, and nothing left frozen.
func TestActivesDiskFullWhereBlocksAreShared(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			d := newDisk(t, kind)
			p := newPair(t, newNode(t, filepath.Join(d.dir, "n1")), newNode(t, filepath.Join(t.TempDir(), "n2")), plant)
			p.contain()
			const size = 16 << 20
			refused := 0
			for _, what := range []struct {
				name    string
				content func() []byte
			}{
				{"noise, which a pack has in common with the file", func() []byte { return noise(p.cycle, size) }},
				{"text, of which a pack has its own", func() []byte { return bytes.Repeat(noise(p.cycle, 4096), size/4096) }},
			} {
				for _, leave := range []int64{0, 64 << 10, 1 << 20, 4 << 20, 4 * size} {
					p.cycle++
					write(t, filepath.Join(p.n1.tree(), "new"), what.content())
					d.fill(t, leave)
					err := p.cycleOver(p.sshd.client)
					switch {
					case err != nil && !replication.NoSpace(err):
						t.Errorf("a full disk is reported as: %v", err)
					case err != nil && leave == 4*size:
						t.Errorf("with that much room: %v", err)
					case err != nil:
						refused++
					}
					p.n1.withStore(t, func(s *store.Store) { whole(t, s) })
					d.empty(t)
					p.check()
					write(t, filepath.Join(p.n1.tree(), "new"), nil) // or all of it would come now, rightly
					p.heal()
					if t.Failed() {
						t.Fatalf("%s, with %d KiB left", what.name, leave>>10)
					}
				}
			}
			if refused < 2 { // room comes back a little later: of one removed file it may be enough
				t.Errorf("of eight captures on a full disk %d found no room", refused)
			}
		})
	}
}
