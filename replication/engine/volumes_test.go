package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// process is a freezer of one process, by the signals that stop it and let it go on.
type process struct{ *os.Process }

func (p process) Freeze(context.Context) (func() error, error) {
	if err := p.Signal(unix.SIGSTOP); err != nil {
		return nil, err
	}
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		if err != nil {
			return nil, err
		}
		if _, state, ok := strings.Cut(string(stat), ") "); ok && state[0] == 'T' {
			return func() error { return p.Signal(unix.SIGCONT) }, nil
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// nobody is a freezer of containers that do nothing by themselves.
type nobody struct{}

func (nobody) Freeze(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}

// several is a node's engine with live trees on several file systems.
type several struct {
	*Engine
	t     *testing.T
	roots map[string]string
}

func newSeveral(t *testing.T, dir string, roots map[string]string) *several {
	t.Helper()
	treetest.Must(t, os.MkdirAll(dir, 0o755))
	e, err := Open(Options{Root: dir, Service: "svc", Logger: slog.New(slog.DiscardHandler)})
	treetest.Must(t, err)
	t.Cleanup(func() { treetest.Must(t, e.Close()) })
	s := &several{Engine: e, t: t, roots: roots}
	for _, root := range roots {
		treetest.Must(t, os.MkdirAll(root, 0o755))
	}
	return s
}

func (s *several) seal(f replication.Freezer) (replication.SealResult, error) {
	return s.Seal(s.t.Context(), replication.SealRequest{Term: 1, Roots: s.roots, Definition: []byte("def"), Freezer: f})
}

func (s *several) sendTo(o *several, id replication.ID) {
	s.t.Helper()
	(&side{Engine: s.Engine, t: s.t}).send(&side{Engine: o.Engine, t: s.t}, id)
	treetest.Must(s.t, o.Apply(s.t.Context(), o.roots))
}

// A process that counts in one volume and then in the other, on two file systems, is
// at one instant in each generation: what came later is not there without what came before.
func TestOneInstantOfAllVolumes(t *testing.T) {
	xfs, ext4 := treetest.Mount(t, "xfs"), treetest.Mount(t, "ext4")
	a := newSeveral(t, xfs+"/store", map[string]string{"first": xfs + "/first/_data", "second": ext4 + "/second/_data"})
	b := newSeveral(t, ext4+"/store", map[string]string{"first": xfs + "/standby/_data", "second": ext4 + "/standby/_data"})
	writer := exec.Command("sh", "-c", `i=100000000; while :; do i=$((i+1)); printf $i 1<>"$0/n"; printf $i 1<>"$1/n"; done`, a.roots["first"], a.roots["second"])
	treetest.Must(t, writer.Start())
	defer func() {
		_ = writer.Process.Kill()
		_ = writer.Wait()
	}()
	read := func(path string) int {
		text, err := os.ReadFile(path + "/n")
		if err != nil || len(text) == 0 {
			return 0
		}
		n, err := strconv.Atoi(string(text))
		treetest.Must(t, err)
		return n
	}
	last := 0
	for range 15 {
		for end := time.Now().Add(time.Minute); read(a.roots["second"]) <= last; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the writer does not count")
			}
		}
		before := read(a.roots["second"])
		res, err := a.seal(process{writer.Process})
		treetest.Must(t, err)
		if !res.New {
			t.Fatal("no change was seen")
		}
		a.sendTo(b, res.ID)
		first, second := read(b.roots["first"]), read(b.roots["second"])
		if first != second && first != second+1 {
			t.Errorf("generation %s: %d in the first volume, %d in the second", res.ID, first, second)
		}
		if second < before {
			t.Errorf("generation %s is at %d, %d was written before", res.ID, second, before)
		}
		last = second
	}
}

// A new volume is in the next generation, one that is not there any more is said by
// name and costs no generation, and one that the service has no more is left out.
func TestVolumesComeAndGo(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			mnt := treetest.Mount(t, fs)
			at := func(node, volume string) string { return filepath.Join(mnt, node, volume, "_data") }
			a := newSeveral(t, mnt+"/a.store", map[string]string{"data": at("a", "data")})
			b := newSeveral(t, mnt+"/b.store", map[string]string{"data": at("b", "data")})
			next := func() {
				t.Helper()
				res, err := a.seal(nobody{})
				treetest.Must(t, err)
				if !res.New {
					t.Fatal("no change was seen")
				}
				a.sendTo(b, res.ID)
				for name, root := range a.roots {
					treetest.Same(t, root, b.roots[name])
				}
			}
			treetest.Write(t, a.roots["data"]+"/f", []byte("data"))
			next()

			for _, s := range []struct {
				*several
				node string
			}{{a, "a"}, {b, "b"}} {
				s.roots["new"] = at(s.node, "new")
				treetest.Must(t, os.MkdirAll(s.roots["new"], 0o755))
			}
			treetest.Write(t, a.roots["new"]+"/g", []byte("new"))
			next()

			treetest.Must(t, os.RemoveAll(mnt+"/a/new"))
			treetest.Write(t, a.roots["data"]+"/f", []byte("meanwhile"))
			head, err := a.Head()
			treetest.Must(t, err)
			if _, err := a.seal(nobody{}); err == nil || !strings.Contains(err.Error(), "volume new") || !strings.Contains(err.Error(), a.roots["new"]) {
				t.Fatalf("a volume that is not there: %v", err)
			}
			if now, err := a.Head(); err != nil || now != head {
				t.Fatalf("the head is %s (%v), it was %s", now, err, head)
			}
			if got := listing(t, b.roots["new"]); got != "g=new" {
				t.Errorf("the standby's is %q", got)
			}

			treetest.Must(t, os.MkdirAll(a.roots["new"], 0o755)) // as podman volume create makes it
			treetest.Write(t, a.roots["new"]+"/h", []byte("again"))
			next()

			delete(a.roots, "new")
			treetest.Must(t, os.RemoveAll(mnt+"/a/new"))
			next()
			m, err := b.HeadManifest()
			if err != nil || len(m.Volumes) != 1 || m.Volumes[0].Name != "data" {
				t.Errorf("%v, %+v", err, m)
			}
			if got := listing(t, b.roots["new"]); got != "h=again" {
				t.Errorf("what the standby had of it is %q", got)
			}
			if res, err := a.seal(nobody{}); err != nil || res.New {
				t.Errorf("and once more: %+v, %v", res, err)
			}
		})
	}
}

// A volume that the service's definition names is not on the node any more. No generation goes
// without it; what the others hold is kept, and an apply makes all of it whole.
func TestVolumeIsMissing(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		for _, wrote := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, wrote %v", fs, wrote), func(t *testing.T) {
				mnt := treetest.Mount(t, fs)
				roots := map[string]string{"data": mnt + "/data", "gone": mnt + "/gone"}
				a := newSeveral(t, mnt+"/store", roots)
				treetest.Write(t, roots["data"]+"/f", []byte("data"))
				treetest.Write(t, roots["gone"]+"/g", []byte("of value"))
				res, err := a.seal(nil)
				treetest.Must(t, err)
				treetest.Must(t, a.Recheck()) // its containers run
				treetest.Must(t, os.RemoveAll(roots["gone"]))
				if wrote {
					treetest.Write(t, roots["data"]+"/f", []byte("written since"))
				}
				r := replication.SealRequest{Term: 1, Roots: map[string]string{"data": roots["data"]}, Missing: []string{"gone"}, Definition: []byte("def")}
				if _, err := a.Seal(t.Context(), r); !errors.Is(err, replication.ErrMissingVolume) || !strings.Contains(err.Error(), "gone") {
					t.Errorf("sealed without it: %v", err)
				}
				sealed, archived, err := a.SealDirty(t.Context(), r)
				if err != nil || !sealed.ID.IsZero() || (archived != "") != wrote {
					t.Errorf("sealed as %s, archived as %q, %v", sealed.ID, archived, err)
				}
				if at := a.Applied(); !at.IsZero() {
					t.Errorf("the trees are said to be at %s", at)
				}
				if head, err := a.Head(); err != nil || head != res.ID {
					t.Errorf("the head is %s (%v), it was %s", head, err, res.ID)
				}
				if wrote {
					treetest.Must(t, a.CheckRestore(t.Context(), archived))
				}
				treetest.Must(t, os.MkdirAll(roots["gone"], 0o755)) // as Podman makes it
				treetest.Must(t, a.Apply(t.Context(), roots))
				if got := listing(t, roots["data"]) + ", " + listing(t, roots["gone"]); got != "f=data, g=of value" {
					t.Errorf("the trees are %q", got)
				}

				// The same while the node was a standby, and clean.
				treetest.Must(t, os.RemoveAll(roots["gone"]))
				if _, archived, err := a.CheckTree(t.Context(), r, false); err != nil || archived != "" || !a.Applied().IsZero() {
					t.Errorf("archived as %q, %v; the trees are said to be at %s", archived, err, a.Applied())
				}
				if head, err := a.Head(); err != nil || head != res.ID {
					t.Errorf("the head is %s (%v), it was %s", head, err, res.ID)
				}
			})
		}
	}
}
