package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

type noFreezer struct{}

func (noFreezer) Freeze(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}

// The first capture of an active node waits for the clones that it saves reading with; a demotion, whose
// containers are stopped, does not, nor does one that is given up.
func TestSealAfterPromoted(t *testing.T) {
	for name, want := range map[string]struct {
		cloned int32
		read   int64 // bytes, at most
	}{"active": {2, 1 << 20}, "demoted": {1, 6 << 20}, "given up": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			var cloned atomic.Int32
			reached, release := make(chan struct{}), make(chan struct{})
			s := newSideIn(t, treetest.Mount(t, "xfs"), func(step string) error {
				if strings.HasPrefix(step, "cloned ") && cloned.Add(1) == 1 {
					close(reached)
					<-release
				}
				return nil
			})
			s.noise("one", 5<<20)
			s.noise("two", 5<<20)
			s.seal(1)
			time.Sleep(50 * time.Millisecond) // of what has just been written a change may not show
			s.Promoted()
			<-reached
			s.write("small", "by a container")
			r := s.request(1)
			if name != "demoted" {
				r.Freezer = noFreezer{}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			sealed := make(chan error, 1)
			go func() {
				res, err := s.Seal(ctx, r)
				if err == nil && (res.ID.Seq != 2 || res.Bytes > want.read) {
					t.Errorf("%+v", res)
				}
				sealed <- err
			}()
			select {
			case err := <-sealed:
				t.Errorf("sealed while a file was being cloned: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			if name == "given up" {
				cancel()
				time.Sleep(50 * time.Millisecond) // it ends the clones from a goroutine of its own
			}
			close(release)
			if err := <-sealed; (err != nil) != (name == "given up") || cloned.Load() != want.cloned {
				t.Errorf("%d files were cloned: %v", cloned.Load(), err)
			}
		})
	}
}

// What a takeover applied is cloned too, as the trees are what the head says when the apply is done.
func TestSealAfterTakeover(t *testing.T) {
	one, two := newSide(t), newSideIn(t, treetest.Mount(t, "xfs"), nil)
	one.noise("db", 5<<20)
	id := one.seal(1)
	one.send(two, id)
	treetest.Must(t, two.Fence(2))
	treetest.Must(t, two.ApplyAt(t.Context(), id, two.roots()))
	treetest.Must(t, two.Recheck())
	time.Sleep(50 * time.Millisecond) // of what has just been written a change may not show
	two.Promoted()
	func() {
		two.work.Lock() // when it is done
		defer two.work.Unlock()
	}()
	f, err := os.OpenFile(filepath.Join(two.tree, "db"), os.O_WRONLY, 0)
	treetest.Must(t, err)
	_, err = f.WriteAt([]byte("by a container"), 1<<20)
	treetest.Must(t, errors.Join(err, f.Close()))
	r := two.request(2)
	r.Freezer = noFreezer{}
	if res, err := two.Seal(t.Context(), r); err != nil || !res.New || res.Bytes > 1<<20 {
		t.Errorf("%+v, %v", res, err)
	}
}
