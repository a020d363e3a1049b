package fault

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

// dial is a sender that has the key, and does as it likes.
func (p *pair) dial() *wire.Client {
	p.t.Helper()
	c, err := wire.Dial(context.Background(), p.sshd.client)
	must(p.t, err)
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// endless is a file without an end that anybody will come to.
func endless(t testing.TB) wire.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "endless")
	must(t, os.WriteFile(path, nil, 0o600))
	const size = 1 << 40
	must(t, os.Truncate(path, size))
	return wire.File{Path: path, Hash: blake3.Sum256([]byte("endless")), Size: size}
}

// TestEndlessPack: a pack has a bound, and what of it was taken is not kept for good.
func TestEndlessPack(t *testing.T) {
	p := plainPair(t)
	const most = 4 << 20
	p.sshd.set(func() { p.sshd.tune = func(o *wire.ServerOptions) { o.MaxPack = most } })
	before := storeOf(t, p.n2)
	f := endless(t)
	for range 2 { // the second goes on where the first was refused
		if err := p.dial().PutPack(t.Context(), svc, f, nil); !errors.Is(err, wire.ErrTooLarge) {
			t.Errorf("an endless pack: %v", err)
		}
	}
	if d := before.differs(storeOf(t, p.n2)); d != "" {
		t.Errorf("the store changed:\n%s", d)
	}
	p.n2.withStore(t, func(s *store.Store) {
		incoming := func() []os.DirEntry {
			es, err := os.ReadDir(s.IncomingDir())
			must(t, err)
			return es
		}
		if n := len(incoming()); n != 1 {
			t.Fatalf("%d files in incoming", n)
		}
		fi, err := incoming()[0].Info()
		must(t, err)
		if fi.Size() > most {
			t.Errorf("%d bytes were taken", fi.Size())
		}
		old := time.Now().Add(-48 * time.Hour)
		must(t, os.Chtimes(filepath.Join(s.IncomingDir(), fi.Name()), old, old))
		_, err = s.Prune(store.DefaultPolicy)
		must(t, err)
		if n := len(incoming()); n != 0 {
			t.Error("what was taken stays for good")
		}
	})
	p.check()
	p.heal()
}

// TestEndlessPackFillsTheDisk: where the disk is smaller than a pack may be, it ends at the
// floor, and what is committed can go on being used.
func TestEndlessPackFillsTheDisk(t *testing.T) {
	m := newMemory(t)
	p := newPair(t, newNode(t, filepath.Join(t.TempDir(), "n1")), newNode(t, filepath.Join(m.dir, "n2")), plant)
	const floor = 8 << 20
	p.sshd.set(func() { p.sshd.tune = func(o *wire.ServerOptions) { o.MinFree = floor } })
	m.leave(t, 24<<20>>12)
	if err := p.dial().PutPack(t.Context(), svc, endless(t), nil); !errors.Is(err, wire.ErrNoSpace) {
		t.Errorf("an endless pack: %v", err)
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(m.dir, &st))
	if free := int64(st.Bavail) * st.Bsize; free < floor-(8<<20) {
		t.Errorf("%d bytes are left", free)
	}
	p.check()
	m.widen(t)
	p.heal()
}

// tinyPacks sends packs of one tiny chunk until one is refused, or there were so many.
func (p *pair) tinyPacks(most int) (sent int, err error) {
	p.t.Helper()
	s, err := store.Open(p.t.TempDir(), svc, store.Options{})
	must(p.t, err)
	defer s.Close()
	c := p.dial()
	for ; sent < most; sent++ {
		chunk := binary.BigEndian.AppendUint64(nil, uint64(sent))
		w := s.NewPack()
		must(p.t, w.Put(blake3.Sum256(chunk), chunk, nil, 0))
		packs, err := w.Seal()
		must(p.t, err)
		if err := c.PutPack(p.t.Context(), svc, wire.File{Path: packs[0].Path, Hash: packs[0].Hash, Size: packs[0].Size}, nil); err != nil {
			return sent, err
		}
		must(p.t, os.Remove(packs[0].Path))
	}
	return sent, nil
}

// TestMillionTinyPacks: as many as TINY_PACKS says, a million takes half an hour, have come and no generation
// names them. The replica is as it was, the next cycle heals, and within the hour that packs are
// waited for all of them go.
func TestMillionTinyPacks(t *testing.T) {
	most := 3000
	if n := os.Getenv("TINY_PACKS"); n != "" {
		var err error
		most, err = strconv.Atoi(n)
		must(t, err)
	}
	p := newPair(t, newNode(t, filepath.Join(t.TempDir(), "n1")), newNode(t, filepath.Join(newMemory(t).dir, "n2")), plant)
	began := time.Now()
	sent, err := p.tinyPacks(most)
	if err != nil || sent != most {
		t.Fatalf("after %d tiny packs: %v", sent, err)
	}
	took := func() time.Duration { d := time.Since(began).Round(time.Millisecond); began = time.Now(); return d }
	t.Logf("%d packs came in %v", sent, took())
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	s, err := store.Open(p.n2.root(), svc, store.Options{PackGrace: time.Nanosecond})
	must(t, err)
	defer s.Close()
	s.Has(replication.Hash{}) // reads all of them
	took()
	t.Logf("a process that has the store open needs %d bytes for each", (heap()-before)/int64(sent))
	p.check()
	p.heal()
	t.Logf("checked and healed, with a process begun for each, in %v", took())
	out, err := s.Prune(store.DefaultPolicy)
	if err != nil || out.Packs < sent {
		t.Errorf("of %d packs that nobody needs %d were swept: %v", sent, out.Packs, err)
	}
	t.Logf("swept in %v", took())
	whole(t, s)
	p.heal()
}

// TestTinyPacksUseUpInodes: each takes an inode of the standby's file system. Before there are
// none left for the agent's own records the receiver takes no more; in an hour they go.
func TestTinyPacksUseUpInodes(t *testing.T) {
	m := newMemory(t)
	p := newPair(t, newNode(t, filepath.Join(t.TempDir(), "n1")), newNode(t, filepath.Join(m.dir, "n2")), plant)
	const files = 1000 // how many can still be made
	var st unix.Statfs_t
	must(t, unix.Statfs(m.dir, &st))
	inodes := func(n uint64) {
		must(t, unix.Mount("small", m.dir, "tmpfs", unix.MS_REMOUNT, "nr_inodes="+strconv.FormatUint(n, 10)))
	}
	inodes(st.Files - st.Ffree + files)
	p.sshd.set(func() { p.sshd.tune = func(o *wire.ServerOptions) { o.MinFiles = files / 2 } })
	sent, err := p.tinyPacks(1_000_000)
	if !errors.Is(err, wire.ErrNoSpace) || sent < files/4 || sent > files/2+10 {
		t.Errorf("after %d tiny packs, %d more files could be made: %v", sent, files, err)
	}
	// It can still be promoted, and seal what its own containers write.
	p.check()
	must(t, p.n2.withEngine(nil, func(e *engine.Engine) error {
		if err := e.Fence(2); err != nil {
			return err
		}
		write(t, filepath.Join(p.n2.tree(), "written there"), []byte("after a takeover"))
		_, err := e.Seal(t.Context(), replication.SealRequest{Term: 2, Roots: p.n2.roots(), Definition: []byte("definition"), Freezer: unfrozen{}})
		return err
	}))
	inodes(st.Files)
	s, err := store.Open(p.n2.root(), svc, store.Options{PackGrace: time.Nanosecond})
	must(t, err)
	defer s.Close()
	out, err := s.Prune(store.DefaultPolicy)
	if err != nil || out.Packs < sent {
		t.Errorf("of %d packs that nobody needs %d were swept: %v", sent, out.Packs, err)
	}
	whole(t, s)
}
