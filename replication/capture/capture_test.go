package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// memory is a Sink.
type memory map[replication.Hash][]byte

func (m memory) Has(h replication.Hash) bool { _, ok := m[h]; return ok }

func (m memory) Put(h replication.Hash, data []byte, _ *tree.Twin, _ int64) error {
	m[h] = bytes.Clone(data)
	return nil
}

// content puts a file's content together again.
func (m memory) content(t testing.TB, e *replication.Entry) []byte {
	t.Helper()
	b := make([]byte, e.Size)
	for _, c := range e.Chunks {
		if int64(len(m[c.Hash])) != c.Length {
			t.Fatalf("%q: chunk at %d is not in the sink", e.Path, c.Offset)
		}
		copy(b[c.Offset:], m[c.Hash])
	}
	return b
}

// fakeFreezer counts, and lets a test act in the freeze.
type fakeFreezer struct {
	frozen        atomic.Bool
	froze, thawed atomic.Int32
	in            func()
	err, thawErr  error
}

func (f *fakeFreezer) Freeze(context.Context) (func() error, error) {
	if f.err != nil {
		return nil, f.err
	}
	f.frozen.Store(true)
	f.froze.Add(1)
	if f.in != nil {
		f.in()
	}
	return func() error {
		f.frozen.Store(false)
		f.thawed.Add(1)
		return f.thawErr
	}, nil
}

// bench is one volume with what is kept from capture to capture.
// racy is what a clock may stand still for.
const racy = 20 * time.Millisecond

type bench struct {
	vol     Volume
	mu      sync.Mutex // guards sink and onPut
	sink    memory
	base    *replication.Manifest
	index   *tree.Index
	freeze  *fakeFreezer
	freezer Freezer // instead of freeze
	limit   time.Duration
	loose   bool
	quiesce replication.Quiesce
	hints   Hints
	with    *Capturer                              // nil: a new one each time
	onPut   func()                                 // called once, in the next Put
	stored  func(replication.Hash) ([]byte, error) // nil: there is no store
}

func (b *bench) Has(h replication.Hash) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sink.Has(h)
}

func (b *bench) Put(h replication.Hash, data []byte, from *tree.Twin, at int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.onPut; f != nil {
		b.onPut = nil
		f()
	}
	if from != nil { // a pack would share these blocks, and have to hold what its index says
		there := make([]byte, len(data))
		if _, err := from.Clone.ReadAt(there, at); err != nil || !bytes.Equal(there, data) {
			return fmt.Errorf("the clone has something else at %d than what was read: %w", at, errors.Join(err, replication.ErrBadHash))
		}
	}
	return b.sink.Put(h, data, from, at)
}

func newBench(t testing.TB, dir string) *bench {
	t.Helper()
	b := &bench{vol: Volume{Name: "v", Path: dir + "/_data", StageDir: dir + "/stage"}, sink: memory{}, freeze: &fakeFreezer{}}
	treetest.Must(t, os.Mkdir(b.vol.Path, 0o755))
	return b
}

func (b *bench) in(name string) string { return b.vol.Path + "/" + name }

func (b *bench) capture() (*Result, error) {
	r := Request{Volumes: []Volume{b.vol}, Base: b.base, Index: b.index, Sink: b, FreezeMax: b.limit, Loose: b.loose, Quiesce: b.quiesce, Hints: b.hints, Content: b.stored}
	if b.freeze != nil {
		r.Freezer = b.freeze
	}
	if b.freezer != nil {
		r.Freezer = b.freezer
	}
	c := b.with
	if c == nil {
		c = New(Options{Settle: racy})
	}
	res, err := c.Capture(context.Background(), r)
	if err == nil {
		seq := uint64(1)
		if b.base != nil {
			seq = b.base.ID.Seq + 1
		}
		b.base = &replication.Manifest{ID: replication.ID{Term: 1, Seq: seq}, Volumes: res.Volumes}
		res.Index.ID = b.base.ID
	}
	if err == nil || errors.Is(err, replication.ErrUnchanged) {
		b.index = res.Index
	}
	return res, err
}

func (b *bench) must(t testing.TB) *Result {
	t.Helper()
	res, err := b.capture()
	treetest.Must(t, err)
	left, err := os.ReadDir(b.vol.StageDir)
	if err != nil || len(left) > 0 {
		t.Errorf("the stage is not empty: %v, %v", left, err)
	}
	return res
}

// entry of the last capture.
func (b *bench) entry(t testing.TB, path string) *replication.Entry {
	t.Helper()
	e := b.base.Volumes[0].Entries.Get(path)
	if e == nil {
		t.Fatalf("%q was not captured", path)
	}
	return e
}

func TestUnchangedIsNeitherFrozenNorRead(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"))
	treetest.Corpus(t, b.vol.Path)
	b.must(t)
	time.Sleep(2 * racy)
	// The first look may have to make sure of what was written a moment before the capture.
	if _, err := b.capture(); !errors.Is(err, replication.ErrUnchanged) {
		t.Fatal(err)
	}
	before := b.freeze.froze.Load()
	res, err := b.capture()
	if !errors.Is(err, replication.ErrUnchanged) || b.freeze.froze.Load() != before || res.BytesRead != 0 {
		t.Fatalf("%v; %d freezes, %d before; %+v", err, b.freeze.froze.Load(), before, res)
	}
	// A saved index says the same.
	p := filepath.Join(t.TempDir(), "index")
	treetest.Must(t, b.index.Save(p))
	b.index = tree.LoadIndex(p)
	if res, err := b.capture(); !errors.Is(err, replication.ErrUnchanged) || res.BytesRead != 0 {
		t.Fatalf("after a restart: %v, %+v", err, res)
	}
	// One of another generation says nothing.
	b.index.ID.Seq++
	if res, err := b.capture(); !errors.Is(err, replication.ErrUnchanged) || res.BytesRead == 0 {
		t.Fatalf("with another's index: %v, %+v", err, res)
	}
}

// An application may hold in memory what has changed: it is asked although no file has, also where the kernel
// tells of changes. Where it writes nothing then either, nobody stands still.
func TestUnchangedFilesOfAnApplication(t *testing.T) {
	for _, told := range []bool{false, true} {
		t.Run(fmt.Sprintf("watched: %v", told), func(t *testing.T) {
			b := newBench(t, treetest.Mount(t, "xfs"))
			if told {
				b.watched(t)
			}
			treetest.Corpus(t, b.vol.Path)
			b.must(t)
			time.Sleep(2 * racy)
			if _, err := b.capture(); !errors.Is(err, replication.ErrUnchanged) {
				t.Fatal(err)
			}
			holds, asked, resumed := "", 0, 0
			b.quiesce = func(context.Context) (func() error, error) {
				asked++
				if b.freeze.frozen.Load() {
					t.Error("it is asked while it stands still")
				}
				if holds != "" {
					treetest.Must(t, os.WriteFile(b.in("dump"), []byte(holds), 0o600))
				}
				return func() error { resumed++; return nil }, nil
			}
			froze := b.freeze.froze.Load()
			if res, err := b.capture(); !errors.Is(err, replication.ErrUnchanged) || asked != 1 || resumed != 1 || b.freeze.froze.Load() != froze || res.Index == nil {
				t.Fatalf("it holds nothing: %v; asked %d, resumed %d, frozen %d", err, asked, resumed, b.freeze.froze.Load()-froze)
			}
			holds = "what no file had"
			b.must(t)
			if got := string(b.content(t, "dump")); got != holds || asked != 2 || resumed != 2 || b.freeze.froze.Load() != froze+1 {
				t.Fatalf("captured is %q; asked %d, resumed %d, frozen %d", got, asked, resumed, b.freeze.froze.Load()-froze)
			}
		})
	}
}

func TestOnlyChangedFilesAreRead(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			b := newBench(t, treetest.Mount(t, fs))
			treetest.Corpus(t, b.vol.Path)
			b.must(t)
			time.Sleep(2 * racy)
			_, _ = b.capture()
			treetest.Write(t, b.in("sub/x"), []byte("changed"))
			treetest.Write(t, b.in("large"), bytes.Repeat([]byte("z"), 200_000))
			res := b.must(t)
			if res.Changed != 2 || res.BytesRead != 200_007 {
				t.Errorf("%d changed, %d bytes read", res.Changed, res.BytesRead)
			}
			if fs == "xfs" && res.Cloned != 1 || fs == "ext4" && res.Copied != 1 {
				t.Errorf("%d cloned, %d copied", res.Cloned, res.Copied)
			}
		})
	}
}

// Same size, same mtime, other content: ctime tells.
func TestSameSizeSameMtime(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "ext4"))
	treetest.Write(t, b.in("f"), []byte("one"))
	when := time.Unix(1e9, 5)
	treetest.Must(t, os.Chtimes(b.in("f"), when, when))
	time.Sleep(2 * racy)
	b.must(t)
	for _, text := range []string{"two", "six", "ten"} { // at once: within a clock tick
		f, err := os.OpenFile(b.in("f"), os.O_WRONLY, 0)
		treetest.Must(t, err)
		_, err = f.WriteString(text)
		treetest.Must(t, err)
		treetest.Must(t, f.Close())
		treetest.Must(t, os.Chtimes(b.in("f"), when, when))
		b.must(t)
		if got := b.sink.content(t, b.entry(t, "f")); string(got) != text {
			t.Errorf("captured %q, written %q", got, text)
		}
	}
}

// On a coarse clock a change right after a capture can leave the same stat:
// what is that young at a scan is looked at again. New kernels hide this, so
// the index is made to say what an old one's would.
func TestSameClockTick(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"))
	treetest.Write(t, b.in("f"), []byte("one"))
	b.must(t)
	treetest.Write(t, b.in("f"), []byte("two"))
	root, err := tree.OpenRoot(b.vol.Path)
	treetest.Must(t, err)
	nodes, err := root.Scan(context.Background())
	treetest.Must(t, errors.Join(err, root.Close()))
	b.index.Volumes["v"] = tree.NewNodes(nodes...)
	b.index.At, b.index.Unsure = nodes[1].Stat.CtimeNs+int64(racy)/2, nil
	b.must(t)
	if got := b.sink.content(t, b.entry(t, "f")); string(got) != "two" {
		t.Errorf("captured %q", got)
	}
}

// A store through a mapping of a page that is dirty already does not move
// ctime: captures flush, so that the next store does.
func TestMappedWritesAreSeen(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			b := newBench(t, treetest.Mount(t, fs))
			treetest.Write(t, b.in("db"), make([]byte, 256<<10))
			f, err := os.OpenFile(b.in("db"), os.O_RDWR, 0)
			treetest.Must(t, err)
			defer f.Close()
			m, err := unix.Mmap(int(f.Fd()), 0, 256<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			treetest.Must(t, err)
			defer unix.Munmap(m)
			for n := range byte(5) {
				time.Sleep(2 * racy)
				m[100_000] = n + 1
				b.must(t)
				if got := b.sink.content(t, b.entry(t, "db")); got[100_000] != n+1 {
					t.Errorf("store %d was missed", n+1)
				}
			}
		})
	}
}

// What is captured is the state in the freeze, not before or after.
func TestInstant(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			b := newBench(t, treetest.Mount(t, fs))
			treetest.Write(t, b.in("a"), bytes.Repeat([]byte("0"), 100_000))
			treetest.Write(t, b.in("gone"), []byte("x"))
			time.Sleep(2 * quiet) // at rest: read before the freeze
			b.freeze.in = func() {
				treetest.Write(t, b.in("a"), bytes.Repeat([]byte("1"), 100_001))
				treetest.Must(t, os.Remove(b.in("gone")))
			}
			b.must(t)
			if got := b.sink.content(t, b.entry(t, "a")); len(got) != 100_001 || got[0] != '1' {
				t.Errorf("captured %d × %q", len(got), got[0])
			}
			if n := b.base.Volumes[0].Entries.Len(); n != 2 {
				t.Errorf("%d entries", n)
			}
		})
	}
}

func TestFreezeTooLong(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"))
	treetest.Write(t, b.in("f"), []byte("x"))
	b.limit = 30 * time.Millisecond
	b.freeze.in = func() { time.Sleep(60 * time.Millisecond) }
	_, err := b.capture()
	if !errors.Is(err, ErrFreezeTooLong) || b.freeze.thawed.Load() != 1 || b.freeze.frozen.Load() {
		t.Fatalf("%v; thawed %d times", err, b.freeze.thawed.Load())
	}
	left, err := os.ReadDir(b.vol.StageDir)
	if err != nil || len(left) > 0 {
		t.Errorf("the stage is not empty: %v, %v", left, err)
	}
	b.freeze.in, b.limit = nil, time.Minute
	b.must(t)
}

// After a freeze that took too long, what was written a moment ago is read before the
// next one and not in it.
func TestCheaperAfterTooLong(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			b := newBench(t, treetest.Mount(t, fs))
			shift := -time.Hour // to such a clock nothing is at rest
			b.with = New(Options{Now: func() time.Time { return time.Now().Add(shift) }})
			fill := func(c byte) {
				for n := range 5 {
					treetest.Write(t, b.in(fmt.Sprint(n)), bytes.Repeat([]byte{c}, 200_000+n))
				}
			}
			fill('a')
			if res := b.must(t); res.Cloned+res.Copied != 5 {
				t.Fatalf("%d cloned and %d copied in the freeze, 5 were written", res.Cloned, res.Copied)
			}
			shift = 0
			fill('b')
			b.limit, b.freeze.in = 30*time.Millisecond, func() { time.Sleep(60 * time.Millisecond) }
			if _, err := b.capture(); !errors.Is(err, ErrFreezeTooLong) {
				t.Fatal(err)
			}
			b.limit, b.freeze.in = time.Minute, nil
			fill('c')
			res := b.must(t)
			if res.Cloned+res.Copied != 0 || b.freeze.froze.Load() != 3 {
				t.Errorf("%d cloned and %d copied in the freeze; frozen %d times", res.Cloned, res.Copied, b.freeze.froze.Load())
			}
			b.wantAll(t)
		})
	}
}

// The thaw does not wait for work that hangs.
func TestThawWhileWorkHangs(t *testing.T) {
	f := &fakeFreezer{}
	hang := make(chan struct{})
	result := make(chan error)
	go func() {
		_, err := frozen(context.Background(), f, 20*time.Millisecond, nil, func(context.Context) error {
			<-hang // a call into the kernel that does not come back
			return nil
		})
		result <- err
	}()
	for f.thawed.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(hang)
	if err := <-result; !errors.Is(err, ErrFreezeTooLong) || f.thawed.Load() != 1 {
		t.Fatalf("%v; thawed %d times", err, f.thawed.Load())
	}
}

func TestAlwaysThawed(t *testing.T) {
	work := errors.New("work failed")
	stop, cancel := context.WithCancel(context.Background())
	tests := map[string]struct {
		ctx  context.Context
		f    *fakeFreezer
		work func(context.Context) error
		want error
	}{
		"work fails":   {context.Background(), &fakeFreezer{}, func(context.Context) error { return work }, work},
		"freeze fails": {context.Background(), &fakeFreezer{err: work}, nil, work},
		"thaw fails":   {context.Background(), &fakeFreezer{thawErr: work}, func(context.Context) error { return nil }, work},
		"cancelled":    {stop, &fakeFreezer{}, func(context.Context) error { cancel(); return nil }, context.Canceled},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := frozen(tt.ctx, tt.f, time.Second, nil, tt.work)
			if !errors.Is(err, tt.want) || tt.f.froze.Load() != tt.f.thawed.Load() {
				t.Errorf("%v; frozen %d times, thawed %d times", err, tt.f.froze.Load(), tt.f.thawed.Load())
			}
		})
	}
	t.Run("panic", func(t *testing.T) {
		f := &fakeFreezer{}
		defer func() {
			if recover() == nil || f.thawed.Load() != 1 {
				t.Errorf("thawed %d times", f.thawed.Load())
			}
		}()
		_, _ = frozen(context.Background(), f, time.Second, nil, func(context.Context) error { panic("here") })
	})
}

// Files that come, go and change all the time, and no freezer to stop it: a
// capture is whole or ErrBusy, never torn.
func TestBusyWithoutFreeze(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"))
	b.freeze = nil
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			p := b.in(fmt.Sprintf("f%d", i%20))
			_ = os.WriteFile(p, bytes.Repeat([]byte{byte('a' + i%26)}, 80_000), 0o600)
			_ = os.Remove(b.in(fmt.Sprintf("f%d", (i+7)%20)))
		}
	}()
	for range 20 {
		_, err := b.capture()
		if err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, replication.ErrUnchanged) {
			t.Error(err)
		}
	}
	close(stop)
	<-done
	treetest.Write(t, b.in("last"), nil) // the last capture may have met them all at rest
	b.must(t)
	for e := range b.base.Volumes[0].Entries.Below(".") {
		want, err := os.ReadFile(b.in(e.Path))
		if err != nil || !bytes.Equal(want, b.sink.content(t, e)) {
			t.Errorf("%s: %v", e.Path, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"))
	b.vol.StageDir = b.in("stage")
	if _, err := b.capture(); err == nil || !strings.Contains(err.Error(), "outside") {
		t.Errorf("a stage in the volume: %v", err)
	}
	b.vol.StageDir = b.vol.Path + "/../stage"
	treetest.Must(t, os.Mkdir(b.in("mnt"), 0o755))
	treetest.Must(t, unix.Mount("none", b.in("mnt"), "tmpfs", 0, ""))
	defer func() { treetest.Must(t, unix.Unmount(b.in("mnt"), 0)) }()
	if _, err := b.capture(); err == nil || !strings.Contains(err.Error(), "mount point") {
		t.Errorf("a mount in the volume: %v", err)
	}
	if b.freeze.froze.Load() != 0 {
		t.Error("frozen for what cannot be captured")
	}
}

// A killed capture's stage is emptied by the next, and a symlink in place of a
// file is not followed.
func TestLeftovers(t *testing.T) {
	b := newBench(t, treetest.Mount(t, "xfs"))
	treetest.Must(t, os.MkdirAll(b.vol.StageDir+"/deep/er", 0o700))
	treetest.Write(t, b.vol.StageDir+"/1", []byte("left"))
	treetest.Must(t, os.Symlink(b.vol.Path, b.vol.StageDir+"/2"))
	treetest.Write(t, b.in("kept"), []byte("x"))
	b.must(t)
	if _, err := os.Stat(b.in("kept")); err != nil {
		t.Error(err)
	}
}
