package capture

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// After a takeover nothing of a large file is read but what changed since the clones were made: also what
// changed while they were.
func TestPromotedClones(t *testing.T) {
	rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
	b := newBench(t, treetest.Mount(t, "xfs"))
	f := map[string]*os.File{}
	for _, name := range []string{"before", "after", "between", "never"} {
		treetest.Write(t, b.in(name), noise(rnd, largeFile+rnd.IntN(2*block)))
		open, err := os.OpenFile(b.in(name), os.O_RDWR, 0)
		treetest.Must(t, err)
		t.Cleanup(func() { _ = open.Close() })
		f[name] = open
	}
	treetest.Write(t, b.in("small"), noise(rnd, block))
	b.must(t) // as if it had been applied
	time.Sleep(50 * time.Millisecond)
	at := 0
	b.with = New(Options{Settle: racy, Hook: func(step string) error {
		if name, ok := strings.CutPrefix(step, "cloned "); ok {
			at++
			if name == "between" {
				scatter(t, rnd, f[name], 3)
			}
		}
		return nil
	}})
	t.Cleanup(func() { treetest.Must(t, b.with.Close()) })
	scatter(t, rnd, f["before"], 3)
	n, err := b.with.Promoted(t.Context(), time.Now(), []Volume{b.vol}, b.base, b.index)
	if err != nil || n != 2 || at != 3 {
		t.Fatalf("%d clones are kept of %d: %v", n, at, err)
	}
	scatter(t, rnd, f["after"], 3)
	asked := false
	b.stored = func(h replication.Hash) ([]byte, error) { asked = true; return b.sink[h], nil }
	res := b.must(t)
	for name := range f {
		is, err := os.ReadFile(b.in(name))
		treetest.Must(t, err)
		if !bytes.Equal(b.content(t, name), is) {
			t.Errorf("%s: something else was captured than it has", name)
		}
	}
	// The two whose clones were not kept are read, to be compared with the store.
	if most := int64(2*(largeFile+2*block) + 16*block); res.BytesRead > most || !asked {
		t.Errorf("%d bytes were read, at most %d are needed; the store was asked: %v", res.BytesRead, most, asked)
	}
}

// It can be ended at each file, what is not there is not cloned, and the one written to last comes first.
func TestPromotedEnds(t *testing.T) {
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(treetest.Seed(t), 0))
			b := newBench(t, treetest.Mount(t, fs))
			for i := range 3 {
				treetest.Write(t, b.in(fmt.Sprint(i)), noise(rnd, largeFile))
				of := time.Unix(int64(1000+i), 0)
				treetest.Must(t, os.Chtimes(b.in(fmt.Sprint(i)), of, of))
			}
			b.must(t)
			time.Sleep(50 * time.Millisecond)
			treetest.Must(t, os.Remove(b.in("2")))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first := ""
			b.with = New(Options{Settle: racy, Hook: func(step string) error {
				first = cmp.Or(first, step)
				cancel()
				return nil
			}})
			n, err := b.with.Promoted(ctx, time.Now(), []Volume{b.vol}, b.base, b.index)
			if fs == "ext4" {
				if n != 0 || err != nil {
					t.Errorf("%d clones: %v", n, err)
				}
			} else if n != 1 || first != "cloned 1" || !errors.Is(err, context.Canceled) {
				t.Errorf("%d clones, the first thing was %q: %v", n, first, err)
			}
			treetest.Must(t, b.with.Close())
			b.with = nil
			b.must(t) // the stage is empty
		})
	}
}
