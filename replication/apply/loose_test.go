package apply

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
	"github.com/understudy-ha/understudy/replication/watch"
)

// Without a freeze every generation is a tree that can be applied, what stood still
// is in it as it was, and when the writer has ended it is all there.
func TestLoose(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		for _, hints := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/hints=%v", fs, hints), func(t *testing.T) {
				r := newRig(t, treetest.Mount(t, fs))
				r.loose = true
				if hints {
					w, err := watch.New(watch.Options{})
					treetest.Must(t, err)
					defer func() { treetest.Must(t, w.Close()) }()
					treetest.Must(t, w.Add("data", r.src))
					r.hints = w
				}
				still := bytes.Repeat([]byte("still"), 30_000)
				treetest.Write(t, r.src+"/still", still)
				settle()
				var wg sync.WaitGroup
				done := make(chan struct{})
				for n := range 2 {
					wg.Go(func() { restless(done, filepath.Join(r.src, fmt.Sprint(n))) })
				}
				moved := 0
				for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
					if !r.capture(t) {
						continue
					}
					moved += r.last.Moved
					r.ship(t)
					r.apply(t)
					r.checkTree(t)
					if got, err := os.ReadFile(r.dst + "/still"); err != nil || !bytes.Equal(got, still) {
						t.Fatalf("a file that nobody touched is another: %v", err)
					}
				}
				close(done)
				wg.Wait()
				settle()
				r.cycle(t)
				treetest.Same(t, r.src, r.dst)
				t.Logf("%s generations, %d files taken while they moved", r.base.ID, moved)
			})
		}
	}
}

// restless does all that makes a reader miss.
func restless(done <-chan struct{}, dir string) {
	r := rand.New(rand.NewPCG(1, 2))
	_ = os.Mkdir(dir, 0o755)
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		p := filepath.Join(dir, fmt.Sprint(r.IntN(6)))
		switch r.IntN(8) {
		case 0:
			_ = os.RemoveAll(p)
		case 1:
			_ = os.Rename(p, filepath.Join(dir, fmt.Sprint(r.IntN(6))))
		case 2:
			_ = os.Mkdir(p, 0o755)
		case 3:
			_ = os.Truncate(p, int64(r.IntN(200_000)))
		case 4:
			_ = os.WriteFile(p, make([]byte, r.IntN(6<<20)), 0o600)
		default:
			if f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
				_, _ = fmt.Fprintf(f, "line %d\n", i)
				_ = f.Close()
			}
		}
	}
}
