package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// cramped is a side whose store is on a file system of 24 MiB, of which history leaves 10 and
// replication 4.
func cramped(t *testing.T) *side {
	t.Helper()
	return crampedIn(t, 24)
}

// crampedIn is the same on another number of MiB.
func crampedIn(t *testing.T, size int) *side {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	root := t.TempDir()
	if err := unix.Mount("understudy-test", root, "tmpfs", 0, fmt.Sprintf("size=%dm", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	e, err := Open(Options{Root: root, Service: "svc", Retention: store.DefaultPolicy, Spare: 10 << 20, LeastFree: 4 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	tree := filepath.Join(t.TempDir(), "data", "_data")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	return &side{Engine: e, t: t, tree: tree}
}

func (s *side) noise(name string, size int) {
	s.t.Helper()
	b := make([]byte, size)
	_, _ = rand.Read(b)
	s.write(name, string(b))
}

// pruneNow prunes as if it had been a while.
func (s *side) pruneNow() {
	s.t.Helper()
	s.mu.Lock()
	s.nextPrune = time.Time{}
	s.mu.Unlock()
	if err := s.Prune(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *side) room() store.Room {
	s.t.Helper()
	r, _, err := s.Room()
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *side) kept() []replication.ID {
	s.t.Helper()
	ids, err := s.Store().Generations()
	if err != nil {
		s.t.Fatal(err)
	}
	return ids
}

// TestHistoryGivesWayFirst: a disk that would fill with history never does, while every
// generation is sealed; a generation that is pinned stays.
func TestHistoryGivesWayFirst(t *testing.T) {
	s := cramped(t)
	s.noise("file", 1<<20)
	pinned := s.seal(1)
	if err := s.Store().Pin(pinned, "by hand"); err != nil {
		t.Fatal(err)
	}
	told := false
	for range 40 {
		s.noise("file", 1<<20)
		s.seal(1)
		s.pruneNow()
		r, thinned, err := s.Room()
		if err != nil || r.Full() {
			t.Fatalf("%d MiB are left, with %d generations, %v", r.Free>>20, len(s.kept()), err)
		}
		told = told || thinned.KeepLast > 0
	}
	if !told {
		t.Error("it is not told that history gives way")
	}
	kept := s.kept()
	if len(kept) < 3 || len(kept) > 20 || kept[0] != pinned {
		t.Errorf("kept: %v", kept)
	}
	head, err := s.Head()
	if err != nil || head.Seq != 41 {
		t.Errorf("head %s, %v", head, err)
	}
	for _, id := range kept { // none of them has lost anything
		if err := s.CheckRestore(t.Context(), id.String()); err != nil {
			t.Error(err)
		}
	}
}

// TestReplicationGivesWayNext: where history cannot give way, nothing more is sealed, in time
// for a hand-over; what was sealed is whole, and with room it goes on.
func TestReplicationGivesWayNext(t *testing.T) {
	s := cramped(t)
	var err error
	var last replication.ID
	for range 40 {
		s.noise("file", 1<<20)
		var res replication.SealResult
		if res, err = s.Seal(t.Context(), s.request(1)); err != nil {
			break
		}
		last = res.ID
		if err := s.Store().Pin(last, "by hand"); err != nil {
			t.Fatal(err)
		}
		s.pruneNow()
	}
	if !errors.Is(err, replication.ErrNoSpace) || !s.room().Full() {
		t.Fatalf("%+v: %v", s.room(), err)
	}
	if head, err := s.Head(); err != nil || head != last {
		t.Errorf("head %s, not %s, %v", head, last, err)
	}
	r := s.request(1)
	r.Final = true
	if res, err := s.Seal(t.Context(), r); err != nil || !res.New {
		t.Errorf("a hand-over finds no room: %v", err)
	}
	for _, id := range s.kept()[1:10] {
		if err := s.Store().Unpin(id); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		s.pruneNow()
	}
	s.noise("file", 1<<20)
	s.seal(1)
}

// TestTooMuchForTheDisk: a generation that does not fit leaves the store as it was, also what
// it has taken.
func TestTooMuchForTheDisk(t *testing.T) {
	s := crampedIn(t, 160) // of which packs take 64
	s.noise("file", 1<<20)
	s.seal(1)
	before := s.room()
	s.noise("large", 200<<20)
	if _, err := s.Seal(t.Context(), s.request(1)); !replication.NoSpace(err) {
		t.Fatalf("%v", err)
	}
	s.pruneNow()
	if r := s.room(); r.Free < before.Free-1<<20 {
		t.Errorf("%d MiB were free, %d are", before.Free>>20, r.Free>>20)
	}
	if err := os.Remove(filepath.Join(s.tree, "large")); err != nil {
		t.Fatal(err)
	}
	s.write("file", "goes on")
	s.seal(1)
}

// TestTooMuchToArchive: the same of what is to be archived.
func TestTooMuchToArchive(t *testing.T) {
	s := crampedIn(t, 160) // of which packs take 64
	s.noise("file", 1<<20)
	s.seal(1)
	before := s.room()
	s.noise("large", 200<<20)
	if name, err := s.ArchiveOther(t.Context(), s.request(1)); !replication.NoSpace(err) {
		t.Fatalf("archived as %q: %v", name, err)
	}
	s.pruneNow()
	if r := s.room(); r.Free < before.Free-1<<20 {
		t.Errorf("%d MiB were free, %d are", before.Free>>20, r.Free>>20)
	}
}

// TestRepack: the packs of many small generations become few, once they are old enough, and
// what is sealed next goes on from there.
func TestRepack(t *testing.T) {
	unpaced := func(int) error { return nil }
	var s *side
	removed := 0
	s = newSideIn(t, t.TempDir(), func(step string) error {
		if strings.HasPrefix(step, "remove ") && strings.HasSuffix(step, ".pack") {
			removed++
			if s.work.TryLock() {
				s.work.Unlock()
				t.Error("packs go while a capture may count on them")
			}
		}
		return nil
	})
	for i := range 260 {
		s.write("letter"+strconv.Itoa(i), "letter "+strconv.Itoa(i))
		s.seal(1)
	}
	again := func() {
		s.mu.Lock()
		s.nextRepack = time.Time{}
		s.mu.Unlock()
		if err := s.Repack(t.Context(), unpaced); err != nil {
			t.Fatal(err)
		}
	}
	again()
	if n := len(s.packs()); n != 260 {
		t.Fatalf("%d packs: what may be on its way was written anew", n)
	}
	for _, p := range s.packs() {
		old := time.Now().Add(-2 * time.Hour)
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Repack(t.Context(), unpaced); err != nil || len(s.packs()) != 260 {
		t.Fatalf("%d packs are left of 260, though it was just done: %v", len(s.packs()), err)
	}
	again()
	if n := len(s.packs()); n != 1 || removed != 260 {
		t.Errorf("%d packs are left of 260, %d were removed", n, removed)
	}
	s.write("letter0", "another")
	s.seal(1)
	m, err := s.HeadManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range treetest.Chunks(m) {
		if _, err := s.Store().Get(h); err != nil {
			t.Error(err)
		}
	}
}

// TestPruneThatWaits: while somebody looks at the store history does not give way step by step
// for prunes that did not happen, and what they were to remove is remembered.
func TestPruneThatWaits(t *testing.T) {
	s := cramped(t)
	for !s.room().Short() {
		s.noise("file", 1<<20)
		s.seal(1)
	}
	orphan := replication.Hash{1}
	s.mu.Lock()
	s.space.orphans = []replication.Hash{orphan}
	s.mu.Unlock()
	l, err := os.OpenFile(filepath.Join(s.Store().Dir(), "prune.lock"), os.O_RDWR|os.O_CREATE, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.Flock(int(l.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	before := s.kept()
	for range 6 {
		s.pruneNow()
	}
	s.mu.Lock()
	thinned, orphans := s.space.thinned, s.space.orphans
	s.mu.Unlock()
	if thinned != 0 || len(orphans) != 1 || len(s.kept()) != len(before) {
		t.Errorf("history was thinned %d times, %d packs are to go, %d generations of %d are kept", thinned, len(orphans), len(s.kept()), len(before))
	}
	if err := unix.Flock(int(l.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	s.pruneNow()
	s.mu.Lock()
	thinned, orphans = s.space.thinned, s.space.orphans
	s.mu.Unlock()
	if thinned != 1 || len(orphans) != 0 {
		t.Errorf("afterwards: %d times, %d packs", thinned, len(orphans))
	}
}
