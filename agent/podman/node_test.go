package podman

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Tests against a real Podman. They make and remove containers, networks and
// volumes, and so run in a node of the lab only: lab_test.go takes the test
// binary there and sets the variables. Together they tell one story, in the
// order of the driver: an origin that captures, a replica that realises.

const (
	envNode = "UNDERSTUDY_PODMAN_TEST" // must be set: this Podman may be played with
	envDir  = "UNDERSTUDY_PODMAN_DIR"  // where definitions are exchanged
)

func nodeClient(t *testing.T) (*Client, context.Context) {
	t.Helper()
	if os.Getenv(envNode) == "" {
		t.Skip("needs a Podman to play with: go test -tags lab runs this in the lab")
	}
	c := New(Options{Record: filepath.Join(os.Getenv(envDir), "record.json"), Timeout: 30 * time.Second})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(func() { cancel(); _ = c.Close() })
	return c, ctx
}

func podman(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("podman", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("podman %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

const image = "localhost/busybox:1"

// parity is one container for each family of flags; create commands as people write them.
var parity = []struct {
	name string
	args []string
}{
	{"p-plain", []string{"run", "-d", "--name", "p-plain", image, "sleep", "1000"}},
	{"p-ports", []string{"run", "-d", "--name=p-ports", "-p", "8081:80", "-p", "127.0.0.1:8443:443/tcp", "-p", "9000-9002:9000-9002/udp", "--expose", "7000", image, "sleep", "1000"}},
	{"p-env", []string{"create", "--name", "p-env", "-e", "A=1", "--env=B=two words", "-e", "EMPTY=", "--label", "app=x", "-l", "k", "--annotation", "note=hi", image, "sleep", "1000"}},
	{"p-volumes", []string{"run", "-d", "--name", "p-volumes", "-v", "pdata:/data", "-v", "pconf:/conf:ro,Z", "--mount", "type=volume,src=pother,dst=/other", "-v", "/etc/localtime:/etc/localtime:ro", image, "sleep", "1000"}},
	{"p-health", []string{"run", "-d", "--name", "p-health", "--health-cmd", "true", "--health-interval", "5s", "--health-retries=2", "--health-timeout=3s", "--health-start-period", "1s", image, "sleep", "1000"}},
	{"p-limits", []string{"create", "--name", "p-limits", "--ulimit", "nofile=1024:2048", "--ulimit", "core=0:0", "--cap-add", "NET_ADMIN,SYS_PTRACE", "--cap-drop=CHOWN", "--security-opt", "no-new-privileges", "--oom-score-adj", "100", image, "sleep", "1000"}},
	{"p-process", []string{"run", "-d", "--name", "p-process", "-u", "1000:1000", "-w", "/tmp", "--entrypoint", `["sleep"]`, "--stop-signal", "SIGTERM", "--stop-timeout=3", "--init=false", "--tz", "UTC", "--umask", "0027", image, "1000"}},
	{"p-host", []string{"run", "-d", "--name", "p-host", "--hostname", "db.example.com", "--tmpfs", "/scratch:size=1m,mode=1777", "--read-only", "--shm-size", "32m", "--add-host", "peer:192.0.2.9", "--dns", "192.0.2.53", "--dns-search", "example.com", image, "sleep", "1000"}},
	{"p-net", []string{"run", "-d", "--name", "p-net", "--network", "pnet", "--ip", "203.0.113.200", "--network-alias", "web", "--mac-address", "02:42:ac:11:00:09", image, "sleep", "1000"}},
	{"p-nets", []string{"run", "-d", "--name", "p-nets", "--network", "pnet:ip=203.0.113.201,alias=two", "--net", "pnet2:interface_name=data0", image, "sleep", "1000"}},
	{"p-hostnet", []string{"run", "-d", "--name", "p-hostnet", "--network=host", "--pid", "host", "--ipc", "host", image, "sleep", "1000"}},
	{"p-none", []string{"create", "--name", "p-none", "--network=none", "-it", image, "sh"}},
	{"p-later", []string{"run", "-d", "--name", "p-later", "--restart=always", image, "sleep", "1000"}},
	{"p-short", []string{"create", "--name", "p-short", "busybox:1", "sleep", "1000"}},
	{"p-misc", []string{"--log-level=error", "container", "create", "--name", "p-misc", "--log-opt", "max-size=10mb", "--pids-limit", "-1", "--sysctl", "net.ipv4.ip_unprivileged_port_start=80", "--group-add", "10,20", "--systemd=false", "--pull=never", "-q", "--http-proxy=false", "--no-hosts", "--cgroupns", "private", image, "sh", "-c", "sleep 1000 -x"}},
}

func parityNames() []string {
	var names []string
	for _, p := range parity {
		names = append(names, p.name)
	}
	return names
}

func of(names ...string) Workload { return Workload{Containers: names} }

// TestNodeOrigin makes the containers as an operator does, and captures them.
func TestNodeOrigin(t *testing.T) {
	c, ctx := nodeClient(t)
	podman(t, "network", "create", "--subnet", "203.0.113.192/27", "--gateway", "203.0.113.193", "--ip-range", "203.0.113.208/28", "--label", "l=1", "--opt", "mtu=1400", "--opt", "isolate=true", "--disable-dns", "pnet")
	podman(t, "network", "create", "--internal", "--ipv6", "--subnet", "2001:db8:77::/64", "pnet2")
	podman(t, "network", "create", "--subnet", "203.0.113.160/27", "plater")
	podman(t, "volume", "create", "--label", "keep=yes", "--opt", "o=uid=1000,gid=1000", "pother")
	for _, p := range parity {
		podman(t, p.args...)
	}
	podman(t, "network", "connect", "--alias", "late", "plater", "p-later")

	problems, err := c.Check(ctx, of(parityNames()...))
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, p := range problems {
		texts = append(texts, p.String())
		if !p.Warning {
			t.Errorf("unexpected problem: %s", p)
		}
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{"p-later: its restart policy always", "p-later: it was connected to network plater"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning %q in:\n%s", want, all)
		}
	}
	changes, err := c.Neutralise(ctx, parityNames())
	if err != nil || len(changes) != 1 || podman(t, "inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", "p-later") != "no" {
		t.Errorf("Neutralise: %q, %v", changes, err)
	}

	def, err := c.Capture(ctx, of(parityNames()...))
	if err != nil {
		t.Fatal(err)
	}
	raw := marshal(t, def)
	again, err := c.Capture(ctx, of(parityNames()...))
	if err != nil || !bytes.Equal(raw, marshal(t, again)) {
		t.Errorf("a second capture differs (error %v)", err)
	}
	if changes, err := c.Realise(ctx, def); err != nil || len(changes) != 0 {
		t.Errorf("Realise on the origin: %q, %v", changes, err)
	}
	write(t, "definition.json", raw)
	for _, img := range def.Images {
		f, err := os.Create(filepath.Join(os.Getenv(envDir), "image.tar"))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.ExportOCI(ctx, img.ID, f); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNodeReplica has no image and no container; it gets both from what the
// origin left, and must come to look the same.
func TestNodeReplica(t *testing.T) {
	c, ctx := nodeClient(t)
	def := readDefinition(t)
	if _, err := c.Realise(ctx, def); err == nil {
		t.Fatal("Realise without the image succeeded")
	}
	// Podman refuses a layer that it has not got, and takes the whole archive afterwards.
	if id, err := c.Load(ctx, thin(t, "image.tar"), def.Images[0].ID); err == nil {
		t.Errorf("Load of an archive without a layer that is not here: %s", id)
	}
	if _, missing, err := c.Present(ctx, def.ImageIDs()); err != nil || len(missing) == 0 {
		t.Errorf("of what was refused is here all but %v (%v)", missing, err)
	}
	id, err := c.Load(ctx, filepath.Join(os.Getenv(envDir), "image.tar"), def.Images[0].ID)
	if err != nil || id != def.Images[0].ID {
		t.Fatalf("Load: %s, %v", id, err)
	}
	if _, err := c.Load(ctx, filepath.Join(os.Getenv(envDir), "image.tar"), strings.Repeat("0", 64)); err == nil {
		t.Error("Load took another image than it was asked for")
	}
	if id, err := c.Load(ctx, thin(t, "image.tar"), def.Images[0].ID); err != nil || id != def.Images[0].ID {
		t.Errorf("Load of an archive without the layers that are here: %s, %v", id, err)
	}
	layers, err := c.Layers(ctx)
	if err != nil || len(layers) == 0 || !strings.HasPrefix(layers[0], "sha256:") {
		t.Errorf("Layers: %q, %v", layers, err)
	}

	// A foreign container of one of the names: refused, then out of the way.
	podman(t, "create", "--name", "p-env", id, "true")
	if _, err := c.Realise(ctx, def); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "p-env") {
		t.Errorf("a foreign container: %v", err)
	}
	podman(t, "rm", "p-env")

	changes, err := c.Realise(ctx, def)
	if err != nil {
		t.Fatalf("%v after %q", err, changes)
	}
	if changes, err := c.Realise(ctx, def); err != nil || len(changes) != 0 {
		t.Errorf("second Realise: %q, %v", changes, err)
	}
	diffs, err := differences(ctx, c, def)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diffs {
		t.Error(d)
	}
	back, err := c.Capture(ctx, of(parityNames()...))
	if err != nil {
		t.Fatal(err)
	}
	write(t, "definition-back.json", marshal(t, back))
	if !bytes.Equal(marshal(t, back), marshal(t, def)) {
		t.Error("the definition captured on the replica is another than the origin's: see definition-back.json")
	}
	for i, con := range back.Containers {
		if con.hash() != def.Containers[i].hash() {
			t.Errorf("container %s captured on the replica has another hash:\n%s\n%s", con.Name, con.Spec, def.Containers[i].Spec)
		}
	}
	for _, name := range parityNames() {
		if name == "p-misc" {
			continue // --pids-limit: the lab's nodes have no pids controller
		}
		if err := c.Init(ctx, name); err != nil {
			t.Errorf("Init %s: %v", name, err)
		}
		if err := c.Init(ctx, name); err != nil {
			t.Errorf("second Init %s: %v", name, err)
		}
		if err := c.Start(ctx, name); err != nil {
			t.Errorf("Start %s: %v", name, err)
		}
	}
	if diffs, err := differences(ctx, c, def); err != nil || len(diffs) > 0 {
		t.Errorf("after the start: %q, %v", diffs, err)
	}
}

// TestNodeRecreate changes the definition: what differs is made again, what runs is left alone.
func TestNodeRecreate(t *testing.T) {
	c, ctx := nodeClient(t)
	def := readDefinition(t)
	spec, err := decodeSpec(def.Containers[0].Spec)
	if err != nil {
		t.Fatal(err)
	}
	spec.Env = map[string]string{"CHANGED": "1"}
	if def.Containers[0].Spec, err = encodeSpec(spec); err != nil {
		t.Fatal(err)
	}
	def.Containers[0].Looks = []byte(`{"other":1}`)
	if _, err := c.Realise(ctx, def); !errors.Is(err, ErrRunning) {
		t.Errorf("Realise over a running container: %v", err)
	}
	name := def.Containers[0].Name
	if err := c.Stop(ctx, name, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Init(ctx, name); err != nil {
		t.Fatal(err)
	}
	changes, err := c.Realise(ctx, def)
	if err != nil || len(changes) != 2 {
		t.Errorf("Realise: %q, %v", changes, err)
	}
	if env := podman(t, "inspect", "-f", "{{.Config.Env}}", name); !strings.Contains(env, "CHANGED=1") {
		t.Errorf("environment %s", env)
	}
}

// TestNodeLifecycle goes through the states.
func TestNodeLifecycle(t *testing.T) {
	c, ctx := nodeClient(t)
	if v, err := c.Ping(ctx); err != nil || v == "" {
		t.Fatalf("Ping: %q, %v", v, err)
	}
	if _, err := c.Inspect(ctx, "l-none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Inspect of nothing: %v", err)
	}
	for _, err := range []error{c.Stop(ctx, "l-none", 0), c.Kill(ctx, "l-none"), c.Uninit(ctx, "l-none")} {
		if err != nil {
			t.Errorf("stop, kill, uninit of nothing: %v", err)
		}
	}
	podman(t, "create", "--name", "l1", "-v", "l1data:/data", "-p", "8099:80", "--stop-signal=SIGTERM", image, "sh", "-c", `trap "exit 3" TERM; while :; do sleep 0.1; done`)
	t.Cleanup(func() { podman(t, "rm", "-f", "-t", "0", "l1") })
	eventCtx, stopEvents := context.WithCancel(ctx)
	events := c.Events(eventCtx)
	if e := <-events; e.Type != EventResync {
		t.Errorf("first event %v", e)
	}
	state := func(want State) {
		t.Helper()
		con, err := c.Inspect(ctx, "l1")
		if err != nil || con.State != want {
			t.Errorf("state %s (%v), not %s", con.State, err, want)
		}
	}
	step := func(name string, f func() error, want ...State) {
		t.Helper()
		began := time.Now()
		if err := f(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s took %v", name, time.Since(began).Round(100*time.Microsecond))
		con, err := c.Inspect(ctx, "l1")
		if err != nil || !slices.Contains(want, con.State) {
			t.Errorf("after %s: state %s (%v), not %s", name, con.State, err, want)
		}
	}
	up := func() error {
		if err := c.Start(ctx, "l1"); err != nil {
			return err
		}
		return c.poll(ctx, "l1", "running", func(now Container) (bool, error) { return now.State == StateRunning, nil })
	}
	stop := func() error { return c.Stop(ctx, "l1", 5*time.Second) }
	state(StateCreated)
	step("init", func() error { return c.Init(ctx, "l1") }, StateInitialized)
	step("init again", func() error { return c.Init(ctx, "l1") }, StateInitialized)
	step("uninit", func() error { return c.Uninit(ctx, "l1") }, StateCreated, StateExited, StateStopped)
	step("init after uninit", func() error { return c.Init(ctx, "l1") }, StateInitialized)
	step("start", up, StateRunning)
	step("start again", up, StateRunning)
	step("init of a running container", func() error { return c.Init(ctx, "l1") }, StateRunning)
	if err := c.Uninit(ctx, "l1"); !errors.Is(err, ErrRunning) {
		t.Errorf("Uninit of a running container: %v", err)
	}
	step("stop", stop, StateExited)
	if con, _ := c.Inspect(ctx, "l1"); con.ExitCode != 3 {
		t.Errorf("exit code %d: not stopped by its signal", con.ExitCode)
	}
	step("stop again", stop, StateExited)
	step("cold start", up, StateRunning)
	step("kill", func() error { return c.Kill(ctx, "l1") }, StateExited, StateStopped)
	step("kill again", func() error { return c.Kill(ctx, "l1") }, StateExited, StateStopped)
	step("init after exit", func() error { return c.Init(ctx, "l1") }, StateInitialized)
	step("start", up, StateRunning)
	podman(t, "pause", "l1")
	step("stop of a paused container", stop, StateExited)

	seen := map[EventType]bool{}
	for deadline := time.After(5 * time.Second); !(seen[EventInit] && seen[EventStart] && seen[EventDie] && seen[EventPause]); {
		select {
		case e := <-events:
			if e.Container == "l1" {
				seen[e.Type] = true
			}
		case <-deadline:
			t.Fatalf("events seen: %v", seen)
		}
	}
	podman(t, "create", "--name", "l2", "-p", "198.51.100.77:8098:80", image, "sleep", "1000")
	t.Cleanup(func() { podman(t, "rm", "-f", "l2") })
	if err := c.Init(ctx, "l2"); !errors.Is(err, ErrNoAddress) {
		t.Errorf("Init with a port on an address that is not here: %v", err)
	}
	stopEvents()
	for range events {
	}
	if path, err := c.VolumePath(ctx, "l1data"); err != nil || filepath.Base(path) != "_data" {
		t.Errorf("VolumePath: %s, %v", path, err)
	}
	if _, err := c.VolumePath(ctx, "no-such-volume"); !errors.Is(err, ErrNotFound) {
		t.Errorf("VolumePath of nothing: %v", err)
	}
}

// TestNodeRefuses makes what cannot be carried and wants it named.
func TestNodeRefuses(t *testing.T) {
	c, ctx := nodeClient(t)
	cases := []struct {
		name string
		args []string
		want string
	}{
		{"r-rm", []string{"--rm"}, "--rm"},
		{"r-overlay", []string{"-v", "/srv:/srv:O"}, "mounts /srv"},
		{"r-random", []string{"-p", "80"}, "host port that Podman chose"},
		{"r-dev", []string{"--device", "/dev/null"}, "--device"},
	}
	for _, tc := range cases {
		_ = os.MkdirAll("/srv", 0o755)
		podman(t, slices.Concat([]string{"create", "--name", tc.name}, tc.args, []string{image, "true"})...)
		problems, err := c.Check(ctx, of(tc.name))
		if err != nil || len(problems) == 0 || !strings.Contains(problems[0].String(), tc.want) {
			t.Errorf("%s: %v, %v", tc.name, problems, err)
		}
		if _, err := c.Capture(ctx, of(tc.name)); err == nil {
			t.Errorf("%s was captured", tc.name)
		}
		podman(t, "rm", "-v", tc.name)
	}
}

// thin leaves the largest blob out of an archive: the layer of an image that has one.
func thin(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(os.Getenv(envDir), name))
	if err != nil {
		t.Fatal(err)
	}
	largest := ""
	var most int64
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		if h.Size > most {
			largest, most = h.Name, h.Size
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == largest {
			continue
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, "thin.tar", out.Bytes())
	return filepath.Join(os.Getenv(envDir), "thin.tar")
}

func marshal(t *testing.T, d *Definition) []byte {
	t.Helper()
	raw, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func write(t *testing.T, name string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(os.Getenv(envDir), name), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readDefinition(t *testing.T) *Definition {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(os.Getenv(envDir), "definition.json"))
	if err != nil {
		t.Fatal(err)
	}
	def, err := ParseDefinition(raw)
	if err != nil {
		t.Fatal(err)
	}
	return def
}

// differences says in what the containers here look different from those of the definition.
func differences(ctx context.Context, c *Client, def *Definition) ([]string, error) {
	var out []string
	for _, con := range def.Containers {
		d, err := c.inspect(ctx, con.Name)
		if err != nil {
			return nil, err
		}
		looks, err := looksOf(d)
		if err != nil {
			return nil, err
		}
		for _, diff := range lookDifferences(looks, con.Looks) {
			out = append(out, "container "+con.Name+": "+diff)
		}
	}
	return out, nil
}
