package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/capture"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
	"github.com/understudy-ha/understudy/replication/watch"
)

// rig is an active and a standby on one file system.
type rig struct {
	dir           string
	src, dst      string // live trees
	home, standby *store.Store
	applier       *Applier
	hook          durable.Hook // of the applier; may be changed
	base          *replication.Manifest
	index         *tree.Index
	next          replication.ID
	last          *capture.Result
	capturer      *capture.Capturer
	hints         capture.Hints
	frozen, thaw  func() // called in each freeze, and at its end
	loose         bool
	processes     func() ([]int, error)
	log           *slog.Logger // of the applier, from the next reopen on
}

// Freeze lets the test act in the freeze.
func (r *rig) Freeze(context.Context) (func() error, error) {
	if r.frozen != nil {
		r.frozen()
	}
	return func() error {
		if r.thaw != nil {
			r.thaw()
		}
		return nil
	}, nil
}

// watch lets captures look only where the kernel tells that something changed.
func (r *rig) watch(t testing.TB) {
	t.Helper()
	w, err := watch.New(watch.Options{})
	treetest.Must(t, err)
	t.Cleanup(func() { treetest.Must(t, w.Close()) })
	treetest.Must(t, w.Add("data", r.src))
	r.hints = w
}

func newRig(t testing.TB, dir string) *rig {
	t.Helper()
	return newRigWith(t, dir, store.Options{})
}

func newRigWith(t testing.TB, dir string, o store.Options) *rig {
	t.Helper()
	r := &rig{dir: dir, capturer: capture.New(capture.Options{}), next: replication.ID{Term: 1, Seq: 1}}
	for _, d := range []string{"active", "active/_data", "standby", "standby/_data"} {
		treetest.Must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	r.src, r.dst = filepath.Join(dir, "active/_data"), filepath.Join(dir, "standby/_data")
	for _, s := range []struct {
		name string
		to   **store.Store
	}{{"home", &r.home}, {"away", &r.standby}} {
		treetest.Must(t, os.MkdirAll(filepath.Join(dir, s.name), 0o755))
		st, err := store.Open(filepath.Join(dir, s.name), "svc", o)
		treetest.Must(t, err)
		t.Cleanup(func() { treetest.Must(t, st.Close()) })
		*s.to = st
	}
	r.reopen(t)
	return r
}

// reopen makes the applier anew, as after a restart.
func (r *rig) reopen(t testing.TB) {
	t.Helper()
	a, err := New(filepath.Join(r.dir, "state"), r.standby, Options{Logger: r.log, Hook: func(step string) error { return r.hook.At(step) }})
	treetest.Must(t, err)
	r.applier = a
}

func (r *rig) roots() map[string]string { return map[string]string{"data": r.dst} }

// capture takes a generation and commits it at home; false: nothing changed.
func (r *rig) capture(t testing.TB) bool {
	t.Helper()
	w := r.home.NewPack()
	defer w.Abort()
	res, err := r.take(w)
	if errors.Is(err, replication.ErrUnchanged) {
		r.index = res.Index
		return false
	}
	treetest.Must(t, err)
	_, err = w.Seal()
	treetest.Must(t, err)
	m := &replication.Manifest{Format: replication.FormatVersion, Service: "svc", ID: r.next, Volumes: res.Volumes, Delta: res.Delta}
	if r.base != nil {
		m.Parent = r.base.ID
	}
	treetest.Must(t, r.home.Commit(m))
	res.Index.ID = m.ID
	r.base, r.index, r.last = m, res.Index, res
	r.next.Seq++
	return true
}

func (r *rig) take(w capture.Sink) (*capture.Result, error) {
	q := capture.Request{
		Volumes: []capture.Volume{{Name: "data", Path: r.src, StageDir: filepath.Join(r.dir, "active/stage")}},
		Base:    r.base, Index: r.index, Sink: w, Content: r.home.Get, Hints: r.hints, Processes: r.processes, Freezer: r,
	}
	if r.loose {
		q.Freezer, q.Loose = nil, true
	}
	return r.capturer.Capture(context.Background(), q)
}

// ship sends what the standby lacks, as the wire would.
func (r *rig) ship(t testing.TB) {
	t.Helper()
	missing, err := r.standby.Missing(treetest.Chunks(r.base))
	treetest.Must(t, err)
	packs, cleanup, err := r.home.PacksFor(missing)
	defer cleanup()
	treetest.Must(t, err)
	for _, p := range packs {
		treetest.Must(t, r.standby.AcceptPack(r.send(t, p.Path), p.Hash))
	}
	m := *r.base
	if head, err := r.standby.Head(); err != nil || head != m.Parent || m.Delta != nil && m.Delta.Base != head {
		treetest.Must(t, err)
		m.Delta = nil
	}
	b, err := store.EncodeManifest(&m)
	treetest.Must(t, err)
	path := filepath.Join(r.standby.IncomingDir(), "sent.manifest")
	treetest.Must(t, os.WriteFile(path, b, 0o600))
	treetest.Must(t, r.standby.CommitEncoded(path, r.base.ID))
}

func (r *rig) send(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	treetest.Must(t, err)
	to := filepath.Join(r.standby.IncomingDir(), filepath.Base(path))
	treetest.Must(t, os.WriteFile(to, b, 0o600))
	return to
}

func (r *rig) apply(t testing.TB) *Result {
	t.Helper()
	res, err := r.applier.Apply(context.Background(), r.base.ID, r.roots())
	treetest.Must(t, err)
	return res
}

// check: the standby's tree is the base exactly, by content and by record.
func (r *rig) check(t testing.TB) {
	t.Helper()
	r.checkTree(t)
	if x := r.applier.Index(); x == nil || x.ID != r.base.ID {
		t.Errorf("the index is not of the applied generation: %+v", x)
	}
}

func (r *rig) checkTree(t testing.TB) {
	t.Helper()
	diffs, err := r.applier.Verify(context.Background(), r.base.ID, r.roots())
	treetest.Must(t, err)
	for _, d := range diffs {
		t.Error(d)
	}
	at, err := r.applier.Applied()
	treetest.Must(t, err)
	if at != r.base.ID {
		t.Errorf("applied is %s, want %s", at, r.base.ID)
	}
}

// cycle is capture, ship, apply and check.
func (r *rig) cycle(t testing.TB) *Result {
	t.Helper()
	if !r.capture(t) {
		t.Fatal("nothing changed")
	}
	r.ship(t)
	res := r.apply(t)
	r.check(t)
	return res
}

func patch(t testing.TB, path string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	treetest.Must(t, err)
	_, err = f.WriteAt(data, at)
	treetest.Must(t, err)
	treetest.Must(t, f.Close())
}

// mutations are the ways in which a tree changes from one generation to the next.
var mutations = []struct {
	name string
	do   func(t testing.TB, in func(string) string)
}{
	{"append", func(t testing.TB, in func(string) string) { patch(t, in("plain"), 6, []byte("more")) }},
	{"one page of a large file", func(t testing.TB, in func(string) string) { patch(t, in("large"), 1<<20+5, []byte("PATCH")) }},
	{"truncate", func(t testing.TB, in func(string) string) { treetest.Must(t, os.Truncate(in("large"), 1<<20+1)) }},
	{"grow by a hole", func(t testing.TB, in func(string) string) { treetest.Must(t, os.Truncate(in("large"), 4<<20)) }},
	{"fill a hole", func(t testing.TB, in func(string) string) {
		patch(t, in("sparse"), 3<<20, bytes.Repeat([]byte("f"), 70000))
	}},
	{"directory to file", func(t testing.TB, in func(string) string) {
		treetest.Must(t, os.RemoveAll(in("sub")))
		treetest.Write(t, in("sub"), []byte("now a file"))
	}},
	{"file to directory", func(t testing.TB, in func(string) string) {
		treetest.Must(t, os.Remove(in("sub")))
		treetest.Must(t, os.MkdirAll(in("sub/again"), 0o711))
		treetest.Write(t, in("sub/again/f"), []byte("f"))
	}},
	{"symlink to directory", func(t testing.TB, in func(string) string) {
		treetest.Must(t, os.Remove(in("symdir")))
		treetest.Must(t, os.Mkdir(in("symdir"), 0o700))
		treetest.Write(t, in("symdir/f"), []byte("f"))
	}},
	{"metadata only", func(t testing.TB, in func(string) string) {
		treetest.Must(t, os.Chown(in("ping"), 1, 2))
		treetest.Must(t, os.Chmod(in("acl"), 0o711))
		treetest.Must(t, os.Lchown(in("dangling"), 9, 9))
	}},
	{"break a hard link", func(t testing.TB, in func(string) string) {
		treetest.Must(t, os.Remove(in("!first/hard"))) // the leader
		treetest.Must(t, os.Link(in("plain"), in("zz-hard")))
	}},
	{"rename a directory", func(t testing.TB, in func(string) string) {
		treetest.Must(t, os.Rename(in("acl"), in("lca")))
	}},
	{"swap two files", func(t testing.TB, in func(string) string) {
		treetest.Must(t, os.Rename(in("plain"), in("tmp")))
		treetest.Must(t, os.Rename(in("nothing"), in("plain")))
		treetest.Must(t, os.Rename(in("tmp"), in("nothing")))
	}},
	{"flags", func(t testing.TB, in func(string) string) {
		treetest.Chattr(t, "+i", in("nothing"), in("zeros"), in("lca"), in("sparse"), in("."))
		treetest.Chattr(t, "+a", in("large"), in("empty"), in("sub/again"), in("sub/again/f"))
	}},
	{"changes of what has flags", func(t testing.TB, in func(string) string) {
		treetest.Chattr(t, "-ia", in("."), in("nothing"), in("zeros"), in("lca"), in("large"), in("empty"), in("sub/again"), in("sub/again/f"))
		treetest.Must(t, os.Remove(in("zz-hard"))) // of nothing
		treetest.Must(t, os.Link(in("nothing"), in("zz-other")))
		treetest.Must(t, os.Remove(in("zeros")))
		patch(t, in("large"), 1<<20, []byte("BENEATH"))
		treetest.Must(t, os.Chown(in("nothing"), 7, 8)) // which has other names
		treetest.Write(t, in("lca/new"), []byte("in an immutable directory"))
		treetest.Must(t, os.RemoveAll(in("sub/again")))
		treetest.Must(t, os.Rename(in("empty"), in("void")))
		treetest.Chattr(t, "+i", in("lca"), in("large"), in("nothing"), in("lca/new"))
		treetest.Chattr(t, "+a", in("void"))
	}},
	{"flags go", func(t testing.TB, in func(string) string) {
		treetest.Free(t, in("."))
	}},
	{"nearly everything goes", func(t testing.TB, in func(string) string) {
		names, err := os.ReadDir(in("."))
		treetest.Must(t, err)
		for _, n := range names {
			if n.Name() != "large" {
				treetest.Must(t, os.RemoveAll(in(n.Name())))
			}
		}
	}},
}

// inside gives paths below dir; filepath.Join would clean odd names, so it is not used.
func inside(dir string) func(string) string {
	return func(name string) string { return fmt.Sprintf("%s/%s", dir, name) }
}

// settle waits until what was written is at rest for a capture.
func settle() { time.Sleep(30 * time.Millisecond) }
