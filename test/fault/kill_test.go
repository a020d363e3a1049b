package fault

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/agent/cgroup"
	"github.com/understudy-ha/understudy/replication"
)

// TestKilledAtEveryStep kills each process of the pipeline at each of its steps. At every
// other one, by the seed, it is the node that loses its power: what was not synced is lost.
func TestKilledAtEveryStep(t *testing.T) {
	d1, d2 := newDisk(t, "xfs"), newDisk(t, "ext4") // with reflinks, and without
	n1, n2 := newNode(t, filepath.Join(d1.dir, "n1")), newNode(t, filepath.Join(d2.dir, "n2"))
	n1.disk, n2.disk = d1, d2
	seed := rand.IntN(2)
	t.Logf("seed %d", seed)
	r := &killing{pair: newPair(t, n1, n2, plantAll), cgroup: containers(t), freezes: t.TempDir()}
	for _, p := range []replication.Process{replication.Sender, replication.Receiver, replication.Applier} {
		t.Run(string(p), func(t *testing.T) {
			r.t = t
			for i, at := range r.steps(p) {
				r.power = (i+seed)%2 == 0
				if r.killAt(p, at); t.Failed() {
					t.Fatalf("killed at step %q; power cut: %v", at.Kill, r.power)
				}
			}
		})
	}
}

// killing is a pair one of whose processes is killed in each cycle.
type killing struct {
	*pair
	cgroup  string // of the active's containers
	freezes string
	power   bool
}

// steps runs a cycle whole, and lists where the process can be killed: each step, and
// those it comes to often at the last time too. All that the product lists must be come
// to, and no other.
func (r *killing) steps(p replication.Process) (at []job) {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "steps")
	if r.cycleWith(p, job{Steps: file}) {
		r.t.Fatal("killed, and nobody was to be")
	}
	r.check()
	b, err := os.ReadFile(file)
	must(r.t, err)
	times := map[string]int{}
	for line := range strings.Lines(string(b)) {
		times[strings.TrimSpace(line)]++
	}
	for _, s := range replication.Steps() {
		if s.Process != p {
			continue
		}
		n := times[s.Name]
		delete(times, s.Name)
		if n == 0 {
			r.t.Errorf("the %s never comes to step %q", p, s.Name)
			continue
		}
		at = append(at, job{Kill: s.Name, Nth: 1})
		if n > 3 {
			at = append(at, job{Kill: s.Name, Nth: n})
		}
	}
	for name := range maps.Keys(times) {
		r.t.Errorf("the %s comes to a step that replication.Steps does not list: %s", p, name)
	}
	return at
}

func (r *killing) killAt(p replication.Process, j job) {
	r.t.Helper()
	if !r.cycleWith(p, j) {
		r.t.Errorf("the %s did not come to it", p)
	}
	r.check()
	r.heal()
}

// cycleWith runs a cycle with the process as a child; whether it was killed.
func (r *killing) cycleWith(p replication.Process, j job) (killed bool) {
	r.t.Helper()
	r.cycle++
	change(r.t, r.n1.tree(), r.cycle)
	r.term++ // so that there is a new term to be known
	n := r.n2
	if p == replication.Sender {
		n = r.n1
	}
	flush(r.t, n.disk.dir) // what the application had written before is no matter of ours
	if r.power && j.Kill != "" {
		j.Power = n.disk.dir
	}
	switch p {
	case replication.Sender:
		killed = r.send(j)
	case replication.Receiver:
		killed = r.receive(j)
	case replication.Applier:
		r.sealHome()
		must(r.t, r.shipped())
		killed = run(r.t, p, r.n2, j)
		r.boot(r.n2, j)
	}
	return killed
}

// send has the active seal and ship.
func (r *killing) send(j job) (killed bool) {
	r.t.Helper()
	c := r.sshd.client
	j.Term, j.Addr, j.Key, j.Known = r.term, c.Addr, c.KeyFile, c.KnownHosts
	j.Cgroup, j.Freezes, j.Late = r.cgroup, r.freezes, r.cycle
	if j.Kill == "" || strings.HasPrefix(j.Kill, "read ") {
		time.Sleep(300 * time.Millisecond) // files at rest for a while are read before the freeze
	}
	before, after := r.n1.head(r.t), afterLate(r.t, r.n1.tree(), r.cycle)
	killed = run(r.t, replication.Sender, r.n1, j)
	thawed(r.t, r.cgroup)
	if _, err := cgroup.ThawAll(r.freezes); err != nil { // as the next agent does
		r.t.Error(err)
	}
	r.boot(r.n1, j)
	if now := r.n1.head(r.t); now != before {
		r.sealed[now] = after
	}
	return killed
}

// receive has the standby's `receive` be a process of its own.
func (r *killing) receive(j job) (killed bool) {
	r.t.Helper()
	r.sealHome()
	r.sshd.killed.Store(false)
	r.sshd.set(func() { r.sshd.job = &j })
	defer r.sshd.set(func() { r.sshd.job = nil })
	err := r.shipped()
	if j.Kill == "" {
		must(r.t, err)
	} else if err == nil {
		r.t.Error("the sender was told that all is well by one that was killed")
	}
	until(r.t, "the receiver is gone", func() bool { return j.Kill == "" || r.sshd.killed.Load() })
	r.boot(r.n2, j)
	return r.sshd.killed.Load()
}

// boot follows on a power cut.
func (r *killing) boot(n *node, j job) {
	r.t.Helper()
	if j.Power != "" {
		n.disk.replug(r.t)
	}
}

func flush(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	must(t, unix.Syncfs(int(f.Fd())))
}
