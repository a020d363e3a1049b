package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/store"
)

// shelf is a node's store, and the tree that is sealed into it.
type shelf struct {
	Kept
	t      *testing.T
	engine *engine.Engine
	tree   string
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	root := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	e, err := engine.Open(engine.Options{Root: root, Service: "wiki", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &shelf{Kept: Kept{Store: root, Service: "wiki", Logger: log}, t: t, engine: e, tree: t.TempDir()}
	return s
}

func (s *shelf) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.tree, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) seal() string {
	s.t.Helper()
	res, err := s.engine.Seal(s.t.Context(), replication.SealRequest{Term: 1, Roots: map[string]string{"data": s.tree}, Definition: []byte("{}")})
	if err != nil {
		s.t.Fatal(err)
	}
	return res.ID.String()
}

func (s *shelf) do(steps ...error) {
	s.t.Helper()
	if err := errors.Join(steps...); err != nil {
		s.t.Fatal(err)
	}
}

func TestHistoryAndDiff(t *testing.T) {
	s := newShelf(t)
	long := strings.Repeat("long ", 1000)
	s.write("a", "first")
	s.write("dir/long", long)
	s.write("dir/odd\xff", "odd")
	first := s.seal()
	s.do(os.Rename(filepath.Join(s.tree, "dir/long"), filepath.Join(s.tree, "dir/long.old")), os.Remove(filepath.Join(s.tree, "dir/odd\xff")))
	s.write("a", "second")
	s.write("b", "new")
	second := s.seal()
	s.do(os.Chmod(filepath.Join(s.tree, "b"), 0o600), s.Pin(first, "the beginning"))
	third := s.seal()
	h, err := s.History()
	if err != nil {
		t.Fatal(err)
	}
	for i := range h.Generations {
		if g := &h.Generations[i]; g.At.IsZero() || g.CapturedAt.IsZero() {
			t.Errorf("%s has no time", g.ID)
		} else {
			g.At, g.CapturedAt = h.Generations[0].At, h.Generations[0].At
		}
	}
	at := h.Generations[0].At
	size := int64(len(long))
	want := []api.Generation{
		{ID: first, Parent: "none", At: at, CapturedAt: at, Entries: 5, Size: size + 8, Changed: 5, New: size + 8, Pinned: "the beginning"},
		{ID: second, Parent: first, At: at, CapturedAt: at, Entries: 5, Size: size + 9, Changed: 6, New: 9},
		{ID: third, Parent: second, At: at, CapturedAt: at, Entries: 5, Size: size + 9, Changed: 1, Head: true, Applied: true},
	}
	if d := cmp.Diff(want, h.Generations); d != "" || h.Head != third || h.StoreBytes < 4096 {
		t.Errorf("history %+v (-want +got):\n%s", h, d)
	}
	d, err := s.Diff(first, "head")
	if err != nil {
		t.Fatal(err)
	}
	wantDiff := api.Diff{
		Service: "wiki", From: first, To: "head", New: 9,
		Counts: map[string]int{"added": 1, "removed": 1, "changed": 1, "renamed": 1, "metadata": 2},
		Changes: []api.DiffChange{
			{Kind: "metadata", Volume: "data", Path: "."},
			{Kind: "changed", Volume: "data", Path: "a", Before: 5, After: 6, New: 6},
			{Kind: "added", Volume: "data", Path: "b", After: 3, New: 3},
			{Kind: "metadata", Volume: "data", Path: "dir"},
			{Kind: "renamed", Volume: "data", Path: "dir/long.old", From: "dir/long", Before: size, After: size},
			{Kind: "removed", Volume: "data", Path: `"dir/odd\xff"`, Before: 3},
		},
	}
	if diff := cmp.Diff(wantDiff, d); diff != "" {
		t.Errorf("diff (-want +got):\n%s", diff)
	}
	if _, err := s.Diff(first, "1.9"); api.KindOf(err) != api.KindNotFound {
		t.Errorf("with what there is not: %v", err)
	}
	s.do(s.Unpin(first))
	if err := s.Unpin(first); api.KindOf(err) != api.KindNotFound {
		t.Errorf("unpinned twice: %v", err)
	}
}

// TestRestoreGoesOn: an interrupted restore is gone on with, and what was changed in
// between is put right; a foreign directory is left alone.
func TestRestoreGoesOn(t *testing.T) {
	s := newShelf(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		s.write(name, "content of "+name)
	}
	first := s.seal()
	s.write("a", "later")
	s.seal()
	to := filepath.Join(t.TempDir(), "to")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Restore(ctx, first, to); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	h, err := s.History()
	if err != nil || h.Generations[0].Pinned == "" {
		t.Errorf("the generation could be pruned before the restore is done: %+v, %v", h, err)
	}
	if _, err := s.Restore(t.Context(), "head", to); api.KindOf(err) != api.KindArgs {
		t.Errorf("another over it: %v", err)
	}
	s.do(os.MkdirAll(filepath.Join(to, "data"), 0o700), os.WriteFile(filepath.Join(to, "data", "b"), []byte("content of x"), 0o644))
	if _, err := s.Restore(t.Context(), first, to); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		if b, err := os.ReadFile(filepath.Join(to, "data", name)); err != nil || string(b) != "content of "+name {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	left, err := os.ReadDir(to)
	if err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
	if h, err := s.History(); err != nil || h.Generations[0].Pinned != "" {
		t.Errorf("still pinned: %+v, %v", h, err)
	}
	if _, err := s.Restore(t.Context(), first, to); api.KindOf(err) != api.KindArgs {
		t.Errorf("over what is there: %v", err)
	}
}

// countdown is a context that is over once it was asked so often.
type countdown struct {
	context.Context
	left *atomic.Int64
}

func (c countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestRestoreIsNotBegunAnew: wherever a restore is interrupted, what it had written stays as it is.
func TestRestoreIsNotBegunAnew(t *testing.T) {
	s := newShelf(t)
	names := []string{"a", "b", "c", "d", "e", "f"}
	for _, name := range names {
		s.write(name, "content of "+name)
	}
	first := s.seal()
	halfway := 0
	for asked := int64(0); ; asked++ {
		to := filepath.Join(t.TempDir(), "to")
		left := &atomic.Int64{}
		left.Store(asked)
		_, err := s.Restore(countdown{context.Background(), left}, first, to)
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		had := map[string]fs.FileInfo{}
		for _, name := range names {
			if fi, err := os.Stat(filepath.Join(to, "data", name)); err == nil {
				had[name] = fi
			}
		}
		if n := len(had); 0 < n && n < len(names) {
			halfway++
		}
		if _, err := s.Restore(t.Context(), first, to); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			fi, err := os.Stat(filepath.Join(to, "data", name))
			if err != nil {
				t.Fatal(err)
			}
			if was := had[name]; was != nil && !os.SameFile(was, fi) {
				t.Errorf("interrupted after %d looks, %s was written again", asked, name)
			}
		}
	}
	if halfway == 0 {
		t.Error("it was never interrupted half-way")
	}
}

// TestRestoreVerifies: a damaged pack is noticed, not written out.
func TestRestoreVerifies(t *testing.T) {
	s := newShelf(t)
	s.write("a", strings.Repeat("content ", 100))
	first := s.seal()
	packs, err := filepath.Glob(filepath.Join(s.Store, "services/wiki/packs/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	b, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 4
	s.do(os.Chmod(packs[0], 0o600), os.WriteFile(packs[0], b, 0o600))
	if _, err := s.Restore(t.Context(), first, filepath.Join(t.TempDir(), "to")); !errors.Is(err, replication.ErrBadHash) {
		t.Errorf("restored from a damaged pack: %v", err)
	}
}

func TestPruneSaysFirst(t *testing.T) {
	s := newShelf(t)
	for _, text := range []string{"1", "2", "3", "4", "5"} {
		s.write("a", text)
		s.seal()
	}
	dry, err := s.Prune(store.Policy{KeepLast: 2}, true)
	if err != nil || !dry.DryRun || len(dry.Generations) == 0 || dry.Bytes == 0 {
		t.Fatalf("%+v, %v", dry, err)
	}
	done, err := s.Prune(store.Policy{KeepLast: 2}, false)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(dry.Generations, done.Generations); d != "" || dry.Kept != done.Kept {
		t.Errorf("said %+v, did %+v", dry, done)
	}
}
