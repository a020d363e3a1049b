package watch

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// measure reports the processor time that f takes, of n things each: on a
// machine with other work its duration says little.
func measure(b *testing.B, n int, before, f func()) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now := func() int64 {
		var t unix.Timespec
		treetest.Must(b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t))
		return t.Nano()
	}
	var spent int64
	for b.Loop() {
		b.StopTimer()
		before()
		b.StartTimer()
		start := now()
		f()
		spent += now() - start
	}
	b.ReportMetric(float64(spent)/float64(b.N)/float64(n), "cpu-ns/each")
}

// benchmark measures Takes of 1000 changes in each of which one file of another
// name changed, in so many directories.
func benchmark(b *testing.B, dir func(r *rig) string, dirs int) {
	r := newRig(b, "xfs", nil)
	var files []string
	for i := range 1000 {
		d := filepath.Join(dir(r), strconv.Itoa(i%dirs))
		treetest.Must(b, os.MkdirAll(d, 0o700))
		files = append(files, filepath.Join(d, strconv.Itoa(i)))
		treetest.Write(b, files[i], nil)
	}
	r.w.Take()
	measure(b, len(files), func() {
		r.w.mu.Lock() // all in one Take
		defer r.w.mu.Unlock()
		for _, f := range files {
			treetest.Must(b, os.Chmod(f, 0o600))
		}
	}, func() { r.w.Take() })
}

func inside(r *rig) string  { return r.root }
func outside(r *rig) string { return r.by }

func BenchmarkChangesInOneDirectory(b *testing.B)      { benchmark(b, inside, 1) }
func BenchmarkChangesInManyDirectories(b *testing.B)   { benchmark(b, inside, 1000) }
func BenchmarkNeighbourInOneDirectory(b *testing.B)    { benchmark(b, outside, 1) }
func BenchmarkNeighbourInManyDirectories(b *testing.B) { benchmark(b, outside, 1000) }

func BenchmarkTakeNothing(b *testing.B) {
	r := newRig(b, "xfs", nil)
	measure(b, 1, func() {}, func() { r.w.Take() })
}

func BenchmarkMapped(b *testing.B) {
	path := filepath.Join(b.TempDir(), "f")
	treetest.Write(b, path, make([]byte, 4096))
	pid, _ := child(b, "mapped", path, nil)
	measure(b, 1, func() {}, func() {
		if _, err := Mapped([]int{pid}); err != nil {
			b.Fatal(err)
		}
	})
}
