package watch

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// choose picks one of n.
type choose func(n int, label string) int

// disturb does one thing to a place that has the volumes v and w and the
// directory o, which is in neither; what makes no sense there does nothing.
func disturb(pick choose, dir string) {
	names := []string{"a", "b", "c", "a/a", "a/b", "b/a", "b/a/c", "c/\xff\n"}
	at := func(label string) string {
		return filepath.Join(dir, []string{"v", "v", "w", "o"}[pick(4, label+" place")], names[pick(len(names), label)])
	}
	p := at("path")
	switch what := pick(13, "what"); what {
	case 0, 1:
		_ = os.Mkdir(p, 0o755)
	case 2, 3:
		_ = open(p, os.O_CREATE|unix.O_NONBLOCK, text(fmt.Sprint(pick(1000, "text"))))
	case 4:
		_ = open(p, os.O_APPEND|unix.O_NONBLOCK, text("more"))
	case 5:
		_ = os.Truncate(p, int64(pick(3, "size")))
	case 6:
		if st, err := os.Lstat(filepath.Dir(p)); err == nil && st.IsDir() { // RemoveAll opens it: a FIFO blocks
			_ = os.RemoveAll(p)
		}
	case 7, 8:
		_ = os.Rename(p, at("to"))
	case 9:
		_ = unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, at("to"), unix.RENAME_EXCHANGE)
	case 10:
		_ = os.Symlink("a", p)
	case 11:
		_ = unix.Lchown(p, pick(3, "uid"), 1)
		_ = unix.Lsetxattr(p, "trusted.x", []byte{byte(what)}, 0)
	case 12:
		_ = unix.Fchmodat(unix.AT_FDCWD, p, uint32(pick(512, "mode")), unix.AT_SYMLINK_NOFOLLOW)
		_ = os.Chtimes(p, time.Time{}, time.Unix(int64(pick(1000, "mtime")), 7))
	}
}

// differ names a path that two models know differently. Access times do not count.
func differ(a, b *model) string {
	for p, st := range a.know {
		other, ok := b.know[p]
		st.Atim, other.Atim = unix.Timespec{}, unix.Timespec{}
		if !ok || st != other {
			return fmt.Sprintf("%q: %+v, %+v", p, st, other)
		}
	}
	for p := range b.know {
		if _, ok := a.know[p]; !ok {
			return fmt.Sprintf("%q is not known", p)
		}
	}
	return ""
}

// Whatever happens, who looks only where the hints say knows the tree as it is.
func TestHintsAreEnough(t *testing.T) {
	mounts := map[string]string{}
	for _, kind := range kinds {
		mounts[kind] = treetest.Mount(t, kind)
	}
	w := newWatcher(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		dir := filepath.Join(mounts[rapid.SampledFrom(kinds).Draw(rt, "fs")], strconv.Itoa(run))
		models := prepare(t, w, dir)
		links := rapid.Bool().Draw(rt, "with hard links")
		pick := func(n int, label string) int { return rapid.IntRange(0, n-1).Draw(rt, label) }
		for range rapid.IntRange(1, 6).Draw(rt, "batches") {
			for range rapid.IntRange(1, 12).Draw(rt, "changes") {
				if links && pick(6, "link") == 0 {
					link(pick, dir)
				}
				disturb(pick, dir)
				if pick(8, "the queue is emptied") == 0 {
					w.tick()
				}
			}
			h := w.Take()
			for name, m := range models {
				if h[name].All {
					rt.Fatalf("%s: all is to be looked at", name)
				}
				m.update(h[name])
				if why := differ(m, newModel(m.root)); why != "" {
					rt.Fatalf("%s: after %v: %s", name, h[name], why)
				}
			}
		}
		treetest.Must(t, os.RemoveAll(dir))
	})
}

// link makes a second name in the volume v, which stays at least until the next
// look: one that comes and goes between two looks is not told (see the package doc).
func link(pick choose, dir string) {
	from := filepath.Join(dir, "v", []string{"a", "b", "a/a"}[pick(3, "linked")])
	for i := range 1000 {
		to := filepath.Join(dir, "v", "link"+strconv.Itoa(i))
		if _, err := os.Lstat(to); err != nil {
			_ = os.Link(from, to)
			return
		}
	}
}

// prepare makes the volumes, has them watched, and gives what is known of them.
func prepare(t testing.TB, w *Watcher, dir string) map[string]*model {
	t.Helper()
	models := map[string]*model{}
	treetest.Must(t, os.MkdirAll(filepath.Join(dir, "o"), 0o755))
	for _, name := range []string{"v", "w"} {
		root := filepath.Join(dir, name)
		treetest.Must(t, os.Mkdir(root, 0o755))
		treetest.Must(t, w.Add(name, root))
		models[name] = newModel(root)
	}
	w.Take()
	return models
}

// While others write all the time, and the hints are acted upon meanwhile: once
// it is quiet, the tree is known as it is.
func TestHintsAreEnoughUnderWay(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			w := newWatcher(t)
			dir := treetest.Mount(t, kind)
			models := prepare(t, w, dir)
			for round := range 10 {
				seed := rand.Uint64()
				done := make(chan struct{}, 2)
				for i := range uint64(cap(done)) {
					go func() {
						r := rand.New(rand.NewPCG(seed, i))
						for range 1500 {
							disturb(func(n int, _ string) int { return r.IntN(n) }, dir)
						}
						done <- struct{}{}
					}()
				}
				for running := cap(done); running > 0; {
					select {
					case <-done:
						running--
					default:
					}
					takeAll(w, models)
				}
				takeAll(w, models)
				for name, m := range models {
					if why := differ(m, newModel(m.root)); why != "" {
						t.Fatalf("round %d, seed %d, %s: %s", round, seed, name, why)
					}
				}
			}
		})
	}
}

func takeAll(w *Watcher, models map[string]*model) {
	h := w.Take()
	for _, name := range []string{"v", "w"} {
		models[name].update(h[name])
	}
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, headerLen))
	w, err := New(Options{})
	if err != nil {
		f.Skip(err)
	}
	defer w.Close()
	dir, err := os.MkdirTemp("", "watch")
	treetest.Must(f, err)
	defer os.RemoveAll(dir)
	treetest.Must(f, w.Add("v", dir))
	treetest.Must(f, os.WriteFile(filepath.Join(dir, "name"), nil, 0o600))
	treetest.Must(f, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	n, err := unix.Read(w.group, w.buf)
	treetest.Must(f, err)
	f.Add(append([]byte(nil), w.buf[:n]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			e, rest, err := next(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) || e.dir != nil && (len(e.dir) < fsidLen+handleLen || len(e.name) == 0) {
				t.Fatalf("%+v, rest %d of %d", e, len(rest), len(b))
			}
			if e.dir != nil {
				e.handle()
			}
			b = rest
		}
	})
}
