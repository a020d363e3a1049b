package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/agent/api"
)

func TestReserve(t *testing.T) {
	for _, tc := range []struct {
		name     string
		own      string
		other    string
		above    uint64
		want     uint64
		wantText string
	}{
		{"the first", "", "", 0, 1, ""},
		{"after the other's", "3", "8", 0, 9, ""},
		{"after its own", "8", "3", 0, 9, ""},
		{"after what the caller knows", "3", "3", 100, 101, ""},
		{"a value that is none", "", "soon", 0, 0, `node attribute understudy-term-web of n2 is "soon", not a term; set it to the highest term in use: crm_attribute --lifetime forever --node n2 --name understudy-term-web --update NUMBER`},
		{"no greater one", "", "18446744073709551615", 0, 0, "no term is greater than 18446744073709551615"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db := newCIB("web", "n1", "n2")
			db.terms["n1"], db.terms["n2"] = tc.own, tc.other
			c := New(Options{Node: "n1", Runner: db, Pause: noPause})
			got, err := c.Reserve(t.Context(), "web", tc.above)
			if got != tc.want || tc.wantText == "" && err != nil || tc.wantText != "" && (err == nil || !strings.Contains(err.Error(), tc.wantText)) {
				t.Fatalf("%d, %v", got, err)
			}
			if err == nil && c.Check(t.Context(), "web", got) != nil {
				t.Error("the check refuses it")
			}
		})
	}
}

// The other node writes the same term between this one's read and write: this
// one, the later, moves on.
func TestReserveTie(t *testing.T) {
	db := newCIB("web", "n1", "n2")
	once := sync.Once{}
	db.before = func(command string) {
		if command == "crm_attribute" {
			once.Do(func() { db.terms["n2"] = "1" })
		}
	}
	c := New(Options{Node: "n1", Runner: db, Pause: noPause})
	if got, err := c.Reserve(t.Context(), "web", 0); got != 2 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

func TestReserveGivesUp(t *testing.T) {
	db := newCIB("web", "n1", "n2")
	reads := 0
	db.before = func(command string) {
		if command == "cibadmin" {
			reads++
			db.terms["n2"] = fmt.Sprint(1000 * reads)
		}
	}
	c := New(Options{Node: "n1", Runner: db, Pause: noPause})
	if got, err := c.Reserve(t.Context(), "web", 0); got != 0 || api.KindOf(err) != api.KindBusy {
		t.Errorf("%d, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Reserve(ctx, "web", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Whatever the interleaving, no two reservations are equal, and each is greater
// than every one that was complete before it began.
func TestReserveConcurrently(t *testing.T) {
	nodes := []string{"n1", "n2", `n"3" <&>`}
	db := newCIB("my_svc", nodes...)
	db.before = jitter
	var mu sync.Mutex
	owners := map[uint64]string{}
	highest := uint64(0)
	var wg sync.WaitGroup
	for _, n := range nodes {
		c := New(Options{Node: n, Runner: db, Pause: func(ctx context.Context, _ int) error { jitter(""); return ctx.Err() }})
		wg.Go(func() {
			for range 60 {
				mu.Lock()
				floor := highest
				mu.Unlock()
				term, err := c.Reserve(t.Context(), "my_svc", 0)
				if api.KindOf(err) == api.KindBusy && err != nil {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if term <= floor {
					t.Errorf("%s: term %d after %d", n, term, floor)
				}
				if o, ok := owners[term]; ok {
					t.Errorf("term %d is both %s's and %s's", term, o, n)
				}
				owners[term], highest = n, max(highest, term)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(owners) < 100 {
		t.Errorf("only %d of 180 reservations came about", len(owners))
	}
}

func TestReserveUnderAForeignName(t *testing.T) {
	db := newCIB("web", "n1.example")
	c := New(Options{Node: "n1", Runner: db, Pause: noPause})
	var exit *ExitError
	if _, err := c.Reserve(t.Context(), "web", 0); !errors.As(err, &exit) || exit.Code != exitNoHost {
		t.Errorf("%v", err)
	}
}

func TestCheck(t *testing.T) {
	db := newCIB("web", "n1", "n2")
	db.terms["n1"], db.terms["n2"] = "7", "6"
	c := New(Options{Node: "n1", Runner: db})
	if err := c.Check(t.Context(), "web", 7); err != nil {
		t.Error(err)
	}
	if len(db.log) != 1 {
		t.Errorf("a check ran %v", db.log)
	}
	for _, term := range []uint64{0, 6, 8} {
		if err := c.Check(t.Context(), "web", term); api.KindOf(err) != api.KindRefused {
			t.Errorf("term %d: %v", term, err)
		}
	}
	for _, other := range []string{"7", "8"} {
		db.terms["n2"] = other
		if err := c.Check(t.Context(), "web", 7); !errors.Is(err, ErrOvertaken) {
			t.Errorf("the other has %s: %v", other, err)
		}
	}
}

func TestAttributeNames(t *testing.T) {
	seen := map[string]string{}
	for _, s := range []string{"web", "my_svc", "my-svc", "my.svc", "my_5fsvc", "a b", "ä", "_", "", "x:0", `"<>&'`} {
		a := attribute(s)
		if other, ok := seen[a]; ok {
			t.Errorf("%q and %q are both %s", s, other, a)
		}
		seen[a] = s
		if strings.Trim(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") != "" {
			t.Errorf("%q becomes %q", s, a)
		}
		if back, ok := serviceOf(a); !ok || back != s {
			t.Errorf("%q comes back as %q, %v", s, back, ok)
		}
	}
	for _, a := range []string{"standby", "understudy-term-a_", "understudy-term-a_5", "understudy-term-a_zz"} {
		if s, ok := serviceOf(a); ok {
			t.Errorf("%q is taken for service %q", a, s)
		}
	}
}

func TestParseTerms(t *testing.T) {
	text, err := os.ReadFile("testdata/nodes.xml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseTerms(text, "understudy-term-my_5fsvc")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]uint64{"n1": 5, "n2": 18}, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "<nodes>", "<cib/>", `<nodes><node uname="n"><instance_attributes><nvpair name="understudy-term-my_5fsvc" value="-1"/></instance_attributes></node></nodes>`} {
		if got, err := parseTerms([]byte(bad), "understudy-term-my_5fsvc"); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestScores(t *testing.T) {
	db := newCIB("web", "n1")
	c := New(Options{Node: "n1", Runner: db})
	steps := []struct {
		name string
		do   func() error
		fail error
		want string
	}{
		{"first", func() error { return c.SetScore(t.Context(), "web", 100) }, nil, "100"},
		{"another", func() error { return c.SetScore(t.Context(), "web", 90) }, nil, "90"},
		{"cleared", func() error { return c.ClearScore(t.Context(), "web") }, nil, ""},
		{"cleared again", func() error { return c.ClearScore(t.Context(), "web") }, nil, ""},
		{"set to what it was", func() error { return c.SetScore(t.Context(), "web", 90) }, nil, "90"},
		{"failure", func() error { return c.SetScore(t.Context(), "web", 0) }, &ExitError{Code: 1}, "90"},
	}
	for _, s := range steps {
		db.fail = s.fail
		before := len(db.log)
		if err := s.do(); (err != nil) != (s.fail != nil) {
			t.Errorf("%s: %v", s.name, err)
		}
		if got := db.scores["n1/master-web"]; got != s.want || len(db.log)-before != 1 {
			t.Errorf("%s: %q after %v", s.name, got, db.log[before:])
		}
	}
}

func TestStatus(t *testing.T) {
	text, err := os.ReadFile("testdata/crm_mon.xml")
	if err != nil {
		t.Fatal(err)
	}
	c := New(Options{Node: "n1", Runner: answer(text)})
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Status{
		DC: "n2", Quorum: true,
		Nodes:     []Node{{Name: "n1", Online: true}, {Name: "n2", Online: true}},
		Resources: []Resource{{Service: "web", ID: "web-clone", Promoted: []string{"n2"}, Started: []string{"n1"}, Managed: true}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n, err := c.Promoted(t.Context(), "web"); n != "n2" || err != nil {
		t.Errorf("%q, %v", n, err)
	}
	if _, err := c.Promoted(t.Context(), "fence-n1"); api.KindOf(err) != api.KindNotFound {
		t.Errorf("%v", err)
	}
	both := strings.ReplaceAll(string(text), `role="Unpromoted"`, `role="Promoted"`)
	if _, err := New(Options{Runner: answer(both)}).Promoted(t.Context(), "web"); api.KindOf(err) != api.KindRefused || !strings.Contains(err.Error(), "n2, n1") {
		t.Errorf("%v", err)
	}
	none := strings.ReplaceAll(string(text), `role="Promoted"`, `role="Unpromoted"`)
	if n, err := New(Options{Runner: answer(none)}).Promoted(t.Context(), "web"); n != "" || err != nil {
		t.Errorf("%q, %v", n, err)
	}
}

// answer is a Runner that says the same to everything.
type answer string

func (a answer) Run(context.Context, string, ...string) ([]byte, error) { return []byte(a), nil }

func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail error
		kind api.Kind
		down bool
	}{
		{"Pacemaker is down", &ExitError{Command: "cibadmin", Code: exitDisconnect, Stderr: "Could not connect to the CIB"}, api.KindUnavailable, true},
		{"no such program", fmt.Errorf("exec: %w", exec.ErrNotFound), api.KindInstalled, false},
		{"too slow", context.DeadlineExceeded, api.KindDeadline, false},
		{"anything else", &ExitError{Command: "cibadmin", Code: 1}, api.KindGeneric, false},
	} {
		db := newCIB("web", "n1")
		db.fail = tc.fail
		_, err := New(Options{Node: "n1", Runner: db}).Terms(t.Context(), "web")
		if api.KindOf(err) != tc.kind || errors.Is(err, ErrDown) != tc.down || !errors.Is(err, tc.fail) && tc.kind == api.KindGeneric {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestExec(t *testing.T) {
	out, err := Exec{}.Run(t.Context(), "sh", "-c", "echo out; echo $LC_ALL")
	if err != nil || string(out) != "out\nC\n" {
		t.Errorf("%q, %v", out, err)
	}
	var exit *ExitError
	if _, err := (Exec{}).Run(t.Context(), "sh", "-c", "echo bad news >&2; exit 102"); !errors.As(err, &exit) || exit.Code != 102 || exit.Stderr != "bad news" {
		t.Errorf("%v", err)
	}
	if _, err := (Exec{}).Run(t.Context(), "/nonexistent/program"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	// A grandchild that keeps the pipe does not hold up the deadline.
	c := New(Options{Timeout: 100 * time.Millisecond})
	if _, err := c.run(t.Context(), "wait", "sh", "-c", "sleep 3 & sleep 3"); api.KindOf(err) != api.KindDeadline {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"testdata/nodes.xml", "testdata/crm_mon.xml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if terms, err := parseTerms(text, "understudy-term-my_5fsvc"); err != nil && terms != nil {
			t.Error("terms with an error")
		}
		if s, err := parseStatus(text); err == nil {
			for _, r := range s.Resources {
				if strings.Contains(r.Service, ":") {
					t.Errorf("%+v", r)
				}
			}
		}
	})
}

// serviceOf is attribute's reverse; ok is false for other attributes.
func serviceOf(attribute string) (service string, ok bool) {
	rest, ok := strings.CutPrefix(attribute, attributePrefix)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(rest); i++ {
		if rest[i] != '_' {
			b.WriteByte(rest[i])
			continue
		}
		if i+3 > len(rest) {
			return "", false
		}
		c, err := hex.DecodeString(rest[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.Write(c)
		i += 2
	}
	return b.String(), true
}
