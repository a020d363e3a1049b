package apply

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
	"github.com/understudy-ha/understudy/replication/watch"
)

// mapsFile makes the test binary a process that stores through a shared mapping
// of the file that it names, when it is told where on standard input.
const mapsFile = "UNDERSTUDY_TEST_MAPS"

func mappingMain(path string) {
	if err := storeThroughMapping(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// mapShared maps a file; only the mapping stays, as in LMDB and SQLite it may.
func mapShared(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func storeThroughMapping(path string) error {
	b, err := mapShared(path)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		var at int
		var v byte
		if _, err := fmt.Scan(&at, &v); err != nil {
			return nil // closed
		}
		b[at] = v
		fmt.Println("stored")
	}
}

// A database that stores through a mapping, without a system call, is seen in every
// cycle, in small files and in large ones.
func TestMappedWriter(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		for _, size := range []int{200_000, 6 << 20} {
			t.Run(fmt.Sprintf("%s/%d", fs, size), func(t *testing.T) {
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				rng := rand.New(rand.NewPCG(seed, 1))
				r := newRig(t, treetest.Mount(t, fs))
				path := r.src + "/db"
				treetest.Write(t, path, make([]byte, size))
				treetest.Write(t, r.src+"/other", []byte("other"))
				w, err := watch.New(watch.Options{})
				treetest.Must(t, err)
				defer func() { treetest.Must(t, w.Close()) }()
				treetest.Must(t, w.Add("data", r.src))
				r.hints = w
				child := exec.CommandContext(t.Context(), os.Args[0])
				child.Env = append(os.Environ(), mapsFile+"="+path)
				child.Stderr = os.Stderr
				in, err := child.StdinPipe()
				treetest.Must(t, err)
				out, err := child.StdoutPipe()
				treetest.Must(t, err)
				treetest.Must(t, child.Start())
				said := bufio.NewScanner(out)
				heard := func(want string) {
					t.Helper()
					if !said.Scan() || said.Text() != want {
						t.Fatalf("the writer says %q, not %s", said.Text(), want)
					}
				}
				heard("ready")
				r.processes = func() ([]int, error) { return []int{child.Process.Pid}, nil }
				r.cycle(t)
				for round := range 40 {
					_, err := fmt.Fprintf(in, "%d %d\n", rng.IntN(size), 1+round)
					treetest.Must(t, err)
					heard("stored")
					if !r.capture(t) {
						t.Fatalf("round %d: a store was not seen", round)
					}
					r.ship(t)
					r.apply(t)
					if round%8 == 0 {
						treetest.Same(t, r.src, r.dst)
					}
				}
				if r.capture(t) {
					t.Error("something changed although nothing was stored")
				}
				treetest.Must(t, in.Close())
				treetest.Must(t, child.Wait())
			})
		}
	}
}
