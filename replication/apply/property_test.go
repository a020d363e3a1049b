package apply

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
	"github.com/understudy-ha/understudy/replication/watch"
)

// Random trees, changed at random, restarted and interrupted at random: after
// each cycle the standby has what the active has.
func TestAnyChangesArrive(t *testing.T) {
	mounts := map[string]string{}
	for _, fs := range treetest.FileSystems {
		mounts[fs] = treetest.Mount(t, fs)
	}
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		dir := filepath.Join(mounts[rapid.SampledFrom(treetest.FileSystems).Draw(rt, "fs")], strconv.Itoa(run))
		defer func() { treetest.Must(t, os.RemoveAll(dir)) }()
		r := newRig(t, dir)
		if rapid.Bool().Draw(rt, "hints") {
			w, err := watch.New(watch.Options{})
			treetest.Must(t, err)
			defer func() { treetest.Must(t, w.Close()) }()
			treetest.Must(t, w.Add("data", r.src))
			r.hints = w
		}
		r.frozen = func() { // what was written at the last moment counts
			for range rapid.IntRange(0, 3).Draw(rt, "changes before the freeze") {
				change(rt, r.src)
			}
		}
		for range rapid.IntRange(1, 5).Draw(rt, "cycles") {
			for range rapid.IntRange(1, 12).Draw(rt, "changes") {
				change(rt, r.src)
			}
			if rapid.IntRange(0, 4).Draw(rt, "lost capture") == 0 {
				w := r.home.NewPack()
				_, _ = r.take(w) // its generation is not committed
				w.Abort()
			}
			if !r.capture(t) {
				continue
			}
			if rapid.Bool().Draw(rt, "skip a shipment") && r.next.Seq > 2 {
				r.ship(t)
				continue
			}
			r.ship(t)
			interrupt(rt, r)
			r.apply(t)
			r.checkTree(t)
			treetest.Same(t, r.src, r.dst)
			if t.Failed() {
				rt.FailNow()
			}
		}
	})
}

// interrupt lets an apply fail at some step, and perhaps the agent restart.
func interrupt(rt *rapid.T, r *rig) {
	left := rapid.IntRange(0, 30).Draw(rt, "steps before a failure")
	r.hook = func(string) error {
		if left--; left < 0 {
			return errKilled
		}
		return nil
	}
	_, _ = r.applier.Apply(context.Background(), r.base.ID, r.roots()) // may fail
	r.hook = nil
	if rapid.Bool().Draw(rt, "restart") {
		a, err := New(filepath.Join(r.dir, "state"), r.standby, Options{Hook: r.hook})
		if err != nil {
			rt.Fatal(err)
		}
		r.applier = a
	}
}

// change does one thing to the tree; what makes no sense there does nothing.
func change(rt *rapid.T, dir string) {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "a/a", "a/b", "a-", "d/a", "d/d", "d/d/a"})
	at := func(label string) string { return filepath.Join(dir, name.Draw(rt, label)) }
	p := at("path")
	switch what := rapid.IntRange(0, 12).Draw(rt, "what"); what {
	case 0, 1:
		_ = os.Mkdir(p, 0o755)
	case 2, 3:
		n := rapid.SampledFrom([]int{0, 1, 4096, 70_000, 1 << 20, 1<<20 + 1, 2_500_000}).Draw(rt, "size")
		// Not blocking: it may be a FIFO.
		if f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, 0o600); err == nil {
			_, _ = f.Write(bytes.Repeat([]byte{byte('a' + n%7)}, n))
			_ = f.Close()
		}
	case 4:
		if st, err := os.Lstat(filepath.Dir(p)); err == nil && st.IsDir() { // RemoveAll opens it: a FIFO blocks
			_ = os.RemoveAll(p)
		}
	case 5:
		_ = os.Rename(p, at("to"))
	case 6:
		_ = os.Link(p, at("to"))
	case 7:
		_ = os.Symlink(name.Draw(rt, "target"), p)
	case 8:
		_ = unix.Lchown(p, rapid.IntRange(0, 3).Draw(rt, "uid"), 1)
	case 9:
		if st, err := os.Lstat(p); err == nil && st.Mode()&os.ModeSymlink == 0 {
			_ = os.Chmod(p, os.FileMode(rapid.IntRange(0, 0o777).Draw(rt, "mode")))
			_ = os.Chtimes(p, time.Time{}, time.Unix(int64(what), rapid.Int64Range(0, 999_999_999).Draw(rt, "ns")))
		}
	case 10:
		_ = unix.Lsetxattr(p, fmt.Sprintf("trusted.%d", rapid.IntRange(0, 2).Draw(rt, "attr")), []byte(p), 0)
	case 11:
		if f, err := os.OpenFile(p, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
			_, _ = f.WriteAt([]byte("patched"), int64(rapid.SampledFrom([]int{0, 5000, 1 << 20, 3 << 20}).Draw(rt, "at")))
			_ = f.Close()
		}
	case 12:
		_ = unix.Mkfifo(p, 0o600)
	}
}
