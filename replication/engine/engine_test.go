package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/apply"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// side is a node's engine with one live tree.
type side struct {
	*Engine
	t    *testing.T
	tree string
}

func newSide(t *testing.T) *side {
	t.Helper()
	return newSideIn(t, t.TempDir(), nil)
}

func newSideIn(t *testing.T, root string, hook durable.Hook) *side {
	t.Helper()
	e, err := Open(Options{Root: root, Service: "svc", Logger: slog.New(slog.DiscardHandler), Hook: hook})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	tree := filepath.Join(root, "volumes", "data", "_data")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	return &side{Engine: e, t: t, tree: tree}
}

func (s *side) roots() map[string]string { return map[string]string{"data": s.tree} }

func (s *side) request(term uint64) replication.SealRequest {
	return replication.SealRequest{Term: term, Roots: s.roots(), Definition: []byte("def")}
}

func (s *side) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.tree, name), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *side) seal(term uint64) replication.ID {
	s.t.Helper()
	res, err := s.Seal(s.t.Context(), s.request(term))
	if err != nil {
		s.t.Fatal(err)
	}
	return res.ID
}

func (s *side) apply() {
	s.t.Helper()
	if err := s.Apply(s.t.Context(), s.roots()); err != nil {
		s.t.Fatal(err)
	}
}

// send commits a generation of s to the other side, as the wire does.
func (s *side) send(to *side, id replication.ID) {
	s.t.Helper()
	m, err := s.Store().Load(id)
	if err != nil {
		s.t.Fatal(err)
	}
	missing, err := to.Store().Missing(treetest.Chunks(m))
	if err != nil {
		s.t.Fatal(err)
	}
	packs, cleanup, err := s.Store().PacksFor(missing)
	if err != nil {
		s.t.Fatal(err)
	}
	defer cleanup()
	for _, p := range packs {
		b, err := os.ReadFile(p.Path)
		if err != nil {
			s.t.Fatal(err)
		}
		incoming := filepath.Join(to.Store().IncomingDir(), p.Hash.String()+".pack")
		if err := os.WriteFile(incoming, b, 0o600); err != nil {
			s.t.Fatal(err)
		}
		err = to.Store().AcceptPack(incoming, p.Hash)
		for range 500 { // a process that another test has just forked has our file open until it runs
			if err == nil || !strings.Contains(err.Error(), "still open for writing") {
				break
			}
			time.Sleep(10 * time.Millisecond)
			err = to.Store().AcceptPack(incoming, p.Hash)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	b, err := store.EncodeManifest(m)
	if err != nil {
		s.t.Fatal(err)
	}
	incoming := filepath.Join(to.Store().IncomingDir(), "manifest")
	if err := os.WriteFile(incoming, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
	err = to.Store().CommitEncoded(incoming, id)
	for range 500 { // as above
		if err == nil || !strings.Contains(err.Error(), "still open for writing") {
			break
		}
		time.Sleep(10 * time.Millisecond)
		err = to.Store().CommitEncoded(incoming, id)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// files is the tree as text.
func (s *side) files() string {
	s.t.Helper()
	return listing(s.t, s.tree)
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Name()+"="+string(b))
	}
	return strings.Join(out, " ")
}

// diverged is what an archived generation holds, as text.
func (s *side) diverged(name string) string {
	s.t.Helper()
	m, err := s.Store().LoadDiverged(name)
	if err != nil {
		s.t.Fatal(err)
	}
	dir := s.t.TempDir()
	if _, err := apply.Materialize(s.t.Context(), archive{s.Store(), m}, m.ID, dir); err != nil {
		s.t.Fatal(err)
	}
	return listing(s.t, filepath.Join(dir, "data"))
}

// archive lets Materialize read one archived manifest.
type archive struct {
	*store.Store
	m *replication.Manifest
}

func (a archive) Load(replication.ID) (*replication.Manifest, error) { return a.m, nil }

// pair is an active and a standby that have 1.1 in common.
func pair(t *testing.T) (a, b *side) {
	t.Helper()
	a, b = newSide(t), newSide(t)
	a.write("file", "one")
	a.send(b, a.seal(1))
	b.apply()
	if a.files() != b.files() {
		t.Fatalf("standby has %q, active %q", b.files(), a.files())
	}
	return a, b
}

// takeOver promotes the standby with term 2, writes, and returns its generation.
func takeOver(b *side) replication.ID {
	b.t.Helper()
	if err := b.Fence(2); err != nil {
		b.t.Fatal(err)
	}
	b.write("file", "two")
	b.write("new", "by b")
	return b.seal(2)
}

func TestUnchangedSealsNothing(t *testing.T) {
	a, _ := pair(t)
	if again := a.seal(1); again.String() != "1.1" {
		t.Errorf("an unchanged tree was sealed as %s", again)
	}
	a.write("file", "three")
	if id := a.seal(1); id.String() != "1.2" {
		t.Errorf("a change was sealed as %s", id)
	}
	r := a.request(1)
	r.Final = true
	res, err := a.Seal(t.Context(), r)
	if err != nil || !res.New || a.Applied() != res.ID {
		t.Errorf("final: %+v, %v; the tree is at %s", res, err, a.Applied())
	}
}

// TestNotStill: what was captured of a directory that is another by then is no generation.
func TestNotStill(t *testing.T) {
	a, _ := pair(t)
	a.write("file", "of another")
	r := a.request(1)
	moved := errors.New("moved")
	r.Still = func() error { return moved }
	if res, err := a.Seal(t.Context(), r); !errors.Is(err, moved) || res.New {
		t.Errorf("sealed: %+v, %v", res, err)
	}
	if head, err := a.Head(); err != nil || head.String() != "1.1" {
		t.Errorf("the head is %s: %v", head, err)
	}
	if id := a.seal(1); id.String() != "1.2" {
		t.Errorf("afterwards it is sealed as %s", id)
	}
}

// TestTurnRound: the former active has sealed and unsealed writes that nobody
// received. They are archived, and it follows the new history.
func TestTurnRound(t *testing.T) {
	a, b := pair(t)
	a.write("file", "unseen")
	a.seal(1)
	theirs := takeOver(b)
	a.write("late", "unsealed")
	res, archived, err := a.SealDirty(t.Context(), a.request(1))
	if err != nil || archived != "" || res.ID.String() != "1.3" {
		t.Fatalf("SealDirty: %+v, %q, %v", res, archived, err)
	}
	for range 2 { // killed and done again: once is enough, twice is no more
		if _, err := a.Realign(t.Context(), replication.ID{Term: 1, Seq: 1}); err != nil {
			t.Fatal(err)
		}
	}
	names := a.Diverged()
	if len(names) != 1 {
		t.Fatalf("archived: %v", names)
	}
	if got := a.diverged(names[0]); got != "file=unseen late=unsealed" {
		t.Errorf("the archive holds %q", got)
	}
	b.send(a, theirs)
	a.apply()
	if a.files() != b.files() || a.Applied() != theirs {
		t.Errorf("after the return: %q at %s, active has %q at %s", a.files(), a.Applied(), b.files(), theirs)
	}
}

// TestTurnedRoundBeforeTheTreesAreRead: what lies in the trees is archived after what had been sealed, also by its
// number, and once.
func TestTurnedRoundBeforeTheTreesAreRead(t *testing.T) {
	for name, wrote := range map[string]bool{"wrote": true, "wrote nothing": false} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			for range 2 {
				a.write("file", "unseen "+a.seal(1).String())
			}
			a.seal(1)
			theirs := takeOver(b)
			if wrote {
				a.write("late", "unsealed")
			}
			if _, err := a.Realign(t.Context(), replication.ID{Term: 1, Seq: 1}); err != nil {
				t.Fatal(err)
			}
			b.send(a, theirs)
			want := []string{"file=unseen 1.2"}
			if wrote {
				want = append(want, "file=unseen 1.2 late=unsealed")
			}
			for range 2 { // killed and done again: once is enough, twice is no more
				if res, archived, err := a.SealDirty(t.Context(), a.request(1)); err != nil || !res.ID.IsZero() || archived != a.Diverged()[len(want)-1] {
					t.Fatalf("SealDirty: %+v, %q, %v", res, archived, err)
				}
			}
			names := a.Diverged()
			if len(names) != len(want) {
				t.Fatalf("archived: %v", names)
			}
			for i, name := range names {
				if got := a.diverged(name); got != want[i] {
					t.Errorf("%s holds %q, not %q", name, got, want[i])
				}
			}
			a.apply()
			if a.files() != b.files() {
				t.Errorf("after the return: %q, active has %q", a.files(), b.files())
			}
		})
	}
}

// TestPinnedIsArchivedToo: a pinned generation of a history that ends is not lost with it.
func TestPinnedIsArchivedToo(t *testing.T) {
	a, b := pair(t)
	a.write("file", "pinned")
	pinned := a.seal(1)
	if err := a.Store().Pin(pinned, "for good"); err != nil {
		t.Fatal(err)
	}
	a.write("file", "unseen")
	a.seal(1)
	takeOver(b)
	archived, err := a.Realign(t.Context(), replication.ID{Term: 1, Seq: 1})
	if err != nil || len(archived) != 2 {
		t.Fatalf("archived %v, %v", archived, err)
	}
	for i, want := range []string{"file=pinned", "file=unseen"} {
		if got := a.diverged(archived[i]); got != want {
			t.Errorf("%s holds %q, not %q", archived[i], got, want)
		}
	}
	if pins, err := a.Store().Pins(); err != nil || len(pins) > 0 {
		t.Errorf("pins of what is not committed any more: %v, %v", pins, err)
	}
}

// TestNewHistoryArrivesFirst: the new active's generation is committed here before
// this node has looked at what its own containers had written.
func TestNewHistoryArrivesFirst(t *testing.T) {
	for name, wrote := range map[string]bool{"wrote": true, "wrote nothing": false} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			if wrote {
				a.write("late", "unsealed")
			}
			theirs := takeOver(b)
			b.send(a, theirs)
			res, archived, err := a.SealDirty(t.Context(), a.request(1))
			if err != nil || !res.ID.IsZero() || (archived != "") != wrote {
				t.Fatalf("SealDirty: %+v, %q, %v", res, archived, err)
			}
			if wrote && a.diverged(archived) != "file=one late=unsealed" {
				t.Errorf("the archive holds %q", a.diverged(archived))
			}
			a.apply()
			if a.files() != b.files() {
				t.Errorf("after the return: %q, active has %q", a.files(), b.files())
			}
		})
	}
}

// TestNewTermArrivesMeanwhile: the store is told of another node's promotion while what this
// node's containers had written is still being read, which takes its time where it is much.
func TestNewTermArrivesMeanwhile(t *testing.T) {
	for name, keep := range map[string]func(*side, replication.SealRequest) (replication.SealResult, string, error){
		"went down": func(a *side, r replication.SealRequest) (replication.SealResult, string, error) {
			return a.SealDirty(t.Context(), r)
		},
		"changed by hand": func(a *side, r replication.SealRequest) (replication.SealResult, string, error) {
			return a.CheckTree(t.Context(), r, true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			a.write("late", "unsealed")
			theirs := takeOver(b)
			r := a.request(1)
			r.Quiesce = func(context.Context) (func() error, error) {
				return func() error { return nil }, a.Store().Fence(2)
			}
			res, archived, err := keep(a, r)
			if err != nil || !res.ID.IsZero() || archived == "" {
				t.Fatalf("%+v, %q, %v", res, archived, err)
			}
			if got := a.diverged(archived); got != "file=one late=unsealed" {
				t.Errorf("the archive holds %q", got)
			}
			b.send(a, theirs)
			a.apply()
			if a.files() != b.files() {
				t.Errorf("after the return: %q, active has %q", a.files(), b.files())
			}
		})
	}
}

// TestCheckTree: what was changed by hand on a clean node is kept, and a standby's
// tree is repaired.
func TestCheckTree(t *testing.T) {
	a, b := pair(t)
	if res, archived, err := a.CheckTree(t.Context(), a.request(1), true); err != nil || archived != "" || !res.ID.IsZero() {
		t.Fatalf("nothing was changed: %+v, %q, %v", res, archived, err)
	}
	a.write("file", "by hand")
	res, _, err := a.CheckTree(t.Context(), a.request(1), false)
	if err != nil || res.ID.String() != "1.2" {
		t.Fatalf("former active: %+v, %v", res, err)
	}
	b.write("stray", "by hand")
	_, archived, err := b.CheckTree(t.Context(), b.request(0), false)
	if err != nil || archived == "" {
		t.Fatalf("standby: %q, %v", archived, err)
	}
	if got := b.diverged(archived); got != "file=one stray=by hand" {
		t.Errorf("the archive holds %q", got)
	}
	b.apply()
	if got := b.files(); got != "file=one" {
		t.Errorf("the standby's tree is %q", got)
	}
}

// TestArchiveOfWhatIsInAnotherDirectory: compared with the head, also where nothing was applied yet.
func TestArchiveOfWhatIsInAnotherDirectory(t *testing.T) {
	a, b := pair(t)
	a.write("file", "two")
	a.send(b, a.seal(1))
	b.apply()
	if err := b.Recheck(); err != nil {
		t.Fatal(err)
	}
	if name, err := b.ArchiveOther(t.Context(), b.request(0)); err != nil || name != "" {
		t.Errorf("what the head has is archived as %q: %v", name, err)
	}
	b.write("file", "three")
	name, err := b.ArchiveOther(t.Context(), b.request(0))
	if err != nil || name != "1.3.1" || b.diverged(name) != "file=three" {
		t.Errorf("archived as %q: %v", name, err)
	}
}

// TestArchiveIsDamaged: what was archived before is not needed to archive what lies there.
func TestArchiveIsDamaged(t *testing.T) {
	a, b := pair(t)
	a.write("file", "unseen")
	a.seal(1)
	takeOver(b)
	names, err := a.Realign(t.Context(), replication.ID{Term: 1, Seq: 1})
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	flip(t, filepath.Join(a.Store().Dir(), "diverged", names[0]+".manifest"), 100)
	if err := a.Fence(2); err != nil {
		t.Fatal(err)
	}
	if _, name, err := a.SealDirty(t.Context(), a.request(1)); err != nil || name == "" || name == names[0] || a.diverged(name) != "file=unseen" {
		t.Errorf("archived as %q: %v", name, err)
	}
}

// What a node had of its own before it was ever a standby has no term: it is kept all the same.
func TestArchiveOfANodeWithoutTerm(t *testing.T) {
	s := newSide(t)
	s.write("mine", "own data")
	name, err := s.ArchiveTree(t.Context(), s.request(0))
	if err != nil || name == "" {
		t.Fatalf("archived as %q: %v", name, err)
	}
	m, err := s.Store().LoadDiverged(name)
	if err != nil || len(m.Volumes) != 1 || m.Volumes[0].Entries.Len() != 2 {
		t.Errorf("the archive holds %+v: %v", m, err)
	}
}
