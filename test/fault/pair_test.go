package fault

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
	"github.com/understudy-ha/understudy/replication/wire"
)

// slow is how long anything may take on the slowest of machines.
const slow = time.Minute

// pair is an active and a standby that have a first generation in common.
type pair struct {
	t      testing.TB
	n1, n2 *node
	sshd   *sshd // of n2
	term   uint64
	cycle  int                        // of change
	sealed map[replication.ID]listing // the trees that were sealed

	freezer         replication.Freezer // of the active's containers
	cgroup, freezes string              // theirs, and the directory of the freezer's records; empty: there are none, see contain
}

func newPair(t testing.TB, n1, n2 *node, plant func(testing.TB, string)) *pair {
	t.Helper()
	p := &pair{t: t, n1: n1, n2: n2, sshd: startSSHD(t, n2), sealed: map[replication.ID]listing{}, freezer: unfrozen{}}
	plant(t, n1.tree())
	p.term = 1
	p.round()
	return p
}

// plainPair is a pair on a file system that nothing happens to.
func plainPair(t testing.TB) *pair {
	t.Helper()
	dir := t.TempDir()
	p := newPair(t, newNode(t, filepath.Join(dir, "n1")), newNode(t, filepath.Join(dir, "n2")), plant)
	p.contain()
	return p
}

// round is a whole cycle that nothing happens to: how many bytes it took on the line.
func (p *pair) round() int64 {
	p.t.Helper()
	before := p.sshd.taken.Load()
	now := list(p.t, p.n1.tree())
	must(p.t, p.n1.withEngine(nil, func(e *engine.Engine) error {
		r, err := p.n1.cycle(e, p.term, p.freezer, p.sshd.client)
		p.sealed[r.ID] = now
		if err != nil || p.cycle%8 != 0 {
			return err
		}
		return e.Prune() // a history that grows makes each cycle of the test slower
	}))
	if sent := replication.Hash(blake3.Sum256(imageOf(p.n1.head(p.t)))); !slices.Contains(p.n2.images(p.t), sent) {
		p.t.Fatalf("the image archive %s did not arrive", sent)
	}
	must(p.t, p.n2.withEngine(nil, func(e *engine.Engine) error {
		if err := p.n2.apply(e); err != nil || p.cycle%8 != 0 {
			return err
		}
		return e.Prune()
	}))
	if d := now.differs(list(p.t, p.n2.tree())); d != "" {
		p.t.Fatalf("after a cycle that nothing happened to the replica differs:\n%s", d)
	}
	return p.sshd.taken.Load() - before
}

// step makes the next change.
func (p *pair) step() {
	p.t.Helper()
	p.cycle++
	write(p.t, filepath.Join(p.n1.tree(), "new"), noise(p.cycle, 100<<10))
	write(p.t, filepath.Join(p.n1.tree(), "sub", "small"), noise(p.cycle, 200))
}

// sealHome seals without sending.
func (p *pair) sealHome() replication.ID {
	p.t.Helper()
	var id replication.ID
	must(p.t, p.n1.withEngine(nil, func(e *engine.Engine) error {
		r, err := p.n1.seal(e, p.term, p.freezer, nil)
		id = r.ID
		return err
	}))
	p.sealed[id] = list(p.t, p.n1.tree())
	return id
}

// cycleOver runs the active's cycle.
func (p *pair) cycleOver(o wire.ClientOptions) error {
	p.t.Helper()
	now, before := list(p.t, p.n1.tree()), p.n1.head(p.t)
	err := p.n1.withEngine(nil, func(e *engine.Engine) error {
		_, err := p.n1.cycle(e, p.term, p.freezer, o)
		return err
	})
	if id := p.n1.head(p.t); id != before {
		p.sealed[id] = now
	}
	return err
}

// shipOver ships what is sealed.
func (p *pair) shipOver(o wire.ClientOptions) error {
	return p.n1.withEngine(nil, func(e *engine.Engine) error { return p.n1.ship(e, o) })
}

// shipped ships what is sealed over a line that nothing happens to.
func (p *pair) shipped() error { return p.shipOver(p.sshd.client) }

// check is after a fault: what the standby has committed is one of the generations
// that were sealed, whole, and never ahead of the active's; its tree, where it is said to be
// at one, is exactly that, and can be brought to what was committed last. No container is
// left frozen.
func (p *pair) check() {
	p.t.Helper()
	if p.cgroup != "" {
		thawed(p.t, p.cgroup)
	}
	p.n2.images(p.t)
	ours := p.n1.head(p.t)
	must(p.t, p.n2.withEngine(nil, func(e *engine.Engine) error {
		theirs, err := e.Head()
		if err != nil {
			return err
		}
		if p.sealed[theirs] == nil || ours.Compare(theirs) < 0 {
			p.t.Fatalf("the standby has committed %s, which is none of what was sealed; the active is at %s", theirs, ours)
		}
		whole(p.t, e.Store())
		at := e.Applied()
		if !at.IsZero() {
			p.isAt(at)
		}
		if at == theirs {
			return nil
		}
		if err := p.n2.apply(e); err != nil {
			return err
		}
		if at := e.Applied(); at != theirs {
			p.t.Fatalf("after an apply the replica is at %s; committed is %s", at, theirs)
		}
		p.isAt(theirs)
		return nil
	}))
}

func (p *pair) isAt(id replication.ID) {
	p.t.Helper()
	want, ok := p.sealed[id]
	if !ok {
		p.t.Fatalf("the replica is said to be at %s, which was never sealed", id)
	}
	if d := want.differs(list(p.t, p.n2.tree())); d != "" {
		p.t.Fatalf("the replica is said to be at %s, and is not:\n%s", id, d)
	}
}

// whole: generations have all their content; none named: the head.
func whole(t testing.TB, s *store.Store, ids ...replication.ID) {
	t.Helper()
	if len(ids) == 0 {
		head, err := s.Head()
		must(t, err)
		ids = append(ids, head)
	}
	read := map[replication.Hash]bool{}
	for _, id := range ids {
		m, err := s.Load(id)
		must(t, err)
		for _, h := range treetest.Chunks(m) {
			if read[h] {
				continue
			}
			read[h] = true
			if _, err := s.Get(h); err != nil {
				t.Fatalf("generation %s in %s: %v", id, s.Dir(), err)
			}
		}
	}
}

// heal is the next cycle: it arrives, without a full copy, and leaves nothing behind.
func (p *pair) heal() {
	p.t.Helper()
	write(p.t, filepath.Join(p.n1.tree(), "healed"), fmt.Appendf(nil, "after %d", p.cycle))
	p.sparing()
	for _, n := range []*node{p.n1, p.n2} {
		p.nothingLeft(n)
	}
}

// sparing is a whole cycle that is no copy of it all.
func (p *pair) sparing() {
	p.t.Helper()
	if n := p.round(); n > full/2 {
		p.t.Errorf("the cycle after the fault sent %d bytes: that is a copy of it all", n)
	}
}

// nothingLeft: no temporary file where only generations are, and nothing staged.
func (p *pair) nothingLeft(n *node) {
	p.t.Helper()
	for _, glob := range []string{"volumes/data/.understudy-stage-data/*", "volumes/data/_data/.understudy*", "store/live/" + svc + "/apply.json"} {
		left, err := filepath.Glob(filepath.Join(n.dir, glob))
		must(p.t, err)
		if len(left) > 0 {
			p.t.Errorf("left behind: %s", strings.Join(left, ", "))
		}
	}
}
