//go:build lab

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/drill"
	"github.com/understudy-ha/understudy/agent/drill/pacemaker"
)

// testDrillStandby: a rehearsal by the command that a user has, where the active
// node gives up its resources: in good order, so nobody is fenced and nothing lost.
func testDrillStandby(t *testing.T, c *cluster) {
	r := rehearse(t, c, "standby")
	if r.DetectMS != nil || r.FenceMS != nil {
		t.Errorf("nobody was fenced, and the report says detect %v, fence %v", r.DetectMS, r.FenceMS)
	}
	if *r.Lost != 0 || len(r.Diverged) > 0 {
		t.Errorf("%d writes were lost, archived: %v", *r.Lost, r.Diverged)
	}
}

// testDrillFence: the same, where Pacemaker's own fence device reboots the active
// node. What the report calls lost is what a client calls lost, and is archived.
func testDrillFence(t *testing.T, c *cluster) {
	victim, survivor := c.roles(t)
	w, began := c.writing(t), time.Now()
	fresh := time.Unix(0, c.mustService(t, survivor).FreshAt)
	r := rehearse(t, c, "fence")
	acked := w.stop()
	if off := lastBefore(t, c, victim); off.Before(began) {
		t.Errorf("%s was not fenced in the drill", victim.Name())
	}
	lost := c.lost(t, acked)
	lostIsTail(t, lost, acked, fresh, r.HarmAt.Add(ms(r.DetectMS)+ms(r.FenceMS)))
	reported(t, c, victim, lost, began)
	if (len(lost) > 0 || *r.Lost > 0) && len(r.Diverged) == 0 {
		t.Errorf("the drill lost %d writes, the client %d; the report names no archive", *r.Lost, len(lost))
	}
	phases(t, r, drill.PhaseFenceRequested, drill.PhaseFenceDone)
	// The parts make up the whole: from the harm to the first answer.
	whole, parts := ms(r.OutageMS), ms(r.DetectMS)+ms(r.FenceMS)+ms(r.TakeoverMS)
	if gap := parts - whole; gap < -time.Second || gap > time.Second {
		t.Errorf("an outage of %v is taken apart to %v", whole, parts)
	}
	t.Logf("the drill lost %d writes, the client beside it %d of %d", *r.Lost, len(lost), len(acked))
}

// rehearse runs the drill on the standby, which survives, with a client of its own
// beside it, and reads its report.
func rehearse(t *testing.T, c *cluster, method string) drill.Round {
	t.Helper()
	victim, survivor := c.roles(t)
	dir := fmt.Sprintf("/root/drill-%s-%d", method, time.Now().Unix())
	var said string
	const url = ledgerURL + "/healthz" // costs less than the registry: two clients ask at once
	seen := c.measuredAt(t, url, func() {
		said = c.sh(t, survivor, "understudy drill node-loss registry --yes --method "+method+" --report "+dir+
			" --every 20ms --min-outage 200ms --probe "+url+" --writes '"+ledgerURL+"/append?n={n}' --verify-writes "+ledgerURL+"/list")
	})
	t.Log(said)
	var rep drill.Report
	must(t, json.Unmarshal([]byte(c.sh(t, survivor, "cat "+dir+"/report.json")), &rep))
	if rep.Kind != "node-loss" || rep.Method != method || rep.Software == "" || len(rep.Rounds) != 1 || rep.Failed() {
		t.Fatalf("the report is of something else, or failed: %+v", rep)
	}
	r := rep.Rounds[0]
	if r.Victim != victim.Name() || r.Survivor != survivor.Name() {
		t.Errorf("%s lost, %s took over", r.Victim, r.Survivor)
	}
	for name, v := range map[string]*float64{"outage": r.OutageMS, "takeover": r.TakeoverMS, "RPO": r.RPOMS, "restore": r.RestoreMS} {
		if v == nil {
			t.Fatalf("the report has no figure for %s: %+v", name, r)
		}
	}
	if r.Lost == nil || r.Probe == nil || r.Probe.Writes.Acked == 0 {
		t.Fatalf("no writes were read back: %+v", r.Probe)
	}
	if r.Generation == "" || *r.OutageMS <= 0 || *r.RestoreMS <= *r.TakeoverMS {
		t.Errorf("that cannot be: %+v", r)
	}
	phases(t, r, drill.PhaseLastAnswer, drill.PhaseHarm, drill.PhasePromoted, drill.PhaseFirstAnswer, drill.PhaseActive, drill.PhaseProtected, "agent: term")
	// What the drill calls the outage is one to a client that is on neither node.
	worst, ok := seen.Worst(r.HarmAt)
	last, first := phase(r, drill.PhaseLastAnswer), phase(r, drill.PhaseFirstAnswer)
	if !ok || !worst.Start.Before(first) || !worst.End.After(last) {
		t.Errorf("the drill saw an outage from %v to %v, the client %+v", last, first, worst)
	}
	t.Logf("outage: %.0f ms by the drill, %.0f ms by the client; notes: %v", *r.OutageMS, worst.MS, r.Notes)
	contains(t, "report.md", c.sh(t, survivor, "cat "+dir+"/report.md"), "method "+method, r.Victim+" lost, "+r.Survivor+" took over", "acknowledged writes lost", r.Generation)
	c.settle(t)
	v, err := pacemaker.ParseView([]byte(c.sh(t, survivor, "crm_mon --one-shot --output-as=xml")))
	must(t, err)
	if n, ok := v.Node(r.Victim); !ok || n.Standby || !n.Online {
		t.Errorf("the drill left %s like this: %+v", r.Victim, n)
	}
	if now, _ := c.roles(t); now.Name() != r.Survivor {
		t.Errorf("%s is active after the drill", now.Name())
	}
	return r
}

// phases fails the test if the round lacks one of the moments.
func phases(t *testing.T, r drill.Round, names ...string) {
	t.Helper()
	for _, name := range names {
		if phase(r, name).IsZero() {
			var have []string
			for _, p := range r.Phases {
				have = append(have, fmt.Sprintf("%.0f %s", p.SinceMS, p.Name))
			}
			t.Errorf("the report does not say when: %s; it has\n%s", name, strings.Join(have, "\n"))
		}
	}
}

func phase(r drill.Round, name string) time.Time {
	i := slices.IndexFunc(r.Phases, func(p drill.Phase) bool { return p.Name == name })
	if i < 0 {
		return time.Time{}
	}
	return r.Phases[i].At
}

// ms is a figure of a report; zero where it has none.
func ms(v *float64) time.Duration {
	if v == nil {
		return 0
	}
	return time.Duration(*v * float64(time.Millisecond))
}
