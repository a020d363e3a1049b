package capture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
	"github.com/understudy-ha/understudy/replication/watch"
)

// watched makes captures look only where the kernel tells that something changed.
func (b *bench) watched(t testing.TB) {
	t.Helper()
	w, err := watch.New(watch.Options{})
	treetest.Must(t, err)
	t.Cleanup(func() { treetest.Must(t, w.Close()) })
	treetest.Must(t, w.Add("v", b.vol.Path))
	b.hints = w
	if b.with == nil {
		b.with = New(Options{Settle: racy})
	}
}

// wantAll: the last generation is what a capture that knows nothing finds.
func (b *bench) wantAll(t testing.TB) {
	t.Helper()
	all := &bench{vol: b.vol, sink: memory{}}
	all.vol.StageDir += "-all"
	all.must(t)
	put, del := replication.Diff(b.base.Volumes[0].Entries, all.base.Volumes[0].Entries)
	for _, e := range put {
		t.Errorf("%q was captured as %+v, it is %+v", e.Path, b.base.Volumes[0].Entries.Get(e.Path), e)
	}
	for _, path := range del {
		t.Errorf("%q was captured, it is gone", path)
	}
	for e := range all.base.Volumes[0].Entries.All() {
		for _, c := range e.Chunks {
			if !b.sink.Has(c.Hash) {
				t.Errorf("%q at %d: this content was not given out", e.Path, c.Offset)
			}
		}
	}
}

// again writes other content of the same length, and keeps the modification time.
func again(path, text string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close(), os.Chtimes(path, st.ModTime(), st.ModTime()))
}

// change is what happens to a tree that holds the files f, d/x, d/y and e/x, all of
// one size and time, the empty directory void, the symlink s, and last, which is
// first/name too.
type change struct {
	name  string
	reads bool // content is new
	told  bool // by the kernel, too
	do    func(in func(string) string) error
}

var changes = []change{
	{"same size and time, other content", true, true, func(in func(string) string) error { // rsync#310
		return again(in("f"), "two")
	}},
	{"the clock was set back when it was written", true, true, func(in func(string) string) error {
		return errors.Join(again(in("f"), "two"), os.Chtimes(in("f"), time.Time{}, time.Unix(86400, 7)))
	}},
	{"replaced by a file that looks the same", true, true, func(in func(string) string) error {
		err := os.WriteFile(in("new"), []byte("two"), 0o640)
		return errors.Join(err, os.Chtimes(in("new"), stamp, stamp), os.Rename(in("new"), in("f")))
	}},
	{"mode", false, true, func(in func(string) string) error { return os.Chmod(in("f"), 0o600) }},
	{"mode of a directory", false, true, func(in func(string) string) error { return os.Chmod(in("d"), 0o711) }},
	{"owner", false, true, func(in func(string) string) error { return os.Lchown(in("s"), 3, 4) }},
	{"attribute", false, true, func(in func(string) string) error { return unix.Setxattr(in("f"), "user.a", []byte("1"), 0) }},
	{"label", false, true, func(in func(string) string) error { return label(in("f")) }},
	{"label of a directory", false, true, func(in func(string) string) error { return label(in("d")) }},
	{"label of a symlink", false, true, func(in func(string) string) error { return label(in("s")) }},
	{"ACL", false, true, func(in func(string) string) error {
		return unix.Setxattr(in("d"), "system.posix_acl_default", treetest.ACL(7, 5, 0), 0)
	}},
	{"time", false, true, func(in func(string) string) error { return os.Chtimes(in("d/x"), time.Time{}, time.Unix(-5, 9)) }},
	{"flags", false, false, func(in func(string) string) error { return flag(in("f")) }},
	{"directory over an empty one", false, true, func(in func(string) string) error {
		return unix.Rename(in("d"), in("void"))
	}},
	{"directory exchanged with one of the same names", false, true, func(in func(string) string) error {
		return unix.Renameat2(unix.AT_FDCWD, in("d"), unix.AT_FDCWD, in("e"), unix.RENAME_EXCHANGE)
	}},
	{"directory over another that was emptied", false, true, func(in func(string) string) error {
		return errors.Join(os.Remove(in("e/x")), unix.Rename(in("d"), in("e")))
	}},
	{"directory over another, and a new one in its place", true, true, func(in func(string) string) error {
		return errors.Join(unix.Rename(in("d"), in("void")), os.Mkdir(in("d"), 0o700), os.WriteFile(in("d/x"), []byte("new"), 0o600))
	}},
	{"file over a directory", false, true, func(in func(string) string) error {
		return errors.Join(os.RemoveAll(in("d")), os.Rename(in("f"), in("d")))
	}},
	{"symlink leads elsewhere", false, true, func(in func(string) string) error {
		return errors.Join(os.Symlink("d/y", in("s2")), os.Rename(in("s2"), in("s")))
	}},
	{"the directory of a hard link's first name moves", false, true, func(in func(string) string) error {
		return os.Rename(in("first"), in("moved"))
	}},
	{"the directory of a hard link's first name moves behind the other", false, true, func(in func(string) string) error {
		return os.Rename(in("first"), in("zz"))
	}},
	{"the directory of a hard link's first name goes", false, true, func(in func(string) string) error { return os.RemoveAll(in("first")) }},
	{"another name", false, true, func(in func(string) string) error { return os.Link(in("f"), in("a")) }},
}

// tick is more than one of the slowest kernel clock: within one, old kernels tell no change.
const tick = 12 * time.Millisecond

var stamp = time.Unix(1e9, 5)

func label(path string) error {
	return unix.Lsetxattr(path, treetest.Label, []byte("system_u:object_r:new_t:s0"), 0)
}

func flag(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_APPEND)
}

// Each change alone is found, with what the kernel tells and without, and content
// is given out only where it is new.
func TestEachChangeIsCaptured(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			mnt := treetest.Mount(t, fs)
			for i, c := range changes {
				for _, hints := range []bool{false, true} {
					if hints && !c.told {
						continue
					}
					t.Run(fmt.Sprintf("%s/hints=%v", c.name, hints), func(t *testing.T) {
						dir := fmt.Sprintf("%s/%d-%v", mnt, i, hints)
						treetest.Must(t, os.Mkdir(dir, 0o755))
						b := newBench(t, dir)
						treetest.Must(t, errors.Join(os.Mkdir(b.in("d"), 0o755), os.Mkdir(b.in("e"), 0o755), os.Mkdir(b.in("void"), 0o755), os.Symlink("d/x", b.in("s"))))
						for name, text := range map[string]string{"f": "one", "d/x": "d-x", "d/y": "d-y", "e/x": "e-x"} {
							treetest.Write(t, b.in(name), []byte(text))
							treetest.Must(t, os.Chtimes(b.in(name), stamp, stamp))
						}
						treetest.Must(t, errors.Join(os.WriteFile(b.in("last"), nil, 0o600), os.Mkdir(b.in("first"), 0o700), os.Link(b.in("last"), b.in("first/name"))))
						// What is young is looked at in any case: to a clock that is ahead nothing is.
						b.with = New(Options{Now: func() time.Time { return time.Now().Add(time.Second) }})
						if hints {
							b.watched(t)
						}
						b.must(t)
						time.Sleep(tick)
						known := len(b.sink)
						treetest.Must(t, c.do(b.in))
						b.must(t)
						b.wantAll(t)
						if (len(b.sink) > known) != c.reads {
							t.Errorf("%d new contents", len(b.sink)-known)
						}
						if _, err := b.capture(); !errors.Is(err, replication.ErrUnchanged) {
							t.Errorf("and once more: %v", err)
						}
					})
				}
			}
		})
	}
}

// Whatever the clock is set to between captures, what changes is seen.
func TestClockIsSet(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		for _, hints := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/hints=%v", fs, hints), func(t *testing.T) {
				b := newBench(t, treetest.Mount(t, fs))
				treetest.Write(t, b.in("f"), []byte("000"))
				treetest.Write(t, b.in("db"), make([]byte, 5<<20))
				shift := time.Duration(0)
				b.with = New(Options{Now: func() time.Time { return time.Now().Add(shift) }})
				if hints {
					b.watched(t)
				}
				defer func() { treetest.Must(t, b.with.Close()) }()
				b.must(t)
				for n, to := range []time.Duration{time.Hour, -time.Hour, 10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour, time.Second, 0} {
					shift = to
					for m := range 3 { // at once
						treetest.Must(t, again(b.in("f"), fmt.Sprintf("%d-%d", n, m)))
						f, err := os.OpenFile(b.in("db"), os.O_WRONLY, 0)
						treetest.Must(t, err)
						_, err = f.WriteAt([]byte{byte(10*n + m + 1)}, 1<<20)
						treetest.Must(t, errors.Join(err, f.Close()))
						b.must(t)
						if got := b.sink.content(t, b.entry(t, "f")); string(got) != fmt.Sprintf("%d-%d", n, m) {
							t.Errorf("with the clock %s off, change %d: %q was captured", to, m, got)
						}
						if got := b.content(t, "db"); got[1<<20] != byte(10*n+m+1) {
							t.Errorf("with the clock %s off, change %d of the large file was not captured", to, m)
						}
					}
				}
			})
		}
	}
}

// content is what was captured of a file, parts of earlier content included.
func (b *bench) content(t testing.TB, path string) []byte {
	t.Helper()
	e := b.entry(t, path)
	out := make([]byte, e.Size)
	for _, c := range e.Chunks {
		data := b.sink[c.Hash]
		if int64(len(data)) < c.Skip+c.Length {
			t.Fatalf("%q: what lies at %d is not in the sink", path, c.Offset)
		}
		copy(out[c.Offset:], data[c.Skip:c.Skip+c.Length])
	}
	return out
}

// silent tells of nothing, or that everything may have changed.
type silent struct{ all bool }

func (s *silent) Take() watch.Hints {
	return watch.Hints{"v": watch.VolumeHints{All: s.all}}
}

// A hint is a hint: what nobody told is found from time to time, and at once after an overflow.
func TestWhatIsNotToldIsFound(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"))
	tell, ahead := &silent{}, time.Duration(0)
	b.hints, b.with = tell, New(Options{Settle: racy, Now: func() time.Time { return time.Now().Add(ahead) }})
	treetest.Write(t, b.in("f"), []byte("one"))
	b.must(t)
	time.Sleep(2 * racy)
	for i, look := range []func(){
		func() { ahead += fullEvery + time.Second },
		func() { tell.all = true },
	} {
		_, err := b.capture() // now the file is too old to be looked at in any case
		if !errors.Is(err, replication.ErrUnchanged) {
			t.Fatal(err)
		}
		treetest.Must(t, os.Chmod(b.in("f"), 0o600+os.FileMode(i)+1))
		if _, err := b.capture(); !errors.Is(err, replication.ErrUnchanged) {
			t.Fatalf("this tests nothing: %v", err)
		}
		look()
		b.must(t)
		b.wantAll(t)
		tell.all = false
		time.Sleep(2 * racy)
	}
}

// What happens to a file while it is read does not tear it: it is captured as it is
// afterwards, with a freeze and without.
func TestChangedWhileItIsRead(t *testing.T) {
	events := []struct {
		name string
		do   func(in func(string) string) error
	}{
		{"vanishes", func(in func(string) string) error { return os.Remove(in("d/f")) }},
		{"grows", func(in func(string) string) error { return os.Truncate(in("d/f"), 9<<20) }},
		{"shrinks", func(in func(string) string) error { return os.Truncate(in("d/f"), 70_000) }},
		{"is emptied", func(in func(string) string) error { return os.Truncate(in("d/f"), 0) }},
		{"changes, of the same size and time", func(in func(string) string) error { return again(in("d/f"), "other") }},
		{"is replaced", func(in func(string) string) error {
			st, err := os.Stat(in("d/f"))
			if err != nil {
				return err
			}
			err = os.WriteFile(in("new"), bytes.Repeat([]byte("n"), int(st.Size())), 0o640)
			return errors.Join(err, os.Chtimes(in("new"), st.ModTime(), st.ModTime()), os.Rename(in("new"), in("d/f")))
		}},
		{"becomes a directory", func(in func(string) string) error {
			return errors.Join(os.Remove(in("d/f")), os.Mkdir(in("d/f"), 0o700), os.WriteFile(in("d/f/g"), []byte("g"), 0o600))
		}},
		{"becomes a symlink out", func(in func(string) string) error {
			return errors.Join(os.Remove(in("d/f")), os.Symlink("/etc/passwd", in("d/f")))
		}},
		{"becomes a FIFO", func(in func(string) string) error {
			return errors.Join(os.Remove(in("d/f")), unix.Mkfifo(in("d/f"), 0o600))
		}},
		{"its directory moves", func(in func(string) string) error { return os.Rename(in("d"), in("moved")) }},
		{"its directory becomes a symlink out", func(in func(string) string) error {
			return errors.Join(os.RemoveAll(in("d")), os.Symlink("/etc", in("d")))
		}},
		{"gets another mode", func(in func(string) string) error { return os.Chmod(in("d/f"), 0o600) }},
	}
	for _, fs := range treetest.FileSystems {
		mnt := treetest.Mount(t, fs)
		for i, ev := range events {
			for _, size := range []int{50_000, 6 << 20} {
				for _, loose := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/%d/loose=%v", fs, ev.name, size, loose), func(t *testing.T) {
						dir := fmt.Sprintf("%s/%d-%d-%v", mnt, i, size, loose)
						treetest.Must(t, os.Mkdir(dir, 0o755))
						b := newBench(t, dir)
						// To a clock that is ahead the file has been at rest: so it is read before the freeze.
						b.with = New(Options{Now: func() time.Time { return time.Now().Add(time.Second) }})
						defer func() { treetest.Must(t, b.with.Close()) }()
						if b.loose = loose; loose {
							b.freeze = nil
						}
						treetest.Must(t, os.Mkdir(b.in("d"), 0o755))
						treetest.Write(t, b.in("d/f"), bytes.Repeat([]byte("0123456789abcdef"), size/16))
						treetest.Write(t, b.in("still"), []byte("still"))
						happened := false
						b.onPut = func() {
							happened = true
							time.Sleep(tick)
							treetest.Must(t, ev.do(b.in))
						}
						b.must(t)
						if !happened {
							t.Fatal("nothing was read: this tests nothing")
						}
						b.wantAll(t)
						treetest.Must(t, os.RemoveAll(dir))
					})
				}
			}
		}
	}
}

// Files that were written just now are few enough to be set aside in the freeze, or are let come to
// rest before it.
func TestManyBusyFilesAreReadBeforeTheFreeze(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			b := newBench(t, treetest.Mount(t, fs))
			for n := range 2 * manyBusy {
				treetest.Write(t, b.in(fmt.Sprint(n)), bytes.Repeat([]byte{byte(n)}, smallFile+1+n))
			}
			if res := b.must(t); res.Cloned+res.Copied >= manyBusy {
				t.Errorf("%d cloned and %d copied in the freeze", res.Cloned, res.Copied)
			}
			b.wantAll(t)
		})
	}
}

// A file that changed just before it was captured may have been in the middle of a write, early or
// in the freeze: it is looked at once more, and no more when it stays as it is.
func TestWhatJustChangedIsLookedAtAgain(t *testing.T) {
	for _, rest := range []time.Duration{0, time.Second} { // busy, or long at rest to a clock that is ahead
		b := newBench(t, t.TempDir())
		ahead := rest
		b.with = New(Options{Settle: time.Minute, Now: func() time.Time { return time.Now().Add(ahead) }})
		treetest.Write(t, b.in("f"), []byte("one"))
		b.must(t)
		if got := b.index.Unsure["v"]; !slices.Contains(got, "f") {
			t.Errorf("at rest for %s: only %q is looked at again", rest, got)
		}
		ahead += time.Hour
		for range 2 { // it is read, and found to be the same; then it is old enough
			if _, err := b.capture(); !errors.Is(err, replication.ErrUnchanged) {
				t.Fatal(err)
			}
		}
		if got := b.index.Unsure["v"]; len(got) > 0 {
			t.Errorf("%q is looked at for ever", got)
		}
	}
}

// Whether a large busy file can be cloned hangs on the file: where its volume is not the stage's
// file system it is read before the freeze, and in the freeze only compared.
func TestLargeFileOnAnotherFileSystemThanTheStage(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"))
	b.vol.Path = treetest.Mount(t, "ext4") + "/_data"
	treetest.Must(t, os.Mkdir(b.vol.Path, 0o755))
	treetest.Write(t, b.in("db"), bytes.Repeat([]byte("0123456789abcdef"), 6<<20/16))
	b.with = New(Options{Now: func() time.Time { return time.Now().Add(-time.Hour) }}) // nothing is at rest to it
	if res := b.must(t); res.Copied != 0 || res.Cloned != 0 {
		t.Errorf("%d copied and %d cloned in the freeze", res.Copied, res.Cloned)
	}
	b.wantAll(t)
}
