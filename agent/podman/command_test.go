package podman

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containers/podman/v5/libpod/define"
)

var update = flag.Bool("update", false, "write the golden files anew")

// inspected is what Podman would show of a container made by command.
func inspected(command ...string) *define.InspectContainerData {
	return &define.InspectContainerData{
		ID: strings.Repeat("ab", 32), Name: "web", Image: strings.Repeat("cd", 32), ImageName: "localhost/app:1",
		Config:          &define.InspectContainerConfig{CreateCommand: command, StopTimeout: 10, Umask: "0022"},
		HostConfig:      &define.InspectContainerHostConfig{LogConfig: &define.InspectLogConfig{Type: "k8s-file"}},
		NetworkSettings: &define.InspectNetworkSettings{Networks: map[string]*define.InspectAdditionalNetwork{"podman": {}}},
	}
}

func in(d *define.InspectContainerData, networks ...string) *define.InspectContainerData {
	d.NetworkSettings.Networks = map[string]*define.InspectAdditionalNetwork{}
	for _, n := range networks {
		d.NetworkSettings.Networks[n] = &define.InspectAdditionalNetwork{Aliases: []string{"abababababab", "web", "other-" + n}}
	}
	return d
}

// TestSpecGolden: what is sent to Podman for a create command is kept as a file;
// `go test -run Golden -update` writes the files, and the diff is to be read.
func TestSpecGolden(t *testing.T) {
	cases := map[string]*define.InspectContainerData{
		"plain":     inspected("podman", "run", "-d", "--name", "web", "localhost/app:1", "serve", "--name", "x"),
		"process":   inspected("/usr/bin/podman", "container", "create", "-it", "-u", "1:2", "-w", "/w", "--entrypoint", `["a","b"]`, "--stop-signal=INT", "--privileged", "--cap-drop", "ALL", "-eA=1", "--label=x=y", "img", "c"),
		"secrets":   inspected("podman", "run", "--secret", "cert", "--secret=pass,type=env,target=PGPASSWORD", "--secret", "key,uid=5,gid=6,mode=0400,target=/etc/key", "img"),
		"volumes":   inspected("podman", "run", "-v", "data:/data:U", "-v", "conf:/conf:ro", "--mount", "type=tmpfs,dst=/t", "--tmpfs", "/s:size=1m", "-v", "/etc/localtime:/etc/localtime:ro", "img"),
		"limits":    inspected("podman", "run", "-m", "64m", "--cpus", "1.5", "--pids-limit=50", "--ulimit", "nofile=1:2", "--shm-size", "1m", "--oom-score-adj=-5", "img"),
		"health":    inspected("podman", "run", "--health-cmd", "curl localhost", "--healthcheck-interval=5s", "--health-on-failure=kill", "img"),
		"ports":     inspected("podman", "run", "-p", "80:80,443:443", "--publish=[2001:db8::1]:53:53/udp", "--expose", "9", "img"),
		"network":   in(inspected("podman", "run", "--net", "front", "--ip", "192.0.2.9", "--network-alias", "a,b", "--mac-address", "02:00:00:00:00:01", "--dns", "192.0.2.1", "--add-host", "h:192.0.2.2", "img"), "front"),
		"connected": in(inspected("podman", "run", "--network", "front:ip=192.0.2.9", "img"), "back", "front"),
		"moved":     in(inspected("podman", "run", "img"), "back"),
		"alone":     in(inspected("podman", "run", "--network", "front", "img")),
		"hostnet":   in(inspected("podman", "run", "--network=host", "img"), "host"),
		"restart":   inspected("podman", "run", "--restart=always", "--replace", "--pull=always", "-q", "img"),
	}
	for name, d := range cases {
		t.Run(name, func(t *testing.T) {
			s, problems := buildSpec(d, "")
			if fatal(problems) {
				t.Fatal(problems)
			}
			raw, err := encodeSpec(s)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, raw, "", "  "); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			golden := filepath.Join("testdata", "spec", name+".json")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("differs from %s:\n%s", golden, got.Bytes())
			}
			back, err := decodeSpec(raw)
			if err != nil {
				t.Fatal(err)
			}
			again, err := encodeSpec(back)
			if err != nil || !bytes.Equal(raw, again) {
				t.Errorf("it does not survive a definition (%v):\n%s\n%s", err, raw, again)
			}
		})
	}
}

func TestRefusedByName(t *testing.T) {
	with := func(flags ...string) *define.InspectContainerData {
		return inspected(append(append([]string{"podman", "run"}, flags...), "img")...)
	}
	quadlet := with()
	quadlet.Config.Labels = map[string]string{systemdLabel: "web.service"}
	cases := map[string]struct {
		d    *define.InspectContainerData
		want string
	}{
		"unknown flag":      {with("--frobnicate"), "frobnicate"},
		"no create command": {inspected(), "no create command"},
		"play kube":         {inspected("podman", "kube", "play", "x.yaml"), "podman kube play"},
		"global flag":       {inspected("podman", "--root", "/x", "run", "img"), "--root"},
		"no image":          {inspected("podman", "run", "-d"), "names no image"},
		"rm":                {with("--rm"), "--rm"},
		"env from here":     {with("-e", "PASSWORD"), "--env PASSWORD"},
		"env file":          {with("--env-file=/etc/x"), "--env-file"},
		"device":            {with("--device=/dev/sda"), "--device"},
		"init container":    {with("--init-ctr=once"), "--init-ctr"},
		"quadlet":           {quadlet, "web.service"},
		"overlay":           {with("-v", "/srv:/x:O"), "overlay"},
		"image volume":      {with("--mount", "type=image,src=i,dst=/x"), "image"},
		"random port":       {with("-p", "80"), "port 80"},
		"all ports":         {with("-P"), "--publish-all"},
		"others' network":   {with("--network", "container:x"), "network namespace"},
		"others' pid":       {with("--pid=container:x"), "--pid"},
		"userns":            {with("--userns=auto"), "--userns"},
		"seccomp":           {with("--security-opt", "seccomp=/x.json"), "/x.json"},
		"log path":          {with("--log-opt", "path=/x"), "path=/x"},
		"passthrough":       {with("--log-driver=passthrough"), "passthrough"},
		"health without":    {with("--health-interval=5s"), "--health-cmd"},
		"volumes from":      {with("--volumes-from", "x"), "--volumes-from"},
		"bad value":         {with("--memory", "lots"), "lots"},
		"bad address":       {with("--ip", "lots"), "lots"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s, problems := buildSpec(tc.d, "")
			if s != nil || !fatal(problems) {
				t.Fatalf("it was carried: %v", problems)
			}
			if err := asError(problems); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "container web") {
				t.Errorf("%q is not named in: %v", tc.want, err)
			}
			for _, p := range problems {
				if p.Next == "" {
					t.Errorf("nothing to do about: %s", p)
				}
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, problems := buildSpec(inspected("podman", "run", "--rm", "--device", "s", "--env-file=x", "img"), "")
	if len(problems) != 3 {
		t.Errorf("problems: %v", problems)
	}
}

func TestFalseIsNotRefused(t *testing.T) {
	if _, problems := buildSpec(inspected("podman", "run", "--rm=false", "img"), ""); fatal(problems) {
		t.Error(problems)
	}
}

func TestFlagListsAreDisjoint(t *testing.T) {
	seen := map[string]bool{}
	for _, list := range [][]flagRule{flagsWithoutEffect, flagsRefused} {
		for _, r := range list {
			if seen[r.name] {
				t.Errorf("--%s twice", r.name)
			}
			seen[r.name] = true
		}
	}
	for _, r := range flagsRefused {
		if r.why == "" || r.next == "" {
			t.Errorf("--%s is refused without a reason or a way out", r.name)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	f.Add("podman\x00run\x00-d\x00--name\x00x\x00img")
	f.Add("podman\x00--log-level")
	f.Add("podman\x00create\x00-p\x001-2:3-4\x00--network\x00a:ip=1\x00--mount\x00type=volume\x00i")
	f.Fuzz(func(t *testing.T, line string) {
		d := inspected(strings.Split(line, "\x00")...)
		if strings.Contains(line, "glob") {
			return // looks at the file system
		}
		s, problems := buildSpec(d, "")
		if s == nil && !fatal(problems) {
			t.Error("neither a specification nor a problem")
		}
	})
}

func FuzzParseDefinition(f *testing.F) {
	f.Add([]byte(`{"version":1,"containers":[{"name":"a","image_id":"b","spec":{"image":"c"},"looks":{}}],"images":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := ParseDefinition(raw)
		if err != nil {
			return
		}
		once, err := d.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseDefinition(once)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := again.Marshal(); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("not stable (%v):\n%s\n%s", err, once, twice)
		}
	})
}
