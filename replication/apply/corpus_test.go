package apply

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// One of everything, and then whatever a seed does to it: after each cycle rsync
// finds nothing to do.
func TestCorpusAfterRandomChanges(t *testing.T) {
	for i, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			seed := treetest.Seed(t)
			r := newRig(t, treetest.Mount(t, fs))
			treetest.Corpus(t, r.src)
			change, done := treetest.NewChanger(t, seed, r.src), map[string]int{}
			if seed%2 == uint64(i) {
				t.Log("with hints, and so without flags: the kernel does not tell of them")
				r.watch(t)
				change.NoFlags = true
			}
			r.cycle(t)
			treetest.Same(t, r.src, r.dst)
			for round := 0; round < 3 && !t.Failed(); round++ {
				change.Change(80, done)
				if !r.capture(t) {
					continue
				}
				r.ship(t)
				if w := r.apply(t).Unkept.String(); w != "" {
					t.Errorf("unkept: %s", w)
				}
				r.check(t)
				treetest.Same(t, r.src, r.dst)
				if got, want := r.base.Volumes[0].Skipped, change.Sockets(); got != want {
					t.Errorf("%d sockets counted, there are %d", got, want)
				}
			}
			for _, what := range slices.Sorted(maps.Keys(done)) {
				t.Logf("%3d × %s", done[what], what)
			}
		})
	}
}

// What is in the way of the first synchronisation may be protected too.
func TestOverWhatIsProtected(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			r := newRig(t, treetest.Mount(t, fs))
			treetest.Corpus(t, r.src)
			treetest.Corpus(t, r.dst)
			patch(t, r.dst+"/large", 0, []byte("other"))
			in := inside(r.dst)
			treetest.Must(t, os.MkdirAll(in("foreign/x/y"), 0o700))
			treetest.Write(t, in("foreign/x/f"), []byte("foreign"))
			treetest.Must(t, os.Link(in("foreign/x/f"), in("foreign-link")))
			treetest.Chattr(t, "+i", in("large"), in("plain"), in("foreign/x/f"), in("foreign/x/y"), in("foreign/x"), in("acl"), in("sparse"))
			treetest.Chattr(t, "+a", in("zeros"), in("foreign"), in("sub"), in("."))
			r.cycle(t)
			treetest.Same(t, r.src, r.dst)
		})
	}
}

// A receiver that knows neither labels nor flags has them in its store, says what
// it cannot apply, and applies the rest.
func TestReceiverWithoutLabelsAndFlags(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			r := newRig(t, treetest.Mount(t, fs))
			treetest.Must(t, unix.Mount("none", r.dst, "ramfs", 0, ""))
			t.Cleanup(func() { treetest.Must(t, unix.Unmount(r.dst, unix.MNT_DETACH)) })
			in := inside(r.src)
			treetest.Write(t, in("file"), []byte("file"))
			treetest.Must(t, os.Mkdir(in("dir"), 0o750))
			treetest.Must(t, os.Symlink("file", in("link")))
			for _, name := range []string{"file", "dir", "link"} {
				treetest.Must(t, unix.Lsetxattr(in(name), treetest.Label, []byte("system_u:object_r:etc_t:s0"), 0))
			}
			treetest.Chattr(t, "+i", in("file"))
			treetest.Chattr(t, "+a", in("dir"))
			const want = `3 × attribute "security.selinux" (operation not supported), 2 × immutable or append-only flag; the first: `
			said := r.cycle(t).Unkept.String()
			for _, path := range []string{`"data/file"`, `"data/dir"`, `"data/link"`} {
				if !strings.HasPrefix(said, want) || !strings.Contains(said, path) {
					t.Errorf("it says %s", said)
				}
			}
			m, err := r.standby.Load(r.base.ID)
			treetest.Must(t, err)
			es := m.Volumes[0].Entries
			if got := es.Get("link").Xattrs[treetest.Label]; string(got) != "system_u:object_r:etc_t:s0" {
				t.Errorf("the store has the label %q", got)
			}
			if es.Get("file").Flags != replication.FlagImmutable || es.Get("dir").Flags != replication.FlagAppendOnly {
				t.Errorf("the store has the flags %d and %d", es.Get("file").Flags, es.Get("dir").Flags)
			}
			if b, err := os.ReadFile(filepath.Join(r.dst, "link")); err != nil || string(b) != "file" {
				t.Errorf("%q, %v", b, err)
			}
			// The store can give it all to somebody who can have it.
			to := filepath.Join(r.dir, "restored")
			treetest.Must(t, os.Mkdir(to, 0o755))
			unkept, err := Materialize(t.Context(), r.standby, r.base.ID, to)
			if err != nil || unkept.String() != "" {
				t.Fatalf("%v, %s", err, unkept)
			}
			treetest.Same(t, r.src, to+"/data")
		})
	}
}
