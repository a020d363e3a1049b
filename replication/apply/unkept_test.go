package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// poor is a rig whose standby's file system takes neither labels nor flags; log is what
// its applier says.
func poor(t *testing.T, dir string) (r *rig, log *bytes.Buffer) {
	t.Helper()
	r, log = newRig(t, dir), &bytes.Buffer{}
	treetest.Must(t, unix.Mount("none", r.dst, "ramfs", 0, ""))
	t.Cleanup(func() { treetest.Must(t, unix.Unmount(r.dst, unix.MNT_DETACH)) })
	r.log = slog.New(slog.NewTextHandler(log, nil))
	r.reopen(t)
	return r, log
}

func label(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		treetest.Must(t, unix.Lsetxattr(p, treetest.Label, []byte("system_u:object_r:etc_t:s0"), 0))
	}
}

const (
	labelKind = `attribute "security.selinux" (operation not supported)`
	flagKind  = `immutable or append-only flag`
)

// What the live trees lack stays known, through applies that do not touch it and
// through a restart, until it is different or gone.
func TestUnkept(t *testing.T) {
	r, log := poor(t, treetest.Mount(t, "ext4"))
	in := inside(r.src)
	odd := "odd\xff"
	treetest.Must(t, os.Mkdir(in("dir"), 0o755))
	for _, name := range []string{"a", "b", odd, "large", "other", "zz"} {
		treetest.Write(t, in(name), []byte(name))
	}
	label(t, in("a"), in("b"), in(odd), in("dir"))
	treetest.Chattr(t, "+a", in("a"), in("zz"))
	lines := 0
	for _, step := range []struct {
		name string
		do   func()
		said bool   // in the log, in a line
		want string // of the trees
	}{
		{"the first", func() {}, true, `4 × ` + labelKind + `, 2 × ` + flagKind + `; the first: "data/a", "data/b", "data/dir"`},
		{"something else", func() { treetest.Write(t, in("other"), []byte("changed")) }, false, `4 × ` + labelKind + `, 2 × ` + flagKind + `; the first: "data/a", "data/b", "data/dir"`},
		{"a restart", func() { r.reopen(t); treetest.Write(t, in("other"), nil) }, false, `4 × ` + labelKind + `, 2 × ` + flagKind + `; the first: "data/a", "data/b", "data/dir"`},
		{"a new file in a directory", func() { treetest.Write(t, in("dir/new"), []byte("x")) }, true, `4 × ` + labelKind + `, 2 × ` + flagKind + `; the first: "data/a", "data/b", "data/dir"`},
		{"one that was in it", func() { treetest.Write(t, in("dir/new"), []byte("y")) }, false, `4 × ` + labelKind + `, 2 × ` + flagKind + `; the first: "data/a", "data/b", "data/dir"`},
		{"new content", func() { treetest.Write(t, in("b"), []byte("changed")) }, true, `4 × ` + labelKind + `, 2 × ` + flagKind + `; the first: "data/a", "data/b", "data/dir"`},
		{"a flag goes", func() { treetest.Chattr(t, "-a", in("a")) }, true, `4 × ` + labelKind + `, 1 × ` + flagKind + `; the first: "data/a", "data/b", "data/dir"`},
		{"another name", func() { treetest.Must(t, os.Rename(in("a"), in("c"))) }, true, `4 × ` + labelKind + `, 1 × ` + flagKind + `; the first: "data/b", "data/c", "data/dir"`},
		{"of what comes first", func() { treetest.Must(t, os.Link(in("b"), in("!"))) }, true, `4 × ` + labelKind + `, 1 × ` + flagKind + `; the first: "data/!", "data/c", "data/dir"`},
		{"labels go", func() {
			for _, name := range []string{"b", "c", "dir"} {
				treetest.Must(t, unix.Removexattr(in(name), treetest.Label))
			}
		}, false, `1 × ` + labelKind + `, 1 × ` + flagKind + `; the first: "data/odd\xff", "data/zz"`},
		{"a file goes", func() { treetest.Must(t, os.Remove(in(odd))) }, false, `1 × ` + flagKind + `; the first: "data/zz"`},
		{"all goes", func() { treetest.Chattr(t, "-a", in("zz")) }, false, ``},
	} {
		step.do()
		r.cycle(t)
		if got := r.applier.Unkept(); got != step.want {
			t.Errorf("%s: %s\nwant %s", step.name, got, step.want)
		}
		said := bytes.Count(log.Bytes(), []byte("does not take all metadata")) - lines
		lines += said
		if step.said != (said == 1) || said > 1 {
			t.Errorf("%s: %d lines in the log:\n%s", step.name, said, log)
		}
	}
	if _, err := os.Stat(r.applier.unkeptPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing is to be remembered, and there is a record: %v", err)
	}
}

// However much it is, a line says it and little is kept; a comparison of the whole trees
// finds out anew.
func TestUnkeptIsBounded(t *testing.T) {
	r, log := poor(t, treetest.Mount(t, "ext4"))
	in := inside(r.src)
	treetest.Write(t, in("f"), nil)
	for n := range 20 {
		treetest.Must(t, unix.Setxattr(in("f"), fmt.Sprintf("user.%02d", n), []byte("x"), 0))
	}
	r.capture(t)
	r.ship(t)
	r.apply(t)
	if got := r.applier.Unkept(); !strings.HasPrefix(got, "12 × other attributes, 1 × ") || strings.Count(got, "user.") != unkeptKinds {
		t.Error(got)
	}
	treetest.Must(t, os.Remove(in("f")))
	for n := range unkeptMost + 100 {
		name := fmt.Sprint(n)
		treetest.Write(t, in(name), nil)
		label(t, in(name))
	}
	log.Reset()
	r.cycle(t)
	want := fmt.Sprintf(`%d × %s; the first: "data/0", "data/1", "data/10"; and more`, unkeptMost, labelKind)
	if got := r.applier.Unkept(); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if said := fmt.Sprintf("%d × ", unkeptMost+100); strings.Count(log.String(), "\n") != 1 || log.Len() > 500 || !strings.Contains(log.String(), said) {
		t.Errorf("in the log is\n%s", log)
	}
	for n := range unkeptMost + 100 {
		treetest.Must(t, os.Remove(in(fmt.Sprint(n))))
	}
	r.cycle(t)
	if got := r.applier.Unkept(); got != "more" { // than was known
		t.Error(got)
	}
	treetest.Must(t, os.Remove(r.applier.appliedPath())) // as where the generation was pruned
	r.reopen(t)
	r.apply(t)
	if got := r.applier.Unkept(); got != "" {
		t.Errorf("compared as a whole: %s", got)
	}
	treetest.Write(t, in("f"), nil)
	treetest.Write(t, in("g"), nil)
	label(t, in("f"))
	r.cycle(t)
	for range 2 {
		if got, want := r.applier.Unkept(), `1 × `+labelKind+`; the first: "data/f"`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		treetest.Must(t, r.applier.SetApplied(replication.ID{}))
		r.reopen(t)
		if got := r.applier.Unkept(); got != "" {
			t.Errorf("of trees that are the containers': %s", got)
		}
		r.apply(t)
	}
	treetest.Must(t, os.WriteFile(r.applier.unkeptPath(), []byte(`{"volumes": null}`), 0o600))
	r.reopen(t)
	label(t, in("g"))
	r.cycle(t)
	if got, want := r.applier.Unkept(), `1 × `+labelKind+`; the first: "data/g"`; got != want {
		t.Errorf("with a record that cannot be read: %s", got)
	}
	both := &remembered{Volumes: map[string]map[string]refusal{"data": {`"f"`: {Flags: []string{flagKind}}}, "gone": {`"f"`: {Flags: []string{flagKind}}}}}
	origin := &replication.Manifest{Volumes: []replication.Volume{{Name: "data"}, {Name: "gone"}}}
	both.begin(&way{origin: origin, target: &replication.Manifest{Volumes: origin.Volumes[:1]}})
	if got, want := both.String(), `1 × `+flagKind+`; the first: "data/f"`; got != want || !both.dirty {
		t.Errorf("of a volume that is gone: %s", got)
	}
}

// Stopped before any of its steps and done again, an apply knows what is lacking.
func TestUnkeptInterrupted(t *testing.T) {
	mnt := treetest.Mount(t, "ext4")
	for n, done := 0, false; !done; n++ {
		r, _ := poor(t, filepath.Join(mnt, fmt.Sprint(n)))
		in := inside(r.src)
		for _, name := range []string{"a", "b", "c"} {
			treetest.Write(t, in(name), []byte(name))
		}
		label(t, in("a"), in("b"))
		r.cycle(t)
		treetest.Must(t, os.Remove(in("a")))
		label(t, in("c"))
		r.capture(t)
		r.ship(t)
		step := 0
		r.hook = func(string) error {
			if step++; step > n {
				return errKilled
			}
			return nil
		}
		_, err := r.applier.Apply(context.Background(), r.base.ID, r.roots())
		r.hook = nil
		if done = err == nil; !done && !errors.Is(err, errKilled) {
			t.Fatalf("step %d: %v", n, err)
		}
		r.reopen(t)
		r.apply(t)
		r.checkTree(t)
		if got, want := r.applier.Unkept(), `2 × `+labelKind+`; the first: "data/b", "data/c"`; got != want {
			t.Errorf("stopped at step %d: %s", n, got)
		}
	}
}
