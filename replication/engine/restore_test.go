package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/replication"
)

// TestRevert: the content of an old generation goes on as a new one, here and on the
// standby, and asking for it again changes nothing.
func TestRevert(t *testing.T) {
	a, b := pair(t)
	a.write("file", "two")
	a.write("more", "x")
	last := a.seal(1)
	if err := a.CheckRestore(t.Context(), "1.1"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		id, notes, err := a.Revert("1.1", a.request(1))
		if err != nil || id.String() != "1.3" || len(notes) != 0 {
			t.Fatalf("as %s, %v, %v", id, notes, err)
		}
	}
	if got := a.files(); got != "file=two more=x" {
		t.Errorf("the live tree was touched: %q", got)
	}
	a.apply()
	if got := a.files(); got != "file=one" {
		t.Errorf("the tree is %q", got)
	}
	if err := a.Recheck(); err != nil {
		t.Fatal(err)
	}
	a.write("file", "after")
	next := a.seal(1)
	for _, id := range []replication.ID{last, {Term: 1, Seq: 3}, next} {
		a.send(b, id)
	}
	b.apply()
	if got := b.files(); got != "file=after" {
		t.Errorf("the standby has %q", got)
	}
	if _, _, err := a.Revert("1.9", a.request(1)); !errors.Is(err, replication.ErrNotFound) {
		t.Errorf("a generation that there is not: %v", err)
	}
}

// TestLooseIsMarked: in the manifest as it is stored, and in that of who goes back to it;
// what was frozen for is not.
func TestLooseIsMarked(t *testing.T) {
	s := newSide(t)
	r := s.request(1)
	r.Loose = true
	frozen := s.request(1)
	frozen.Freezer = nobody{}
	want := map[string]bool{}
	for i, r := range []replication.SealRequest{frozen, r, frozen, s.request(1)} {
		s.write("file", strings.Repeat("x", i))
		res, err := s.Seal(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		want[res.ID.String()] = r.Loose
	}
	for _, name := range []string{"1.2", "1.1"} {
		id, _, err := s.Revert(name, s.request(1))
		if err != nil {
			t.Fatal(err)
		}
		want[id.String()] = want[name]
	}
	if len(want) != 6 {
		t.Fatalf("sealed and reverted to: %v", want)
	}
	for name, loose := range want {
		id, err := replication.ParseID(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Store().Load(id)
		if err != nil {
			t.Fatal(err)
		}
		if m.Loose != loose {
			t.Errorf("generation %s: loose is %v", name, m.Loose)
		}
	}
}

// TestRevertOfAnArchivedOne, by a term that begins with it, and of other volumes.
func TestRevertOfAnArchivedOne(t *testing.T) {
	a, b := pair(t)
	a.write("file", "unseen")
	a.seal(1)
	theirs := takeOver(b)
	archived, err := a.Realign(t.Context(), replication.ID{Term: 1, Seq: 1})
	if err != nil {
		t.Fatal(err)
	}
	b.send(a, theirs)
	a.apply()
	if err := a.Fence(3); err != nil {
		t.Fatal(err)
	}
	id, notes, err := a.Revert(archived[0], a.request(3))
	if err != nil || id.String() != "3.1" || len(notes) > 0 {
		t.Fatalf("as %s, %v, %v", id, notes, err)
	}
	a.apply()
	if got := a.files(); got != "file=unseen" {
		t.Errorf("the tree is %q", got)
	}
	head, err := a.HeadManifest()
	if err != nil || head.Parent != theirs || head.Diverged {
		t.Errorf("%+v, %v", head, err)
	}
	old := &replication.Manifest{ID: replication.ID{Term: 1, Seq: 1}, Volumes: []replication.Volume{{Name: "gone", Entries: replication.NewEntries()}}}
	if volumes, notes := reverted(head, old); len(volumes) != 1 || volumes[0].Name != "data" || len(notes) != 2 {
		t.Errorf("%v, %v", volumes, notes)
	}
}

// TestApplyAt: a standby is held at an older generation, and let go.
func TestApplyAt(t *testing.T) {
	a, b := pair(t)
	a.write("file", "two")
	a.send(b, a.seal(1))
	first := replication.ID{Term: 1, Seq: 1}
	if err := b.ApplyAt(t.Context(), first, b.roots()); err != nil || b.files() != "file=one" || b.Applied() != first {
		t.Errorf("%q at %s, %v", b.files(), b.Applied(), err)
	}
	b.apply()
	if b.files() != "file=two" {
		t.Errorf("%q", b.files())
	}
}

// TestCheckRestoreReadsEverything: what a restore would need and cannot have is found
// before anything is done.
func TestCheckRestoreReadsEverything(t *testing.T) {
	a, _ := pair(t)
	packs, err := filepath.Glob(filepath.Join(a.Store().Dir(), "packs/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	a.write("file", "two")
	a.seal(1)
	b, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[8] ^= 1
	if err := os.Chmod(packs[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(packs[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.CheckRestore(t.Context(), "1.1"); !errors.Is(err, replication.ErrBadHash) {
		t.Errorf("%v", err)
	}
	if err := a.CheckRestore(t.Context(), "1.2"); err != nil {
		t.Errorf("of what is there already: %v", err)
	}
}
