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
	for _, p := range ParseJournal(testdata(t, "journal.json"), "n1") {
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
	}
	for _, tt := range tests {
		line := fmt.Sprintf(`{"MESSAGE":%q,"SYSLOG_IDENTIFIER":%q,"__REALTIME_TIMESTAMP":"1795302000000000"}`, tt.message, tt.identifier)
		got := ""
		if ps := ParseJournal([]byte(line), "n1"); len(ps) == 1 {
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
	f.Add(testdata(f, "journal.json"), "n1")
	f.Add([]byte(`{"MESSAGE":[1,2,300,-4],"SYSLOG_IDENTIFIER":"corosync","__REALTIME_TIMESTAMP":"1"}`), "")
	f.Fuzz(func(t *testing.T, b []byte, victim string) {
		for _, p := range ParseJournal(b, victim) {
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
