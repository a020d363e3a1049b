package apply

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

func TestRoundTrip(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			r := newRig(t, treetest.Mount(t, fs))
			treetest.Corpus(t, r.src)
			if w := r.cycle(t).Unkept.String(); w != "" {
				t.Errorf("unkept: %s", w)
			}
			treetest.Same(t, r.src, r.dst)
			if got := r.base.Volumes[0].Skipped; got != 1 {
				t.Errorf("%d sockets counted, there is 1", got)
			}
			for _, m := range mutations {
				t.Run(m.name, func(t *testing.T) {
					m.do(t, inside(r.src))
					r.cycle(t)
					treetest.Same(t, r.src, r.dst)
				})
			}
		})
	}
}

func TestOverWhateverIsThere(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			r := newRig(t, treetest.Mount(t, fs))
			treetest.Corpus(t, r.src)
			treetest.Corpus(t, r.dst) // another node's, with other content and shape
			in := inside(r.dst)
			for _, m := range mutations[:9] {
				m.do(t, in)
			}
			treetest.Write(t, in("foreign"), []byte("foreign"))
			treetest.Must(t, os.MkdirAll(in("foreign.d/x/y"), 0o700))
			r.cycle(t)
			treetest.Same(t, r.src, r.dst)
		})
	}
}

// A former active's tree is read, and only what differs is written.
func TestReturnWritesOnlyTheDifference(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "xfs"))
	treetest.Corpus(t, r.src)
	r.cycle(t)
	patch(t, r.dst+"/plain", 0, []byte("DIRTY"))
	treetest.Must(t, r.applier.SetApplied(replication.ID{}))
	r.reopen(t)
	res := r.apply(t)
	r.check(t)
	treetest.Same(t, r.src, r.dst)
	if res.Bytes > 64<<10 {
		t.Errorf("%d bytes written for a change of 5", res.Bytes)
	}
}

func TestReflinkWritesOnlyChangedChunks(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "xfs"))
	treetest.Corpus(t, r.src)
	r.cycle(t)
	patch(t, r.src+"/large", 2<<20, []byte("x"))
	if res := r.cycle(t); res.Bytes != replication.ChunkSize {
		t.Errorf("%d bytes written, one chunk changed", res.Bytes)
	}
}

// What apply knows of the tree it wrote makes the first capture after a
// promotion cheap, also after a restart.
func TestIndexAfterPromotion(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "xfs"))
	treetest.Corpus(t, r.src)
	treetest.Must(t, os.Remove(r.src+"/a.sock")) // not carried, so it would count as a change
	r.cycle(t)
	settle() // what the last apply wrote is looked at again: only that
	patch(t, r.src+"/suid", 0, []byte("S"))
	r.cycle(t)
	treetest.Must(t, r.applier.SaveIndex())
	r.reopen(t)
	r.index = r.applier.Index()
	r.src = r.dst
	r.dir += "/standby"
	treetest.Must(t, os.MkdirAll(r.dir+"/active", 0o700))
	patch(t, r.src+"/ping", 0, []byte("P"))
	settle()
	if !r.capture(t) {
		t.Fatal("the change was not seen")
	}
	if r.last.Changed != 1 || r.last.BytesRead > 64<<10 {
		t.Errorf("%d entries changed, one was; %d bytes read", r.last.Changed, r.last.BytesRead)
	}
}

// Leaving the generation for a promotion does not lose the index.
func TestIndexOutlivesLeaving(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "ext4"))
	small(t, inside(r.src))
	r.cycle(t)
	treetest.Must(t, r.applier.SetApplied(replication.ID{}))
	at, err := r.applier.Applied()
	x := r.applier.Index()
	if err != nil || !at.IsZero() || x == nil || x.ID != r.base.ID || x.Volumes["data"].Len() != r.base.Volumes[0].Entries.Len() {
		t.Fatalf("applied %s, %v, index %+v", at, err, x)
	}
}

func TestVerifyFinds(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "ext4"))
	treetest.Corpus(t, r.src)
	r.cycle(t)
	for name, harm := range map[string]func(in func(string) string){
		"content":  func(in func(string) string) { patch(t, in("large"), 5, []byte("!")) },
		"hole":     func(in func(string) string) { patch(t, in("hole"), 1<<24, []byte("!")) },
		"metadata": func(in func(string) string) { treetest.Must(t, os.Chmod(in("suid"), 0o755)) },
		"missing":  func(in func(string) string) { treetest.Must(t, os.Remove(in("sub/x"))) },
		"too many": func(in func(string) string) { treetest.Write(t, in("extra"), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			harm(inside(r.dst))
			diffs, err := r.applier.Verify(context.Background(), r.base.ID, r.roots())
			if err != nil || len(diffs) == 0 {
				t.Errorf("nothing found: %v", err)
			}
			treetest.Must(t, r.applier.SetApplied(replication.ID{}))
			r.apply(t)
			r.check(t)
			treetest.Same(t, r.src, r.dst)
		})
	}
}

func TestMaterialize(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "xfs"))
	treetest.Corpus(t, r.src)
	r.cycle(t)
	first := r.base.ID
	frozen := r.dst
	to := t.TempDir() // another file system
	patch(t, r.src+"/plain", 0, []byte("LATER"))
	treetest.Must(t, os.RemoveAll(r.src+"/sub"))
	if !r.capture(t) {
		t.Fatal("nothing changed")
	}
	r.ship(t)
	if _, err := Materialize(context.Background(), r.standby, first, to); err != nil {
		t.Fatal(err)
	}
	treetest.Same(t, frozen, to+"/data")
}

// A long apply must not keep anybody waiting who asks where the trees are: the agent
// tells its watchdog and its peers what it knows of every service.
func TestAppliedDoesNotWaitForAnApply(t *testing.T) {
	r := newRig(t, treetest.Mount(t, "ext4"))
	treetest.Write(t, filepath.Join(r.src, "f"), []byte("content"))
	r.capture(t)
	r.ship(t)
	asked := 0
	r.hook = func(string) error {
		j, err := r.applier.Pending()
		treetest.Must(t, err)
		at, err := r.applier.Applied()
		treetest.Must(t, err)
		asked++
		if !at.IsZero() && j != nil && j.To != at {
			t.Errorf("in the middle of an apply the trees are at %s", at)
		}
		return nil
	}
	_, err := r.applier.Apply(t.Context(), r.base.ID, r.roots())
	treetest.Must(t, err)
	if asked == 0 {
		t.Error("nobody asked during the apply")
	}
}

// TestDamagedJournal: an apply was under way, of what nobody can tell any more.
func TestDamagedJournal(t *testing.T) {
	for _, damaged := range []string{"", "{", `{"From":{},"To":{}}-00000000`} {
		r := newRig(t, treetest.Mount(t, "ext4"))
		treetest.Write(t, r.src+"/file", []byte("content"))
		r.cycle(t)
		treetest.Must(t, os.WriteFile(r.dst+"/file", []byte("half written"), 0o600))
		treetest.Must(t, os.WriteFile(r.applier.journalPath(), []byte(damaged), 0o600))
		if at, err := r.applier.Applied(); err != nil || !at.IsZero() {
			t.Errorf("with the journal %q the trees are at %s, %v", damaged, at, err)
		}
		r.apply(t)
		r.check(t)
	}
}
