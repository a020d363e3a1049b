package fault

import (
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
	case replication.Sender:
		want, before := list(p.t, p.n1.tree()), p.n1.head(p.t)
		m.leave(p.t, pages)
		err = p.n1.withEngine(nil, func(e *engine.Engine) error {
			if _, err := p.n1.seal(e, p.term, p.freezer); err != nil {
				return err
			}
			_, err := ship(e, p.sshd.client)
			return err
		})
		if now := p.n1.head(p.t); now != before {
			p.sealed[now] = want
		}
	case replication.Receiver:
		p.sealHome()
		m.leave(p.t, pages)
		err = p.shipped()
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

// shipped ships what is sealed.
func (p *pair) shipped() error {
	return p.n1.withEngine(nil, func(e *engine.Engine) error {
		_, err := ship(e, p.sshd.client)
		return err
	})
}

// TestFloorOfTheReceiver: below its floor of free space the receiver takes nothing, so that
// what it has can go on being used.
func TestFloorOfTheReceiver(t *testing.T) {
	m := newMemory(t)
	p := newPair(t, newNode(t, filepath.Join(t.TempDir(), "n1")), newNode(t, filepath.Join(m.dir, "n2")), plant)
	p.sshd.set(func() { p.sshd.tune = func(o *wire.ServerOptions) { o.MinFree = 0 } }) // the default
	m.leave(t, 1000)
	p.step()
	p.sealHome()
	before := storeOf(t, p.n2)
	if err := p.shipped(); !errors.Is(err, wire.ErrNoSpace) {
		t.Errorf("below the floor: %v", err)
	}
	if d := before.differs(storeOf(t, p.n2)); d != "" {
		t.Errorf("the store changed:\n%s", d)
	}
	m.widen(t)
	p.check()
	p.heal()
}
