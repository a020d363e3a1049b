package pacemaker

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func recorded(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/crm_mon.xml")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestViewFindsServices(t *testing.T) {
	v, err := ParseView(recorded(t))
	if err != nil {
		t.Fatal(err)
	}
	if v.DC != "n2" || !v.Quorum || !v.Fencing || v.Maintenance || len(v.Nodes) != 2 {
		t.Errorf("view = %+v", v)
	}
	clone, active, standbys, err := v.Service("registry")
	if err != nil || clone != "registry-clone" || active != "n1" || strings.Join(standbys, " ") != "n2" {
		t.Errorf("registry: %s on %s, standbys %v, %v", clone, active, standbys, err)
	}
	clone, active, _, err = v.Service("wiki")
	if err != nil || clone != "wiki-pair" || active != "" {
		t.Errorf("wiki, stopped, in a group of a clone: %s on %q, %v", clone, active, err)
	}
	if _, _, _, err := v.Service("alone"); err == nil || !strings.Contains(err.Error(), "promotable clone") {
		t.Errorf("a plain resource: %v", err)
	}
	if _, _, _, err := v.Service("nothing"); !errors.Is(err, ErrNoResource) {
		t.Errorf("no resource: %v", err)
	}
	if len(v.Bans) != 1 || v.Bans[0] != (Ban{ID: "cli-ban-registry-clone-on-n2", Resource: "registry-clone", Node: "n2", Promoted: true}) {
		t.Errorf("bans = %+v", v.Bans)
	}
}

// TestViewOfARealCluster reads what Pacemaker 3.0 said while KeepOff's constraint was in force.
func TestViewOfARealCluster(t *testing.T) {
	b, err := os.ReadFile("testdata/crm_mon-lab.xml")
	if err != nil {
		t.Fatal(err)
	}
	v, err := ParseView(b)
	if err != nil {
		t.Fatal(err)
	}
	clone, active, standbys, err := v.Service("registry")
	if err != nil || clone != "registry-clone" || active != "n1" || strings.Join(standbys, " ") != "n2" {
		t.Errorf("%s on %q, standbys %v, %v", clone, active, standbys, err)
	}
	ours := 0
	for _, b := range v.Bans {
		if b.IsOurs() && b.Node == "n2" && b.Resource == clone {
			ours++
		}
	}
	if ours != 1 || len(v.Nodes) != 2 || !v.Fencing {
		t.Errorf("view = %+v, want one ban of ours", v)
	}
}

func TestViewRefusesWhatIsNoCluster(t *testing.T) {
	for _, s := range []string{"", "crm_mon: Connection to cluster failed", "<pacemaker-result/>", "<a><b></a>"} {
		if v, err := ParseView([]byte(s)); err == nil {
			t.Errorf("%q was taken for a cluster: %+v", s, v)
		}
	}
}

func TestCommands(t *testing.T) {
	var got []string
	c := New(func(_ context.Context, argv ...string) ([]byte, error) {
		got = append(got, strings.Join(argv, " "))
		return nil, nil
	})
	ctx := t.Context()
	for _, err := range []error{
		c.KeepOff(ctx, "registry-clone", "n1", time.Date(2026, 11, 21, 22, 0, 0, 0, time.FixedZone("CET", 3600))), c.Lift(ctx, "registry-clone"),
		c.Standby(ctx, "n1", true), c.Standby(ctx, "n1", false), c.Fence(ctx, "n1"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		`cibadmin --modify --allow-create --scope constraints --xml-text <rsc_location id="understudy-switchover-registry-clone" rsc="registry-clone">` +
			`<rule id="understudy-switchover-registry-clone-rule" role="Promoted" score="-INFINITY" boolean-op="and">` +
			`<expression id="understudy-switchover-registry-clone-node" attribute="#uname" operation="eq" value="n1"></expression>` +
			`<date_expression id="understudy-switchover-registry-clone-end" operation="lt" end="2026-11-21 21:00:00Z"></date_expression></rule></rsc_location>`,
		`cibadmin --delete --scope constraints --xml-text <rsc_location id="understudy-switchover-registry-clone"></rsc_location>`,
		"crm_attribute --node n1 --name standby --lifetime reboot --update on",
		"crm_attribute --node n1 --name standby --lifetime reboot --delete",
		"stonith_admin --reboot n1",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("ran\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestExecSaysWhatWentWrong(t *testing.T) {
	if _, err := Exec(t.Context(), "sh", "-c", "echo no such node >&2; exit 6"); err == nil || !strings.Contains(err.Error(), "no such node") {
		t.Errorf("err = %v", err)
	}
	if _, err := Exec(t.Context(), "no-such-program-anywhere"); err == nil || !strings.Contains(err.Error(), "not installed here") {
		t.Errorf("err = %v", err)
	}
}

func FuzzParseView(f *testing.F) {
	f.Add(recorded(f))
	f.Add([]byte("<nodes><node/></nodes><clone></clone></clone>"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		v, err := ParseView(b)
		if err == nil {
			_, _, _, _ = v.Service("registry")
		}
	})
}
