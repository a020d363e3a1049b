//go:build lab

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

// testFailover: the active node loses power under write load. The standby takes
// over at one committed generation (invariant 3) in a greater term (1); what it had
// said to have is there; what the former active had written unseen is archived
// before it is replaced, and reported (5); the direction turns round by itself.
func testFailover(t *testing.T, c *cluster) {
	was, now := c.roles(t)
	term := c.mustService(t, was).Term
	w, began := c.writing(t), time.Now()
	pause(t, 2*time.Second)
	harm, fresh := cutPower(t, c, was, now)
	c.waitRole(t, now, api.RoleActive)
	w.more(t, 10)
	acked := w.stop()
	if got := c.mustService(t, now).Term; got <= term {
		t.Errorf("the term is %d after %d", got, term)
	}
	lost := c.lost(t, acked)
	lostIsTail(t, lost, acked, fresh, harm)
	t.Logf("%d writes acknowledged, %d lost: the last %v before the power cut", len(acked), len(lost), span(lost))
	c.settle(t)
	c.waitRole(t, was, api.RoleStandby)
	reported(t, c, was, lost, began)
	image(t, c, now)
}

// cutPower says when it was done, and until when the standby had everything.
func cutPower(t *testing.T, c *cluster, active, standby *lab.Node) (harm, fresh time.Time) {
	t.Helper()
	fresh = time.Unix(0, c.mustService(t, standby).FreshAt)
	must(t, active.PowerOff(limited(t, 30*time.Second)))
	return time.Now(), fresh
}

func span(lost []write) time.Duration {
	if len(lost) == 0 {
		return 0
	}
	return lost[len(lost)-1].at.Sub(lost[0].at)
}

// reported: the archive on the returned node holds every lost write, and status and log say so.
func reported(t *testing.T, c *cluster, n *lab.Node, lost []write, since time.Time) {
	t.Helper()
	names := c.mustService(t, n).Diverged
	if len(lost) == 0 {
		t.Log("nothing was lost this time")
		return
	}
	if len(names) == 0 {
		t.Fatalf("%d writes are lost and nothing is archived on %s", len(lost), n.Name())
	}
	newest := names[len(names)-1]
	kept := archived(t, n, newest)
	for _, w := range lost {
		if !slices.Contains(strings.Fields(kept), strconv.Itoa(w.n)) {
			t.Errorf("lost write %d is not in the archived generation %s", w.n, newest)
		}
	}
	contains(t, "understudy log on "+n.Name(), c.journal(t, n, since), api.EventDiverged, newest)
	contains(t, "understudy status", c.sh(t, n, "understudy status"), newest)
}

// image: a takeover serves what a real client had pushed; the registry answers at least.
func image(t *testing.T, c *cluster, active *lab.Node) {
	t.Helper()
	if _, err := c.ask("GET", registryURL, 5*time.Second); err != nil {
		t.Errorf("the registry on %s: %v", active.Name(), err)
	}
}

// testSwitchover: a planned move loses no acknowledged write and turns the direction round.
func testSwitchover(t *testing.T, c *cluster) {
	was, now := c.roles(t)
	diverged := len(c.mustService(t, was).Diverged)
	w, truths := c.writing(t), c.watching(t, 50*time.Millisecond)
	var out string
	res := c.measured(t, func() { out = c.sh(t, was, "understudy switchover registry --yes") })
	c.waitRole(t, now, api.RoleActive)
	w.more(t, 10)
	if lost := c.lost(t, w.stop()); len(lost) > 0 {
		t.Errorf("%d acknowledged writes are lost: %s", len(lost), extent(lost))
	}
	truths.neverTwo(t)
	c.waitRole(t, was, api.RoleStandby)
	c.settle(t)
	if got := len(c.mustService(t, was).Diverged); got != diverged {
		t.Errorf("a planned move left a diverged generation: %v", c.mustService(t, was).Diverged)
	}
	worst, _ := res.Worst(res.Started)
	t.Logf("the client saw %.0f ms without an answer; the command said:\n%s", worst.MS, out)
	c.sameLedger(t)
}

// sameLedger: when nobody writes, the replica is the active's data, byte for byte.
func (c *cluster) sameLedger(t *testing.T) {
	t.Helper()
	active, standby := c.roles(t)
	eventually(t, 30*time.Second, "the replica to be the active's data", func() error {
		return sameFile(volumeFile(active, "ledger-data", "ledger"), volumeFile(standby, "ledger-data", "ledger"))
	})
}

// level waits until the standby has applied all that the active captured: nothing is
// under way that would move the replica by itself. The first generation of a term can
// come after the cluster is at rest.
func (c *cluster) level(t *testing.T) api.ServiceStatus {
	t.Helper()
	active, standby := c.roles(t)
	var has api.ServiceStatus
	eventually(t, 30*time.Second, "the standby to be where the active is", func() error {
		at, err := c.service(active)
		if err != nil {
			return err
		}
		if has, err = c.service(standby); err != nil {
			return err
		}
		if has.Applied != at.Committed || has.Committed != at.Committed || has.Term != at.Term {
			return fmt.Errorf("%s is at %s of term %d, %s committed %s and applied %s of term %d",
				active.Name(), at.Committed, at.Term, standby.Name(), has.Committed, has.Applied, has.Term)
		}
		return nil
	})
	return has
}

// testPowerLoss: both nodes lose power at once and come back. The former active's
// data wins, whoever becomes active: nothing that was acknowledged is lost.
func testPowerLoss(t *testing.T, c *cluster) {
	w, truths := c.writing(t), c.watching(t, 50*time.Millisecond)
	pause(t, 1500*time.Millisecond)
	must(t, c.EachNode(func(n *lab.Node) error { return n.PowerOff(limited(t, 30*time.Second)) }))
	acked := w.stop()
	must(t, c.EachNode(func(n *lab.Node) error { return n.Boot(limited(t, 2*time.Minute)) }))
	c.settle(t)
	truths.neverTwo(t)
	if lost := c.lost(t, acked); len(lost) > 0 {
		active, _ := c.roles(t)
		t.Errorf("%d of %d acknowledged writes are lost (%v before the power cut) with %s active", len(lost), len(acked), span(lost), active.Name())
	}
	c.sameLedger(t)
}

// testPartition: the nodes lose sight of each other and the active one loses the
// race to the power switch. Fencing decides; at no moment do two nodes serve
// (invariant 1). When the cable is back, so is the loser, and what it had
// written unseen is archived.
func testPartition(t *testing.T, c *cluster) {
	was, now := c.roles(t)
	// The active node's shot at the standby is late: the outcome of the race is known.
	c.sh(t, was, "pcs stonith update fence-"+now.Name()+" pcmk_delay_base=4s")
	defer func() {
		_, err := now.Shell(limited(t, time.Minute), "pcs stonith update fence-"+now.Name()+" pcmk_delay_base=")
		must(t, err)
	}()
	c.settle(t)
	w, truths, began := c.writing(t), c.watching(t, 50*time.Millisecond), time.Now()
	pause(t, time.Second)
	fresh := time.Unix(0, c.mustService(t, now).FreshAt)
	must(t, c.Cut(limited(t, 10*time.Second), was.Name(), now.Name()))
	c.waitRole(t, now, api.RoleActive)
	harm := lastBefore(t, c, was)
	w.more(t, 10)
	acked := w.stop()
	lost := c.lost(t, acked)
	lostIsTail(t, lost, acked, fresh, harm)
	if len(lost) == 0 {
		t.Error("the cut-off active node was shot, and no write is lost: the scenario did not happen")
	}
	must(t, c.HealAll(limited(t, 10*time.Second)))
	c.settle(t)
	truths.neverTwo(t)
	c.waitRole(t, was, api.RoleStandby)
	reported(t, c, was, lost, began)
	t.Logf("%d writes went to the side that was shot, all of them archived", len(lost))
}

// lastBefore is when the node's power was cut last.
func lastBefore(t *testing.T, c *cluster, n *lab.Node) time.Time {
	t.Helper()
	events, err := c.PowerLog()
	must(t, err)
	for _, e := range slices.Backward(events) {
		if e.Node == n.Name() && e.Phase == lab.PhaseDone && (e.Verb == "off" || e.Verb == "reboot") {
			return e.Time()
		}
	}
	t.Fatalf("%s was not fenced", n.Name())
	return time.Time{}
}

// testAwayForLong: the active node loses power and stays away until what the new term began from
// is not kept any more on the node that took over. What it wrote unseen is archived, and it follows again.
func testAwayForLong(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	w := c.writing(t)
	pause(t, 3*time.Second)       // some generations of its term
	must(t, c.SetAutoBoot(false)) // who fences it is to leave it off
	t.Cleanup(func() { must(t, c.SetAutoBoot(true)) })
	must(t, active.PowerOff(limited(t, 30*time.Second)))
	c.waitRole(t, standby, api.RoleActive)
	st := c.mustService(t, standby)
	first := fmt.Sprint(st.Term, ".1") // which names what it began from
	eventually(t, 2*time.Minute, "what its term began from to be pruned", func() error {
		c.sh(t, standby, "understudy prune registry --yes") // by itself it does so once a minute
		var h api.History
		if err := json.Unmarshal([]byte(c.sh(t, standby, "understudy history registry --json")), &h); err != nil {
			return err
		}
		for _, g := range h.Generations {
			if g.ID == st.Base || g.ID == first {
				return fmt.Errorf("%s is one of %d generations; its term began from %s", g.ID, len(h.Generations), st.Base)
			}
		}
		return nil
	})
	must(t, active.Boot(limited(t, 2*time.Minute)))
	c.settle(t)
	acked := w.stop()
	c.level(t)
	c.sameLedger(t)
	if lost := c.lost(t, acked); len(lost) > 0 {
		t.Logf("lost with the node are %s", extent(lost))
	}
}
