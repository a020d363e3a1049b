package gossip

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"log"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-ha/understudy/agent/api"
)

func deflated(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// encodeForeign is a message of another version, as this package would meet it.
func encodeForeign(t testing.TB, h header) []byte {
	return append([]byte{kindState}, deflated(t, map[string]any{
		"version": h.Version, "node": h.Node, "software": h.Software, "addr": h.Addr, "state": "in another shape",
	})...)
}

// In whatever order and however often states arrive, the same one remains.
func TestMergeIsCommutativeAndIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.Custom(func(t *rapid.T) api.NodeStatus {
			s := api.NodeStatus{
				Node:        rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node"),
				Incarnation: rapid.Int64Range(1, 3).Draw(t, "incarnation"),
				Seq:         rapid.Uint64Range(0, 4).Draw(t, "seq"),
			}
			s.At = s.Incarnation*1000 + int64(s.Seq) // a state is its numbers
			return s
		})
		states := rapid.SliceOfN(gen, 1, 12).Draw(t, "states")
		end := func(order []api.NodeStatus) [2]api.NodeStatus {
			tab := newTable([]Peer{{Name: "a"}, {Name: "b"}})
			for _, s := range order {
				tab.merge(s, time.Unix(0, 0))
			}
			return [2]api.NodeStatus{tab.peers["a"].state, tab.peers["b"].state}
		}
		same := func(x, y [2]api.NodeStatus) bool {
			return x[0].At == y[0].At && x[1].At == y[1].At
		}
		want := end(states)
		shuffled := append([]api.NodeStatus(nil), states...)
		seed := rapid.Uint64().Draw(t, "seed")
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if got := end(shuffled); !same(got, want) {
			t.Fatalf("another order gives %+v, not %+v", got, want)
		}
		if got := end(append(states, shuffled...)); !same(got, want) {
			t.Fatalf("twice gives %+v, not %+v", got, want)
		}
		for _, s := range states {
			k := map[string]int{"a": 0, "b": 1}[s.Node]
			if newer(s, want[k]) {
				t.Fatalf("%+v remains, %+v is newer", want[k], s)
			}
		}
	})
}

func TestStateRoundTrip(t *testing.T) {
	s := api.NodeStatus{
		Version: api.Version, Node: "n1", Software: "1", Incarnation: 7, Seq: 8, At: 9,
		Services: []api.ServiceStatus{{Service: "registry", Role: api.RoleActive}},
		Alive:    true, Self: true, SeenAgo: 5, ClockOffset: 6,
	}
	b, err := encodeState(stateMessage{State: s, Known: map[string]int64{"n2": 3}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := decodeState(b[1:])
	if err != nil || m.State.Services[0].Role != api.RoleActive || m.Known["n2"] != 3 || m.Node != "n1" {
		t.Errorf("got %+v %v", m, err)
	}
	if m.State.Alive || m.State.Self || m.State.SeenAgo != 0 || m.State.ClockOffset != 0 {
		t.Errorf("what only a reader sets was sent: %+v", m.State)
	}
}

func TestDecodeStateRefuses(t *testing.T) {
	good := map[string]any{"version": api.Version, "node": "n1", "state": map[string]any{"version": api.Version, "node": "n1"}}
	if _, err := decodeState(deflated(t, good)); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, b := range map[string][]byte{
		"empty":            nil,
		"not deflated":     []byte("{}"),
		"cut":              deflated(t, good)[:10],
		"no name":          deflated(t, map[string]any{"version": api.Version}),
		"another's state":  deflated(t, map[string]any{"version": api.Version, "node": "n1", "state": map[string]any{"version": api.Version, "node": "n2"}}),
		"not an object":    deflated(t, "x"),
		"wrong shape":      deflated(t, map[string]any{"version": api.Version, "node": "n1", "state": 7}),
		"inflates for aye": deflated(t, map[string]any{"version": api.Version, "node": "n1", "x": strings.Repeat("a", maxState)}),
	} {
		if m, err := decodeState(b); err == nil || errors.Is(err, errVersion) {
			t.Errorf("%s: %+v %v", name, m, err)
		}
	}
	m, err := decodeState(encodeForeign(t, header{Version: 99, Node: "n1", Software: "x"})[1:])
	if !errors.Is(err, errVersion) || m.Version != 99 || m.Software != "x" {
		t.Errorf("another version: %+v %v", m, err)
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add(deflated(f, map[string]any{"version": api.Version, "node": "n1", "state": map[string]any{"version": api.Version, "node": "n1"}}))
	f.Add(encodeForeign(f, header{Version: 2, Node: "n1"})[1:])
	f.Add([]byte(`{"version":1,"node":"n1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range [][]byte{b, deflated(t, json.RawMessage(jsonOr(b)))} {
			m, err := decodeState(in)
			if err == nil && (m.State.Node == "" || m.State.Version != api.Version || m.State.Alive) {
				t.Errorf("accepted %+v", m)
			}
		}
	})
}

// jsonOr lets the fuzzer reach what is behind the deflate layer.
func jsonOr(b []byte) []byte {
	if json.Valid(b) {
		return b
	}
	return []byte("null")
}

func FuzzHandle(f *testing.F) {
	f.Add([]byte(`Q{"from":"n2","to":"n1","id":1}`))
	f.Add([]byte(`A{"from":"n2","to":"n1","id":1,"received":5,"sent":6}`))
	f.Add([]byte("S"))
	g, err := New(Options{
		Node: "n1", Bind: "127.0.0.1:1", Key: testKey, Peers: []Peer{{"n2", "127.0.0.2"}},
		Local: func() api.NodeStatus { return api.NodeStatus{} },
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 0 {
			g.handle(message{data: b, at: time.Now()})
		}
	})
}

func TestMetaFits(t *testing.T) {
	b := encodeMeta(strings.Repeat("v", 2000), 512)
	m, ok := decodeMeta(b)
	if len(b) > 512 || !ok || m.Version != api.Version || !strings.HasPrefix(m.Software, "vvv") {
		t.Errorf("%d bytes, %+v %v", len(b), m, ok)
	}
	if _, ok := decodeMeta([]byte("nonsense")); ok {
		t.Error("nonsense was accepted")
	}
}

func TestClock(t *testing.T) {
	t0 := time.Now()
	ask := func(c *clock, id uint64, sent time.Time, there, inside, back, offset time.Duration) bool {
		c.asked(id, sent)
		in := sent.Add(there + offset)
		return c.answered(clockAnswer{ID: id, Received: in.UnixNano(), Sent: in.Add(inside).UnixNano()}, sent.Add(there+inside+back))
	}
	const ms = time.Millisecond
	var c clock
	if _, ok := c.best(t0); ok {
		t.Error("an offset out of nothing")
	}
	// A lopsided way is an error of up to half the round trip; a shorter one is better.
	if !ask(&c, 1, t0, 80*ms, 5*ms, 20*ms, time.Hour) || !ask(&c, 2, t0, 2*ms, 1*ms, 2*ms, time.Hour) || !ask(&c, 3, t0, 100*ms, 0, 0, time.Hour) {
		t.Fatal("refused")
	}
	if s, ok := c.best(t0.Add(time.Second)); !ok || s.offset != time.Hour || s.rtt != 4*ms {
		t.Errorf("got %+v %v", s, ok)
	}
	if _, ok := c.best(t0.Add(2 * time.Minute)); ok {
		t.Error("an old measurement still counts")
	}
	for name, bad := range map[string]func() bool{
		"not asked for":      func() bool { return c.answered(clockAnswer{ID: 3}, t0) },
		"backwards":          func() bool { return ask(&c, 4, t0, ms, -ms, 5*ms, 0) },
		"longer than it was": func() bool { return ask(&c, 5, t0, -2*ms, 5*ms, ms, 0) },
		"too late":           func() bool { return ask(&c, 6, t0, time.Minute, 0, 0, 0) },
	} {
		if bad() {
			t.Errorf("%s: accepted", name)
		}
	}
	for i := range 20 {
		ask(&c, uint64(10+i), t0.Add(time.Duration(i)*time.Second), ms, 0, ms, -time.Minute)
	}
	if s, _ := c.best(t0.Add(20 * time.Second)); s.offset != -time.Minute || len(c.samples) != clockSamples {
		t.Errorf("after a step: %+v, %d samples", s, len(c.samples))
	}
}

func TestBridge(t *testing.T) {
	var out bytes.Buffer
	b := newBridge(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	now := time.Now()
	b.now = func() time.Time { return now }
	l := log.New(b, "", 0)
	l.Print("[DEBUG] memberlist: detail")
	l.Print("[WARN] memberlist: ping to 10.0.0.1:1 failed")
	l.Print("[WARN] memberlist: ping to 10.0.0.2:2 failed")
	l.Print("[ERR] memberlist: failed to receive: No installed keys could decrypt the message from=10.0.0.9")
	l.Print("[WARN] memberlist: ignoring alive message for 'x': said already")
	now = now.Add(2 * time.Minute)
	l.Print("[WARN] memberlist: ping to 10.0.0.3:3 failed")
	var got []string
	for line := range strings.Lines(out.String()) {
		f := strings.SplitN(line, " ", 3)
		got = append(got, strings.TrimSpace(f[1]+" "+f[2]))
	}
	for i, want := range []string{"level=DEBUG msg=detail", "level=WARN msg=\"ping to 10.0.0.1", "level=WARN msg=\"failed to receive", "level=DEBUG msg=\"ignoring", "level=WARN msg=\"ping to 10.0.0.3"} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Fatalf("line %d of:\n%s\nwant %s", i, strings.Join(got, "\n"), want)
		}
	}
	if len(got) != 5 || !strings.Contains(got[2], "compare the gossip key files") {
		t.Errorf("got:\n%s", strings.Join(got, "\n"))
	}
}

func TestValidate(t *testing.T) {
	good := func() Options {
		return Options{
			Node: "n1", Bind: "192.0.2.1:7946", Key: testKey, Local: func() api.NodeStatus { return api.NodeStatus{} },
			Peers: []Peer{{"n2", "n2.example"}, {"n3", "2001:db8::3"}, {"n4", "[2001:db8::4]:1234"}, {"n5", "192.0.2.5:1"}},
		}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*Options){
		"no name":           func(o *Options) { o.Node = "" },
		"the key":           func(o *Options) { o.Key = [32]byte{} },
		"local state":       func(o *Options) { o.Local = nil },
		`bind "nowhere"`:    func(o *Options) { o.Bind = "nowhere" },
		"advertise":         func(o *Options) { o.Advertise = "0.0.0.0:7946" },
		"own name":          func(o *Options) { o.Peers[0].Name = "n1" },
		"named twice":       func(o *Options) { o.Peers[0].Name = "n3" },
		"has no name":       func(o *Options) { o.Peers[0].Name = "" },
		`address "n2:http"`: func(o *Options) { o.Peers[0].Addr = "n2:http" },
		`address ""`:        func(o *Options) { o.Peers[0].Addr = "" },
	} {
		o := good()
		spoil(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A state is taken only from where the configuration says that the peer is.
func TestStateFromAnotherAddress(t *testing.T) {
	for _, c := range []struct {
		configured, from string
		ok               bool
	}{
		{"192.0.2.2:7946", "192.0.2.2:7946", true},
		{"192.0.2.2", "192.0.2.2:7946", true},
		{"[2001:db8::2]:1", "[2001:db8::2]:1", true},
		{"192.0.2.2:7946", "192.0.2.3:7946", false},
		{"192.0.2.2:7946", "192.0.2.2:7947", false},
		{"192.0.2.2:7946", "", false},
		{"n2.example:7946", "192.0.2.9:7946", true}, // not looked up yet
	} {
		g, err := New(Options{
			Node: "n1", Bind: "127.0.0.1:1", Key: testKey, Peers: []Peer{{"n2", c.configured}},
			Local: func() api.NodeStatus { return api.NodeStatus{} },
		})
		if err != nil {
			t.Fatal(err)
		}
		b, err := encodeState(stateMessage{
			header: header{Addr: c.from},
			State:  api.NodeStatus{Version: api.Version, Node: "n2", Incarnation: 1, Seq: 1},
			Known:  map[string]int64{"n1": 1 << 62},
		})
		if err != nil {
			t.Fatal(err)
		}
		g.handle(message{data: b, at: time.Now()})
		if got := g.Peers()[0].Incarnation == 1; got != c.ok {
			t.Errorf("configured %s, from %q: taken %v, want %v", c.configured, c.from, got, c.ok)
		}
		if bumped := g.Self().Incarnation > 1<<62; bumped != c.ok {
			t.Errorf("configured %s, from %q: incarnation changed %v, want %v", c.configured, c.from, bumped, c.ok)
		}
	}
}
