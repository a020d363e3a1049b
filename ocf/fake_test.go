package ocf

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// answer is what the fake agent says to an action. A nil answer hangs until the
// caller gives up, as an agent that hangs does.
type answer func() (api.ActionResult, error)

func says(role api.Role, health api.Health) answer {
	return func() (api.ActionResult, error) { return api.ActionResult{Role: role, Health: health}, nil }
}

func refuses(kind api.Kind) answer {
	return func() (api.ActionResult, error) {
		return api.ActionResult{}, api.Errorf(kind, "look into it", "it is %s", kind)
	}
}

// fakeAgent answers on a real unix socket, as the agent does.
type fakeAgent struct {
	mu      sync.Mutex
	answers map[string]answer // by action of the API
	calls   []call
}

type call struct {
	action   string
	req      api.ActionRequest
	deadline time.Time
}

func (f *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	c := call{action: parts[len(parts)-1]}
	ms, err := strconv.ParseInt(r.Header.Get(api.DeadlineHeader), 10, 64)
	if err != nil || json.NewDecoder(r.Body).Decode(&c.req) != nil || len(parts) != 4 || parts[2] != c.req.Spec.Service {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	c.deadline = time.UnixMilli(ms)
	f.mu.Lock()
	f.calls = append(f.calls, c)
	ans := f.answers[c.action]
	f.mu.Unlock()
	if ans == nil {
		<-r.Context().Done()
		return
	}
	res, err := ans()
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(err)
		return
	}
	_ = json.NewEncoder(w).Encode(res)
}

func (f *fakeAgent) asked() []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]call(nil), f.calls...)
}

// node is a node to run actions on.
type node struct {
	t      *testing.T
	dir    string
	agent  *fakeAgent
	vars   map[string]string
	opts   Options
	stdout bytes.Buffer
	stderr bytes.Buffer
}

// newNode makes a node that is set up, whose agent is not running, and on which
// evict succeeds.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), agent: &fakeAgent{answers: map[string]answer{}}}
	n.vars = map[string]string{
		"OCF_RESOURCE_INSTANCE":        "web:0",
		"OCF_RESKEY_containers":        "registry",
		"OCF_RESKEY_socket":            n.path("agent.sock"),
		"OCF_RESKEY_CRM_meta_timeout":  "2000",
		"OCF_RESKEY_CRM_meta_interval": "10000",
	}
	n.opts = Options{
		Stdout: &n.stdout, Stderr: &n.stderr,
		RunDir: n.path("run"), ConfigPath: n.path("agent.toml"), Proc: "/proc", Cgroup: n.path("cgroup"),
		Evict:      []string{n.script("evict", "exit 0"), "evict"},
		ClearScore: []string{n.script("score", "exit 0"), "-D"},
		Addresses:  func() ([]net.Addr, error) { return nil, nil },
	}
	n.write("agent.toml", "")
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) write(name, content string) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Dir(n.path(name)), 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(n.path(name), []byte(content), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) read(name string) string {
	b, err := os.ReadFile(n.path(name))
	if err != nil {
		return ""
	}
	return string(b)
}

// script makes a command that leaves its arguments and environment, then does body.
func (n *node) script(name, body string) string {
	n.t.Helper()
	n.write(name, "#!/bin/sh\nd='"+n.dir+"'\necho \"$@\" >\"$d/"+name+".args\"\nenv >\"$d/"+name+".env\"\n"+body+"\n")
	if err := os.Chmod(n.path(name), 0o755); err != nil {
		n.t.Fatal(err)
	}
	return n.path(name)
}

// serve starts the fake agent.
func (n *node) serve() {
	n.t.Helper()
	l, err := net.Listen("unix", n.path("agent.sock"))
	if err != nil {
		n.t.Fatal(err)
	}
	srv := &http.Server{Handler: n.agent, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	n.t.Cleanup(func() { _ = srv.Close(); <-done })
}

// record leaves what an agent that has died would have left.
func (n *node) record(rec api.LocalRecord) {
	n.t.Helper()
	rec.Service, rec.Version = "web", api.Version
	b, err := json.Marshal(rec)
	if err != nil {
		n.t.Fatal(err)
	}
	n.write("run/services/web.json", string(b))
}

// hold makes the node have addresses.
func (n *node) hold(prefixes ...string) {
	n.opts.Addresses = func() ([]net.Addr, error) {
		var list []net.Addr
		for _, p := range prefixes {
			ip, ipnet, err := net.ParseCIDR(p)
			if err != nil {
				return nil, err
			}
			list = append(list, &net.IPNet{IP: ip, Mask: ipnet.Mask})
		}
		return list, nil
	}
}

// env is the variables in the form of os.Environ; PATH is for the scripts.
func (n *node) env() []string {
	list := []string{"PATH=" + os.Getenv("PATH")}
	for k, v := range n.vars {
		list = append(list, k+"="+v)
	}
	return list
}

// run does an action and checks that it ends within the operation's timeout.
func (n *node) run(action string) Code {
	n.t.Helper()
	n.stdout.Reset()
	n.stderr.Reset()
	env := ParseEnv(n.env())
	start := time.Now()
	code := Code(Run(context.Background(), env, action, n.opts))
	if took := time.Since(start); took > env.Timeout+time.Second { // a busy machine gets a second
		n.t.Errorf("%s took %s, the operation has %s", action, took, env.Timeout)
	}
	for _, c := range n.agent.asked() {
		if latest := start.Add(env.Timeout - margin(env.Timeout)/2); c.deadline.After(latest) {
			n.t.Errorf("the agent was given until %s for %s, %s after the last moment", c.deadline, c.action, c.deadline.Sub(latest))
		}
	}
	return code
}

// reason is the exit reason as Pacemaker reads it: the last one.
func (n *node) reason() string {
	_, after, _ := strings.Cut(n.stderr.String(), "ocf-exit-reason:")
	for {
		_, next, more := strings.Cut(after, "ocf-exit-reason:")
		if !more {
			line, _, _ := strings.Cut(after, "\n")
			return line
		}
		after = next
	}
}

// ownProcess is this test's process, as a container that runs.
func ownProcess(t *testing.T) api.LocalContainer {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, start, ok := parseStat(stat)
	if !ok {
		t.Fatalf("cannot read %q", stat)
	}
	return api.LocalContainer{Name: "registry", ID: "abc", PID: os.Getpid(), StartTime: start}
}

func deadProcess() api.LocalContainer {
	return api.LocalContainer{Name: "registry", ID: "abc", PID: os.Getpid(), StartTime: 1}
}
