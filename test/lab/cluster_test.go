//go:build lab

package lab

import (
	"strings"
	"testing"
	"time"
)

func TestCluster(t *testing.T) {
	l := upLab(t, "clu", Options{Cluster: true, Token: time.Second})
	testFencedCluster(t, l)
	testFenceRace(t, l)
}

// TestClusterViaPcs sets the cluster up as a user would.
func TestClusterViaPcs(t *testing.T) {
	l := upLab(t, "pcs", Options{})
	must(t, l.StartCluster(t.Context(), ClusterOptions{Token: time.Second, ViaPcs: true}))
	testFencedCluster(t, l)
}

// testFencedCluster pulls the cord of n1: Pacemaker on n2 must have it fenced, and it must rejoin.
func testFencedCluster(t *testing.T, l *Lab) {
	n1, n2 := l.Node("n1"), l.Node("n2")
	for name, want := range map[string]string{"stonith-enabled": "true", "no-quorum-policy": "stop"} {
		if got := shell(t, n1, "crm_attribute -t crm_config -q -n "+name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := shell(t, n2, "corosync-quorumtool -s || true"); !strings.Contains(got, "2Node") || !strings.Contains(got, "WaitForAll") {
		t.Errorf("quorum: %s", got)
	}
	must(t, n1.PowerOff(t.Context()))
	cut := lastEvent(t, l, "n1", "off", PhaseDone)
	eventually(t, time.Minute, "n1 is fenced by n2", func() bool { return lastEvent(t, l, "n1", "reboot", PhaseDone).By == "fence:n2" })
	asked, done := lastEvent(t, l, "n1", "reboot", PhaseAsked), lastEvent(t, l, "n1", "reboot", PhaseDone)
	t.Logf("cut to fence asked %v, asked to done %v", asked.Time().Sub(cut.Time()), done.Time().Sub(asked.Time()))
	began := time.Now()
	eventually(t, time.Minute, "n1 boots", n1.Running)
	must(t, l.WaitOnline(t.Context(), "n1", "n2"))
	t.Logf("rejoined after %v", time.Since(began))
	if got := shell(t, n2, "stonith_admin --history n1 --output-as=text"); !strings.Contains(got, "fence-n1") && !strings.Contains(got, "reboot") {
		t.Errorf("Pacemaker's own history: %s", got)
	}
}

// testFenceRace cuts the cable between the nodes: both want to fence, exactly one may win.
func testFenceRace(t *testing.T, l *Lab) {
	must(t, l.SetAutoBoot(false))
	if l.AutoBoot() {
		t.Error("autoboot is still on")
	}
	must(t, l.Cut(t.Context(), "n1", "n2"))
	eventually(t, time.Minute, "one node is fenced", func() bool { return !l.Node("n1").Running() || !l.Node("n2").Running() })
	time.Sleep(3 * time.Second)
	var alive []string
	for _, n := range l.Nodes() {
		if n.Running() {
			alive = append(alive, n.Name())
		}
	}
	if len(alive) != 1 {
		t.Errorf("nodes alive after the race: %v, want one", alive)
	}
	must(t, l.HealAll(t.Context()))
	must(t, l.EachNode(func(n *Node) error { return n.Boot(t.Context()) }))
	must(t, l.WaitOnline(t.Context(), "n1", "n2"))
}

// lastEvent is the newest entry of that kind in the power log, or the zero value.
func lastEvent(t *testing.T, l *Lab, node, verb, phase string) PowerEvent {
	t.Helper()
	all, err := l.PowerLog()
	must(t, err)
	var last PowerEvent
	for _, e := range all {
		if e.Node == node && e.Verb == verb && e.Phase == phase {
			last = e
		}
	}
	return last
}
