package drill

import (
	"encoding/xml"
	"time"
)

// fenceHistory is the part of `stonith_admin --history NODE --output-as=xml` that is read.
type fenceHistory struct {
	Events []struct {
		Target    string `xml:"target,attr"`
		Action    string `xml:"action,attr"`
		Status    string `xml:"status,attr"`
		Completed string `xml:"completed,attr"`
	} `xml:"list>fence_event"`
}

// ParseFenceHistory finds the first successful fencing of victim that was completed after since
// (less a second, which is as fine as older versions tell).
func ParseFenceHistory(b []byte, victim string, since time.Time) (time.Time, bool) {
	var h fenceHistory
	if xml.Unmarshal(b, &h) != nil {
		return time.Time{}, false
	}
	var first time.Time
	for _, e := range h.Events {
		if e.Target != victim || e.Status != "success" || (e.Action != "reboot" && e.Action != "off") {
			continue
		}
		at, ok := parseFenceTime(e.Completed)
		if ok && at.After(since.Add(-time.Second)) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first, !first.IsZero()
}

func parseFenceTime(s string) (time.Time, bool) {
	for _, layout := range []string{"2006-01-02 15:04:05.999999 -07:00", "2006-01-02 15:04:05.999999Z", time.RFC3339Nano} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
