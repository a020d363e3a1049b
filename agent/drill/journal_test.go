package drill

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseJournal(t *testing.T) {
	base := time.UnixMicro(1795302000000000)
	var got []string
	for _, p := range ParseJournal(testdata(t, "journal.json"), "n1", "registry") {
		got = append(got, fmt.Sprintf("%.1f %s (%s)", float64(p.At.Sub(base).Microseconds())/1000, p.Name, p.Source))
	}
	want := []string{
		"3000.0 corosync: token lost (corosync)",
		"4205.4 corosync: new membership (corosync)", // received: the sender's own time is missing
		"4207.0 pacemaker: node lost (pacemaker-attrd)",
		"4208.0 pacemaker: node lost (pacemaker-controld)",
		"4230.0 fencing requested (pacemaker-controld)",
		"4232.0 fencing requested (pacemaker-fenced)", // the message came as bytes
		"4490.0 fencing done (pacemaker-fenced)",
		"4491.0 fencing done (pacemaker-controld)",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("phases\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestParseJournalOfARealLoss reads what Corosync 3.1 and Pacemaker 3.0 wrote on n2 when n1's power was cut.
func TestParseJournalOfARealLoss(t *testing.T) {
	phases := ParseJournal(testdata(t, "journal-lab.json"), "n1", "registry")
	var got []string
	for _, p := range phases {
		got = append(got, fmt.Sprintf("%4d %s", p.At.Sub(phases[0].At).Milliseconds(), p.Name))
	}
	want := []string{
		"   0 corosync: token lost",
		"1202 corosync: new membership",
		"1207 pacemaker: node lost",
		"1212 pacemaker: node lost",
		"1216 pacemaker: node lost",
		"1219 pacemaker: node lost",
		"1533 fencing requested",
		"1533 fencing requested",
		"1723 fencing done",
		"1723 pacemaker: promote ordered",
		"1747 fencing done",
		"1918 pacemaker: promoted",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("phases\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestParseJournalWantsTheRightMessages(t *testing.T) {
	tests := []struct {
		identifier, message string
		want                string
	}{
		{"pacemaker-fenced", "notice: Operation 'reboot' targeting n1 by n2 for stonith_admin.9@n2: OK (complete)", PhaseFenceDone},
		{"pacemaker-fenced", "notice: Operation 'off' targeting n1 by n2 for x@n2: OK", PhaseFenceDone},
		{"pacemaker-fenced", "error: Operation 'reboot' targeting n1 by unknown node for x@n2: Error occurred (No fence device)", ""},
		{"pacemaker-fenced", "notice: Operation 'on' targeting n1 by n2 for x@n2: OK (Done)", ""},
		{"pacemaker-controld", "notice: Peer n1 was not terminated (reboot) by n2 on behalf of x@n2: Error", ""},
		{"corosync", "[TOTEM ] A new membership (1.1f) was formed. Members joined: 1", ""},
		{"someone", "Requesting peer fencing (reboot) targeting n1", ""},
		{"pacemaker-fenced", "Requesting peer fencing (reboot) targeting n10", ""},
		{"pacemaker-controld", "notice: Initiating promote operation web_promote_0 on n2", PhasePromoteOrdered},
		{"pacemaker-controld", "notice: Initiating promote operation web:1_promote_0 locally on n2", PhasePromoteOrdered},
		{"pacemaker-controld", "notice: Initiating promote operation web2_promote_0 locally on n2", ""},
		{"pacemaker-controld", "notice: Result of promote operation for web on n2: error", ""},
	}
	for _, tt := range tests {
		line := fmt.Sprintf(`{"MESSAGE":%q,"SYSLOG_IDENTIFIER":%q,"__REALTIME_TIMESTAMP":"1795302000000000"}`, tt.message, tt.identifier)
		got := ""
		if ps := ParseJournal([]byte(line), "n1", "web"); len(ps) == 1 {
			got = ps[0].Name
		}
		if got != tt.want {
			t.Errorf("%s: %q is %q, want %q", tt.identifier, tt.message, got, tt.want)
		}
	}
}

func TestParseFenceHistory(t *testing.T) {
	harm := time.Date(2026, 11, 21, 21, 0, 0, 0, time.UTC)
	at, ok := ParseFenceHistory(testdata(t, "history.xml"), "n1", harm)
	if want := harm.Add(4490 * time.Millisecond); !ok || !at.Equal(want) {
		t.Errorf("fenced at %s (%v), want %s", at, ok, want)
	}
	if _, ok := ParseFenceHistory([]byte("<a/>"), "n1", harm); ok {
		t.Error("found a fencing in nothing")
	}
}

func FuzzParseJournal(f *testing.F) {
	f.Add(testdata(f, "journal.json"), "n1", "registry")
	f.Add(testdata(f, "journal-lab.json"), "n1", "registry")
	f.Add([]byte(`{"MESSAGE":[1,2,300,-4],"SYSLOG_IDENTIFIER":"corosync","__REALTIME_TIMESTAMP":"1"}`), "", "")
	f.Fuzz(func(t *testing.T, b []byte, victim, service string) {
		for _, p := range ParseJournal(b, victim, service) {
			if p.Name == "" || p.At.IsZero() || p.Source == "" {
				t.Errorf("half a phase: %+v", p)
			}
		}
	})
}

func FuzzParseFenceHistory(f *testing.F) {
	f.Add(testdata(f, "history.xml"))
	since := time.Date(2026, 11, 21, 21, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, b []byte) {
		if at, ok := ParseFenceHistory(b, "n1", since); ok && at.Before(since.Add(-time.Second)) {
			t.Errorf("a fencing of before: %s", at)
		}
	})
}
