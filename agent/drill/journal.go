package drill

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// JournalArgs is the command that prints, on a node, what ParseJournal reads.
func JournalArgs(since time.Time) []string {
	return []string{
		"journalctl", "--output=json", "--no-pager", "--quiet",
		"--since=@" + strconv.FormatFloat(float64(since.UnixMilli())/1000, 'f', 3, 64),
		"--identifier=corosync", "--identifier=pacemaker-fenced", "--identifier=pacemaker-controld",
		"--identifier=pacemaker-attrd", "--identifier=pacemaker-based",
	}
}

// pattern is a message of Corosync or Pacemaker that marks a phase. The texts are those
// of Corosync 3.1 and Pacemaker 2.1 and 3.0. The first group, if there is one, is whom it is
// about; messages about others are passed over.
type pattern struct {
	source string // prefix of the identifier
	phase  string
	text   *regexp.Regexp
	about  subject
}

// subject is whom a message must be about.
type subject int

const (
	anybody subject = iota
	theVictim
	theService
)

var patterns = []pattern{
	{"corosync", PhaseTokenLost, regexp.MustCompile(`A processor failed, forming new configuration`), anybody},
	{"corosync", PhaseMembership, regexp.MustCompile(`A new membership \([^)]*\) was formed\. Members.* left: \d`), anybody},
	{"pacemaker", PhaseNodeLost, regexp.MustCompile(`Node (\S+) state is now lost`), theVictim},
	{"pacemaker-controld", PhaseFenceRequested, regexp.MustCompile(`Requesting fencing \(\w+\) targeting node (\S+)`), theVictim},
	{"pacemaker-fenced", PhaseFenceRequested, regexp.MustCompile(`Requesting peer fencing \(\w+\) targeting (\S+)`), theVictim},
	{"pacemaker-fenced", PhaseFenceDone, regexp.MustCompile(`Operation '(?:reboot|off)' targeting (\S+) .*: OK\b`), theVictim},
	{"pacemaker-controld", PhaseFenceDone, regexp.MustCompile(`Peer (\S+) was terminated \(\w+\) by .*: OK\b`), theVictim},
	{"pacemaker-controld", PhasePromoteOrdered, regexp.MustCompile(`Initiating promote operation (\S+)_promote_0 `), theService},
	{"pacemaker-controld", PhasePromoted, regexp.MustCompile(`Result of promote operation for (\S+) on \S+: OK\b`), theService},
}

// journalEntry is the part of journalctl's JSON that is read. Times are microseconds
// as text; a message that is not UTF-8 comes as an array of bytes.
type journalEntry struct {
	Message    json.RawMessage `json:"MESSAGE"`
	Identifier string          `json:"SYSLOG_IDENTIFIER"`
	Received   string          `json:"__REALTIME_TIMESTAMP"`
	Sent       string          `json:"_SOURCE_REALTIME_TIMESTAMP"`
}

func (e journalEntry) message() string {
	var s string
	if json.Unmarshal(e.Message, &s) == nil {
		return s
	}
	var b []byte
	var ints []int
	if json.Unmarshal(e.Message, &ints) == nil {
		for _, i := range ints {
			b = append(b, byte(i))
		}
	}
	return strings.ToValidUTF8(string(b), "?")
}

func (e journalEntry) at() (time.Time, bool) {
	us, err := strconv.ParseInt(firstOf(e.Sent, e.Received), 10, 64)
	if err != nil || us <= 0 {
		return time.Time{}, false
	}
	return time.UnixMicro(us), true
}

// ParseJournal finds the phases of the service's move from a lost victim in `journalctl --output=json`. Lines
// that are not entries, or entries of no interest, are passed over: a journal
// holds what others wrote.
func ParseJournal(b []byte, victim, service string) []Phase {
	var phases []Phase
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e journalEntry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		at, ok := e.at()
		if !ok {
			continue
		}
		if p, ok := match(e, victim, service); ok {
			p.At = at
			phases = append(phases, p)
		}
	}
	return phases
}

func match(e journalEntry, victim, service string) (Phase, bool) {
	msg := e.message()
	for _, p := range patterns {
		if !strings.HasPrefix(e.Identifier, p.source) {
			continue
		}
		m := p.text.FindStringSubmatch(msg)
		if m == nil || (p.about == theVictim && m[1] != victim) || (p.about == theService && instanceOf(m[1]) != service) {
			continue
		}
		return Phase{Name: p.phase, Source: e.Identifier, Detail: strings.TrimSpace(msg)}, true
	}
	return Phase{}, false
}

// instanceOf drops the instance number that members of some clones have.
func instanceOf(resource string) string {
	id, _, _ := strings.Cut(resource, ":")
	return id
}

// collectJournals reads the survivor's side of the story. A source that does not answer is
// noted, not fatal: the client's measurement stands without it.
func (r *round) collectJournals(ctx context.Context) {
	if r.Run != nil {
		r.collectCluster(ctx)
	}
	log, err := r.Cluster.Log(ctx, r.Survivor, r.Service, r.HarmAt)
	if err != nil {
		r.note("the decision journal of %s is missing: %v", r.Survivor, err)
		return
	}
	for _, d := range log {
		if p, ok := decisionPhase(d); ok && !d.At.Before(r.HarmAt) && (d.Node == "" || d.Node == r.Survivor) {
			r.Phases = append(r.Phases, p)
		}
	}
}

func (r *round) collectCluster(ctx context.Context) {
	since := r.HarmAt.Add(-time.Second)
	out, err := r.Run(ctx, r.Survivor, JournalArgs(since)...)
	if err != nil {
		r.note("the system journal of %s is missing: %v", r.Survivor, err)
	}
	for _, p := range ParseJournal(out, r.Victim, r.Service) {
		if p.At.After(r.HarmAt.Add(-10 * time.Millisecond)) {
			r.Phases = append(r.Phases, p)
		}
	}
	if _, ok := r.first(PhaseFenceDone); ok {
		return
	}
	out, err = r.Run(ctx, r.Survivor, "stonith_admin", "--history", r.Victim, "--output-as=xml")
	if err != nil {
		return
	}
	if at, ok := ParseFenceHistory(out, r.Victim, r.HarmAt); ok {
		r.phase(PhaseFenceDone, at, "stonith_admin", "from the fencing history: to the second or better")
	}
}

func decisionPhase(d api.Decision) (Phase, bool) {
	name := d.Event
	switch d.Event {
	case api.EventPromoteStep:
		name = firstOf(d.Fields["step"], "step")
	case api.EventPromote, api.EventRefuse, api.EventForced, api.EventRecover:
	default:
		return Phase{}, false
	}
	detail := d.Reason
	if d.Took > 0 {
		detail = strings.TrimSpace(fmt.Sprintf("%s (took %s)", detail, time.Duration(d.Took).Round(100*time.Microsecond)))
	}
	return Phase{Name: "agent: " + name, At: d.At, Source: "agent", Detail: detail}, true
}
