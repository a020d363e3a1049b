package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

// losing is a pair whose standby loses a chunk that only its history needs, and the manifest of the generation after,
// which all later ones hang on.
type losing struct {
	*pair
	lost replication.Hash
	of   replication.ID
}

func newLosing(p *pair) *losing {
	p.t.Helper()
	l := &losing{pair: p}
	l.past()
	return l
}

// past makes something that then is past, and of which one chunk can be lost alone.
func (l *losing) past() {
	l.t.Helper()
	l.cycle++
	file := filepath.Join(l.n1.tree(), "past")
	write(l.t, file, noise(1<<12+l.cycle, 100<<10))
	write(l.t, file+" beside", noise(1<<13+l.cycle, 8<<10))
	past := l.sealHome()
	l.n1.withStore(l.t, func(s *store.Store) {
		m, err := s.Load(past)
		must(l.t, err)
		l.lost = m.Volume("data").Entries.Get("past").Chunks[0].Hash
	})
	write(l.t, file, nil)
	write(l.t, file+" beside", nil)
	l.round()
	before := l.of
	l.of = l.n1.head(l.t)
	for _, n := range []*node{l.n1, l.n2} {
		n.withStore(l.t, func(s *store.Store) {
			must(l.t, errors.Join(s.Pin(past, "its chunk will be lost"), s.Pin(l.of, "its manifest will be lost")))
			if !before.IsZero() {
				must(l.t, s.Unpin(before))
			}
		})
	}
}

// rotting are the standby's files with it: half of the pack is the chunk.
func (l *losing) rotting() []string {
	l.t.Helper()
	for _, path := range l.n2.files(l.t, "packs") {
		fi, err := os.Lstat(path)
		must(l.t, err)
		hs, err := store.PackFile{Path: path, Size: fi.Size()}.Contents()
		must(l.t, err)
		if slices.Contains(hs, l.lost) {
			return []string{path, filepath.Join(l.n2.root(), "services", svc, "generations", l.of.String()+".manifest")}
		}
	}
	l.t.Fatalf("the standby has no pack with chunk %s", l.lost)
	return nil
}

// lose flips a bit in each of them, which a scrub finds.
func (l *losing) lose() {
	l.t.Helper()
	l.cycle++
	for _, path := range l.rotting() {
		must(l.t, rot(path))
	}
	must(l.t, l.n2.withEngine(nil, l.n2.scrub))
	l.lacking()
}

// lacking: the standby says what it has lost.
func (l *losing) lacking() {
	l.t.Helper()
	l.n2.withStore(l.t, func(s *store.Store) {
		lacks, err := s.Lacks()
		must(l.t, err)
		if !slices.Equal(lacks.Chunks, []string{l.lost.String()}) || !slices.Contains(lacks.Generations, l.of) {
			l.t.Fatalf("lost were chunk %s and generation %s; it says that it lacks %+v", l.lost, l.of, lacks)
		}
	})
}

// stands is while something may be lacking: the replica is at what was committed last, and no container is frozen.
func (l *losing) stands() {
	l.t.Helper()
	thawed(l.t, l.cgroup)
	must(l.t, l.n2.withEngine(nil, func(e *engine.Engine) error {
		head, err := e.Head()
		if err != nil {
			return err
		}
		if at := e.Applied(); at != head || head != l.n1.head(l.t) {
			l.t.Errorf("the replica is at %s; committed is %s, and %s on the active", at, head, l.n1.head(l.t))
		}
		l.isAt(head)
		return nil
	}))
}

// mended: nothing is lacking, and every generation can be read whole.
func (l *losing) mended() {
	l.t.Helper()
	l.check()
	l.n2.withStore(l.t, func(s *store.Store) {
		if lacks, err := s.Lacks(); err != nil || !lacks.None() {
			l.t.Fatalf("still lacking: %+v, %v", lacks, err)
		}
		ids, err := s.Generations()
		must(l.t, err)
		if !slices.Contains(ids, l.of) {
			l.t.Fatalf("generation %s is gone", l.of)
		}
		whole(l.t, s, ids...)
	})
}

// mendOver sends the standby what it has lost, and nothing else, as the agent of any node does (see Mend in agent/peers.go).
func (l *losing) mendOver(o wire.ClientOptions) error {
	return l.n1.withEngine(nil, func(e *engine.Engine) error { return mend(e, o, nil) })
}

// mend tells begun when it is connected; nil: it need not.
func mend(e *engine.Engine, o wire.ClientOptions, begun *atomic.Bool) error {
	return connected(o, func(c *wire.Client) error {
		if begun != nil {
			begun.Store(true)
		}
		_, err := wire.NewShipper(wire.ShipperOptions{Source: e.Store()}).Mend(context.Background(), c)
		return err
	})
}

// scrub is what the standby's agent does from time to time.
func (n *node) scrub(e *engine.Engine) error {
	err := e.TidyLacks()
	if err != nil {
		return err
	}
	var foreign error
	_, err = e.Scrub(context.Background(), engine.ScrubOptions{
		Fresh: true, Roots: func(context.Context) (map[string]string, error) { return n.roots(), nil }, Pace: func(int) error { return nil },
		Foreign: func(_ context.Context, what []string) {
			foreign = fmt.Errorf("written by nobody, and found: %s", strings.Join(what, "; "))
		},
		Found: func(engine.Found) {},
	})
	return errors.Join(err, foreign)
}

// TestMendCutInEveryMessage cuts the line in the middle of each message that either end sends while the
// standby is sent what it has lost, after the handshake.
func TestMendCutInEveryMessage(t *testing.T) {
	for _, receiver := range []bool{false, true} {
		t.Run(end(receiver), func(t *testing.T) {
			l := newLosing(plainPair(t))
			for n := int64(0); ; n++ {
				l.lose()
				var begun atomic.Bool
				_, met, err := l.over(fault{receiver: receiver, messages: n, bytes: never, begun: &begun}, func(o wire.ClientOptions) error {
					return l.n1.withEngine(nil, func(e *engine.Engine) error { return mend(e, o, &begun) })
				})
				l.settled()
				l.stands()
				if !met {
					must(t, err)
					l.mended()
					if n < 20 {
						t.Errorf("to mend were only %d messages", n)
					}
					t.Logf("cut in each of %d messages", n)
					return
				}
				l.heal()
				if l.mended(); t.Failed() {
					t.Fatalf("cut in message %d", n)
				}
			}
		})
	}
}

// TestMendKilledAtEveryStep kills who sends what was lost, who receives it, and the standby's agent that finds that it is
// lost, at each step of that, by the turns of TestKilledAtEveryStep.
func TestMendKilledAtEveryStep(t *testing.T) {
	killedAtEveryStep(t, []replication.Process{replication.Sender, replication.Receiver, replication.Scrubber}, func(r *killing) {
		l := newLosing(r.pair)
		r.again = true
		r.try = func(p replication.Process, j job) bool { return l.lostAnd(r, p, j) }
		r.after = func(p replication.Process, killed bool) {
			l.stands()
			if !killed && p != replication.Scrubber {
				l.mended()
			}
			l.heal()
			l.mended()
		}
	})
}

// lostAnd loses something and has it mended, with the process as a child; whether that was killed.
func (l *losing) lostAnd(r *killing, p replication.Process, j job) (killed bool) {
	l.t.Helper()
	n := l.n2
	switch p {
	case replication.Scrubber:
		l.past() // what came again is in a pack of its own, of which nothing can be saved
		j.Rot = l.rotting()
		r.ready(n, &j)
		killed = run(l.t, p, n, j)
		r.boot(n, j)
		must(l.t, n.withEngine(nil, n.scrub)) // the next agent's
		if j.Kill != "remove lacks" {         // then they had not yet rotted
			l.lacking()
		}
	case replication.Receiver:
		l.lose()
		r.ready(n, &j)
		killed = r.received(j, l.mendOver)
	case replication.Sender:
		n = l.n1
		l.lose()
		r.ready(n, &j)
		j.Mend = true
		killed = run(l.t, p, n, r.reaching(j))
		r.boot(n, j)
	}
	return killed
}
