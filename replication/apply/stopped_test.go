package apply

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// writer is a process that writes all the time, and that a freeze stops.
type writer struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	done atomic.Uint64 // the newest that it said it has done: lines "done N"
	may  atomic.Uint64 // as many lines it is fed
	quit chan struct{} // closed: and no more
	fed  sync.WaitGroup
	said sync.WaitGroup
}

// start runs the process until end is called. What a failed test leaves is killed.
func start(t testing.TB, cmd *exec.Cmd) *writer {
	t.Helper()
	w := &writer{t: t, cmd: cmd, quit: make(chan struct{})}
	cmd.Stderr = os.Stderr
	var err error
	w.in, err = cmd.StdinPipe()
	treetest.Must(t, err)
	out, err := cmd.StdoutPipe()
	treetest.Must(t, err)
	treetest.Must(t, cmd.Start())
	w.said.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, ok := strings.CutPrefix(lines.Text(), "done "); ok {
				if v, err := strconv.ParseUint(n, 10, 64); err == nil {
					w.done.Store(v)
				}
			}
		}
	})
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = w.finish()
		}
	})
	return w
}

// feed gives it lines, as far as it may, until it ends or goes away.
func (w *writer) feed(line func(n uint64) string) {
	w.fed.Go(func() {
		for n := uint64(1); ; n++ {
			for wait := true; wait; wait = n > w.may.Load() {
				select {
				case <-w.quit:
					return
				case <-time.After(time.Millisecond):
				}
			}
			if _, err := io.WriteString(w.in, line(n)); err != nil {
				return
			}
		}
	})
}

func (w *writer) pids() ([]int, error) { return []int{w.cmd.Process.Pid}, nil }

// end lets it do what it was told, and waits for it.
func (w *writer) end() {
	w.t.Helper()
	treetest.Must(w.t, w.finish())
}

func (w *writer) finish() error {
	close(w.quit)
	w.fed.Wait()
	closed := w.in.Close()
	w.said.Wait()
	return errors.Join(closed, w.cmd.Wait())
}

// await waits until the writer has done n.
func (w *writer) await(n uint64) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); w.done.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("the writer has done %d in a minute, not %d", w.done.Load(), n)
		}
	}
}

// stop stops the process: none of its threads runs when it returns.
func (w *writer) stop() {
	w.t.Helper()
	treetest.Must(w.t, w.cmd.Process.Signal(unix.SIGSTOP))
	for end := time.Now().Add(time.Minute); !w.stopped(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			w.t.Fatal("the writer does not stop")
		}
	}
}

func (w *writer) stopped() bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", w.cmd.Process.Pid))
	treetest.Must(w.t, err)
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // this thread has ended
		}
		if _, state, ok := strings.Cut(string(b), ") "); !ok || state[0] != 'T' {
			return false
		}
	}
	return true
}

func (w *writer) goOn() {
	treetest.Must(w.t, w.cmd.Process.Signal(unix.SIGCONT))
}

// frozenFiles makes the rig's freezes stop the writer, and gives what the named files
// hold and what the writer had said while it stood still in the last one.
func (r *rig) frozenFiles(w *writer, names ...string) (content map[string][]byte, done *uint64) {
	content, done = map[string][]byte{}, new(uint64)
	r.frozen = func() {
		*done = w.done.Load()
		w.stop()
		clear(content)
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(r.src, name))
			treetest.Must(w.t, err)
			content[name] = b
		}
	}
	r.thaw, r.processes = w.goOn, w.pids
	return content, done
}

// arrived checks that the standby has what the files held in the freeze, to the byte.
func (r *rig) arrived(t testing.TB, content map[string][]byte) {
	t.Helper()
	for name, want := range content {
		got, err := os.ReadFile(filepath.Join(r.dst, name))
		treetest.Must(t, err)
		if len(got) != len(want) {
			t.Errorf("%s: %d bytes arrived, %d were there", name, len(got), len(want))
			continue
		}
		if !bytes.Equal(got, want) {
			at := 0
			for got[at] == want[at] {
				at++
			}
			t.Errorf("%s: byte %d is another than it was", name, at)
		}
	}
}

// pagesFile makes the test binary a process that keeps a tree of pages as LMDB does:
// all is stored through a shared mapping, the file is never written to, and two meta
// pages take turns in naming the transaction that is the last.
const pagesFile = "UNDERSTUDY_TEST_PAGES"

const page = 4096

func pagesMain(path string) {
	if err := keepPages(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func keepPages(path string) error {
	b, err := mapShared(path)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	rng := rand.New(rand.NewPCG(1, 2))
	for n := uint64(1); ; n++ {
		p := 2 + rng.IntN(len(b)/page-2)
		for at := p * page; at < (p+1)*page; at += 512 {
			binary.LittleEndian.PutUint64(b[at:], n)
		}
		binary.LittleEndian.PutUint64(b[int(n%2)*page:], n)
		if n%100 == 0 {
			fmt.Println("done", n)
			select {
			case <-ended:
				return nil
			case <-time.After(time.Millisecond):
			}
		}
	}
}

// A store of pages that changes all the time and without a system call: each
// generation has each page as it was in the freeze.
func TestPagesThroughAMapping(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		for _, size := range []int{64 * page, 2048 * page} {
			t.Run(fmt.Sprintf("%s/%d", fs, size), func(t *testing.T) {
				r := newRig(t, treetest.Mount(t, fs))
				path := filepath.Join(r.src, "data.mdb")
				treetest.Write(t, path, make([]byte, size))
				r.watch(t)
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), pagesFile+"="+path)
				w := start(t, cmd)
				content, done := r.frozenFiles(w, "data.mdb")
				for range 4 {
					w.await(w.done.Load() + 200)
					if !r.capture(t) {
						t.Fatal("no change was seen")
					}
					r.ship(t)
					r.apply(t)
					r.arrived(t, content)
					got := content["data.mdb"]
					if n := max(binary.LittleEndian.Uint64(got), binary.LittleEndian.Uint64(got[page:])); n < *done {
						t.Errorf("the generation is at transaction %d, %d was done before the freeze", n, *done)
					}
				}
				w.end()
				r.frozen, r.thaw, r.processes = nil, nil, nil
				r.cycle(t)
				treetest.Same(t, r.src, r.dst)
			})
		}
	}
}
