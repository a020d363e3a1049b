package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// flip changes a bit of a file in place.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if os.IsPermission(err) {
		t.Skip("only root can write to what is sealed")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, int64(at)); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 64
	if _, err := f.WriteAt(b, int64(at)); err != nil {
		t.Fatal(err)
	}
}

func (s *side) packs() []string {
	s.t.Helper()
	packs, err := filepath.Glob(filepath.Join(s.Store().Dir(), "packs/*.pack"))
	if err != nil {
		s.t.Fatal(err)
	}
	return packs
}

// scrub goes round and says what was found, as text.
func (s *side) scrub() (Scrub, []string) {
	s.t.Helper()
	var found []string
	res, err := s.Scrub(s.t.Context(), ScrubOptions{
		Roots:   func(context.Context) (map[string]string, error) { return s.roots(), nil },
		Pace:    func(int) error { return nil },
		Foreign: func(_ context.Context, what []string) { found = append(found, "foreign: "+strings.Join(what, "; ")) },
		Found: func(f Found) {
			found = append(found, fmt.Sprintf("%s: %s (mended %v, waits %v)", f.What, f.Repair, f.Mended, f.Waits))
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return res, found
}

func contains(list []string, parts ...string) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		for _, p := range parts {
			if !strings.Contains(s, p) {
				return false
			}
		}
		return true
	})
}

func TestScrubFindsNothing(t *testing.T) {
	a, b := pair(t)
	for name, s := range map[string]*side{"active": a, "standby": b} {
		res, found := s.scrub()
		if len(found) > 0 || res.Packs != 1 || res.Ended.IsZero() || res.Done == 0 {
			t.Errorf("%s: %+v, %v", name, res, found)
		}
	}
	if err := a.Recheck(); err != nil { // containers write
		t.Fatal(err)
	}
	if res, found := a.scrub(); res.Live || len(found) > 0 {
		t.Errorf("live data that is being written was judged: %+v, %v", res, found)
	}
}

// TestScrubMendsFromTheLiveTree: what a pack lost and the live tree has is put back, on
// either node, without the other.
func TestScrubMendsFromTheLiveTree(t *testing.T) {
	a, b := pair(t)
	for name, s := range map[string]*side{"active": a, "standby": b} {
		t.Run(name, func(t *testing.T) {
			flip(t, s.packs()[0], 9)
			_, found := s.scrub()
			if len(found) != 2 || !contains(found, "was damaged", "1 lost", "waits true") || !contains(found, "taken from there (mended true") {
				t.Fatalf("found %v", found)
			}
			if n := s.Lacks(); n != 0 {
				t.Errorf("%d are lacking", n)
			}
			if err := s.CheckRestore(t.Context(), "1.1"); err != nil {
				t.Error(err)
			}
			if res, found := s.scrub(); len(found) > 0 || !slices.ContainsFunc(res.Found, func(f Found) bool { return strings.HasSuffix(f.Repair, "it is here again") }) {
				t.Errorf("again: %v, %+v", found, res)
			}
		})
	}
}

// TestScrubLeavesTheRestToOthers: content of history alone is listed as lacking.
func TestScrubLeavesTheRestToOthers(t *testing.T) {
	a, b := pair(t)
	old := b.packs()
	a.write("file", "two")
	a.send(b, a.seal(1))
	b.apply()
	flip(t, old[0], 9)
	if _, found := b.scrub(); len(found) != 1 || b.Lacks() != 1 {
		t.Fatalf("found %v, lacking %d", found, b.Lacks())
	}
	if b.files() != "file=two" {
		t.Errorf("the live tree is %q", b.files())
	}
	// It comes again, as the wire's Mend sends it.
	missing, cleanup, err := a.Store().PacksFor([]replication.Hash{hashOf("one")})
	if err != nil {
		t.Fatal(err)
	}
	defer cleanup()
	text, err := os.ReadFile(missing[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	incoming := filepath.Join(b.Store().IncomingDir(), "x")
	if err := os.WriteFile(incoming, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Store().AcceptPack(incoming, missing[0].Hash); err != nil {
		t.Fatal(err)
	}
	if n := b.Lacks(); n != 0 || b.LastScrub().Found[0].Waits {
		t.Errorf("%d are lacking, %+v", n, b.LastScrub())
	}
	if _, found := b.scrub(); len(found) > 0 {
		t.Errorf("after that: %v", found)
	}
}

// TestScrubWithoutTheHeadsManifest: where the live trees are at a generation that is lost, they are
// compared when it is here again; the round comes to its end.
func TestScrubWithoutTheHeadsManifest(t *testing.T) {
	_, b := pair(t)
	dir := b.Store().Dir()
	again := newSideIn(t, filepath.Dir(filepath.Dir(dir)), nil) // remembers nothing
	again.tree = b.tree
	flip(t, filepath.Join(dir, "generations", "1.1.manifest"), 30)
	res, found := again.scrub()
	if res.Ended.IsZero() || res.Live || !res.Again || again.Lacks() != 1 || len(found) != 1 {
		t.Errorf("%+v, found %v, lacking %d", res, found, again.Lacks())
	}
}

// TestScrubOfForeignWrites: what somebody wrote on a standby is told, and left.
func TestScrubOfForeignWrites(t *testing.T) {
	_, b := pair(t)
	b.write("file", "by hand")
	_, found := b.scrub()
	if !contains(found, "foreign", "file") || b.files() != "file=by hand" {
		t.Errorf("found %v, the tree is %q", found, b.files())
	}
	// Also where this node's own term is the newest: a standby seals nothing.
	before, err := b.Head()
	if err != nil {
		t.Fatal(err)
	}
	archived, err := b.ArchiveForeign(t.Context(), b.request(1))
	if head, herr := b.Head(); err != nil || herr != nil || archived == "" || head != before {
		t.Fatal(archived, head, err, herr)
	}
	if m, err := b.Store().LoadDiverged(archived); err != nil || m.Volumes[0].Entries.Get("file").Size != int64(len("by hand")) {
		t.Errorf("what was written is not in the archive: %v", err)
	}
	b.apply()
	if archived, err := b.ArchiveForeign(t.Context(), b.request(1)); err != nil || archived != "" {
		t.Errorf("nothing was archived as %q, %v", archived, err)
	}
	if _, found := b.scrub(); len(found) > 0 || b.files() != "file=one" {
		t.Errorf("found %v, the tree is %q", found, b.files())
	}
}

// TestScrubGoesOn: an interrupted round begins with the pack it was at.
func TestScrubGoesOn(t *testing.T) {
	a, _ := pair(t)
	for i := range 5 {
		a.write("file", fmt.Sprint("text ", i))
		a.seal(1)
	}
	stop := errors.New("stop")
	n := 0
	first, err := a.Scrub(t.Context(), ScrubOptions{
		Roots: func(context.Context) (map[string]string, error) { return a.roots(), nil }, Found: func(Found) {},
		Pace: func(bytes int) error {
			if bytes == 0 {
				if n++; n == 4 {
					return stop
				}
			}
			return nil
		},
	})
	if !errors.Is(err, stop) || !first.Ended.IsZero() || first.Packs != 3 {
		t.Fatalf("%+v, %v", first, err)
	}
	second, found := a.scrub()
	if second.Packs != 6 || !second.Began.Equal(first.Began) || len(found) > 0 {
		t.Errorf("%+v, %v", second, found)
	}
	if third, _ := a.scrub(); third.Packs != 6 || third.Began.Equal(first.Began) {
		t.Errorf("%+v", third)
	}
}

// TestDamagedWhereItIsRead: an apply that runs into a damaged pack has it set aside
// at once.
func TestDamagedWhereItIsRead(t *testing.T) {
	a, b := pair(t)
	a.write("file", "two, and more")
	before := b.packs()
	a.send(b, a.seal(1))
	for _, p := range b.packs() {
		if !slices.Contains(before, p) {
			flip(t, p, 10)
		}
	}
	err := b.Apply(t.Context(), b.roots())
	if !errors.Is(err, replication.ErrBadHash) {
		t.Fatalf("applied from a damaged pack: %v", err)
	}
	if last := b.LastScrub(); len(last.Found) != 1 || !last.Found[0].Waits || b.Lacks() != 1 {
		t.Errorf("%+v, lacking %d", last, b.Lacks())
	}
	if _, ok := b.Damaged(t.Context(), errors.New("something else")); ok {
		t.Error("took something else for damage")
	}
}

// TestDamageOnTheWay: a pack that is whole here is left alone, whatever a peer says of it.
func TestDamageOnTheWay(t *testing.T) {
	a, _ := pair(t)
	before := a.packs()
	h, err := store.ParseHash(strings.TrimSuffix(filepath.Base(before[0]), ".pack"))
	if err != nil {
		t.Fatal(err)
	}
	told := fmt.Errorf("peer: %w", &store.DamagedPack{Pack: h, Err: replication.ErrBadHash})
	if f, ok := a.Damaged(t.Context(), told); ok || !slices.Equal(a.packs(), before) {
		t.Errorf("set aside: %+v", f)
	}
	flip(t, before[0], 9)
	if f, ok := a.Damaged(t.Context(), told); !ok {
		t.Errorf("not set aside: %+v", f)
	}
}

func hashOf(text string) replication.Hash { return blake3.Sum256([]byte(text)) }
