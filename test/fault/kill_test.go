package fault

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/agent/cgroup"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/wire"
)

// TestKilledAtEveryStep kills each process of the pipeline at each of its steps, on XFS and on
// ext4: with reflinks, and without. On one of them it dies of SIGKILL, on the other the node loses
// its power, and what was not synced is lost; which is which goes by turns, by the seed. A step that
// is come to on one of them only gets both there; one that is come to again is then killed once, on one of them.
func TestKilledAtEveryStep(t *testing.T) {
	killedAtEveryStep(t, []replication.Process{replication.Sender, replication.Receiver, replication.Applier}, func(r *killing) {
		r.try = r.cycleWith
		r.after = func(_ replication.Process, killed bool) {
			if r.check(); killed {
				r.heal()
			}
		}
	})
}

func killedAtEveryStep(t *testing.T, processes []replication.Process, in func(*killing)) {
	t.Helper()
	seed := rand.IntN(2)
	t.Logf("seed %d", seed)
	var on [2]*killing
	for k, kinds := range [][2]string{{"xfs", "ext4"}, {"ext4", "xfs"}} { // the active's, the standby's
		d1, d2 := newDisk(t, kinds[0]), newDisk(t, kinds[1])
		n1, n2 := newNode(t, filepath.Join(d1.dir, "n1")), newNode(t, filepath.Join(d2.dir, "n2"))
		n1.disk, n2.disk = d1, d2
		on[k] = &killing{pair: newPair(t, n1, n2, plantAll)}
		on[k].contain()
		in(on[k])
	}
	for _, p := range processes {
		t.Run(string(p), func(t *testing.T) {
			var times [2]map[string]int
			for k, r := range on {
				r.t = t
				times[k] = r.steps(p)
			}
			at := points(t, p, times, on[0].again)
			for k, r := range on {
				t.Run("the active on "+r.n1.disk.kind, func(t *testing.T) {
					r.t = t
					r.killAtAll(p, at, k, seed)
				})
			}
		})
	}
}

// point is where a process can be killed: at which of the times that it comes to the step, by pair;
// 0: there it does not.
type point struct {
	step  string
	nth   [2]int
	again bool // it is killed there at an earlier time, too
}

// points are each step of the process: at each of up to three times that it comes to it, else at the first and
// the last. All that the product lists must be come to, and no other; but not by those of a cycle where they are killed again.
func points(t testing.TB, p replication.Process, times [2]map[string]int, again bool) (at []point) {
	t.Helper()
	for _, s := range replication.Steps() {
		if s.Process != p {
			continue
		}
		var of [3]point
		for k := range times {
			n := times[k][s.Name]
			delete(times[k], s.Name)
			for i := range min(n, len(of)) {
				of[i].nth[k] = i + 1
			}
			if n > len(of) {
				of[1].nth[k], of[2].nth[k] = n, 0
			}
		}
		if of[0].nth == [2]int{} && (!again || p == replication.Scrubber) {
			t.Errorf("the %s never comes to step %q", p, s.Name)
		}
		for i, one := range of {
			if one.step, one.again = s.Name, again || i > 0; one.nth != [2]int{} {
				at = append(at, one)
			}
		}
	}
	for k := range times {
		for name := range times[k] {
			t.Errorf("the %s comes to a step that replication.Steps does not list: %s", p, name)
		}
	}
	return at
}

// killing is a pair one of whose processes is killed in each cycle.
type killing struct {
	*pair
	power bool
	again bool // of a cycle's processes it kills some, at some of the steps, in another way

	try   func(replication.Process, job) (killed bool) // with the process as a child
	after func(p replication.Process, killed bool)     // of it
}

// steps runs a cycle whole, and counts how often the process comes to each step.
func (r *killing) steps(p replication.Process) map[string]int {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "steps")
	if r.try(p, job{Steps: file}) {
		r.t.Fatal("killed, and nobody was to be")
	}
	r.after(p, false)
	b, err := os.ReadFile(file)
	must(r.t, err)
	times := map[string]int{}
	for line := range strings.Lines(string(b)) {
		times[strings.TrimSpace(line)]++
	}
	return times
}

// killAtAll is for the k-th pair.
func (r *killing) killAtAll(p replication.Process, points []point, k, seed int) {
	r.t.Helper()
	for i, at := range points {
		if at.nth[k] == 0 {
			continue
		}
		for _, r.power = range []bool{false, true} {
			turn := r.power == ((i+k+seed)%2 == 0)
			if (!turn || at.again && k == seed) && at.nth[1-k] > 0 {
				continue // that is the other's
			}
			if r.killAt(p, job{Kill: at.step, Nth: at.nth[k]}); r.t.Failed() {
				r.t.Fatalf("killed at step %q, time %d of those it comes to it; power cut: %v", at.step, at.nth[k], r.power)
			}
		}
	}
}

func (r *killing) killAt(p replication.Process, j job) {
	r.t.Helper()
	if !r.try(p, j) {
		r.t.Errorf("the %s did not come to it", p)
	}
	r.after(p, true)
}

// cycleWith runs a cycle with the process as a child; whether it was killed.
func (r *killing) cycleWith(p replication.Process, j job) (killed bool) {
	r.t.Helper()
	if r.next(); p == replication.Sender {
		r.sealHome() // and not sent: a pack goes with this generation, and one ahead of the next
		r.next()
	}
	r.term++ // so that there is a new term to be known
	n := r.n2
	if p == replication.Sender {
		n = r.n1
	}
	r.ready(n, &j)
	switch p {
	case replication.Sender:
		killed = r.send(j)
	case replication.Receiver:
		killed = r.received(j, r.cycleOver)
	case replication.Applier:
		r.sealHome()
		must(r.t, r.shipped())
		killed = run(r.t, p, r.n2, j)
		r.boot(r.n2, j)
	}
	return killed
}

// ready is just before a child of the node is started.
func (r *killing) ready(n *node, j *job) {
	r.t.Helper()
	flush(r.t, n.disk.dir) // what the application had written before is no matter of ours
	if r.power && j.Kill != "" {
		j.Power = n.disk.dir
	}
}

// next makes the next change.
func (r *killing) next() {
	r.t.Helper()
	r.cycle++
	change(r.t, r.n1.tree(), r.cycle)
}

// send has the active seal and ship.
func (r *killing) send(j job) (killed bool) {
	r.t.Helper()
	j = r.reaching(j)
	j.Term, j.Cgroup, j.Freezes, j.Late = r.term, r.cgroup, r.freezes, r.cycle
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

// reaching is a sender's job, with the way to the standby.
func (r *killing) reaching(j job) job {
	c := r.sshd.client
	j.Addr, j.Key, j.Known = c.Addr, c.KeyFile, c.KnownHosts
	return j
}

// received has the standby's `receive` be a process of its own while something is sent.
func (r *killing) received(j job, send func(wire.ClientOptions) error) (killed bool) {
	r.t.Helper()
	r.sshd.killed.Store(false)
	r.sshd.set(func() { r.sshd.job = &j })
	defer r.sshd.set(func() { r.sshd.job = nil })
	err := send(r.sshd.client)
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
