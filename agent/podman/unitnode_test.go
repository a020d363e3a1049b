package podman

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const unitDir = "/etc/containers/systemd"

// nodeUnits are what TestNodeUnits has systemd run.
var nodeUnits = map[string]string{
	"unit-net.network":   "[Network]\nSubnet=203.0.113.64/27\n",
	"unit-data.volume":   "[Volume]\nLabel=app=unit\n",
	"unit-shop.pod":      "[Pod]\nPodName=unit-shop\nNetwork=unit-net.network\nPublishPort=18095:80\n",
	"unit-web.container": "[Container]\nContainerName=unit-web\nImage=" + image + "\nPod=unit-shop.pod\nVolume=unit-data.volume:/data\nEnvironment=NAME=\"two words\"\nExec=sh -c 'sleep 1000 # 100%%'\n[Install]\nWantedBy=multi-user.target\n",
	"unit-alone.container": "[Container]\nContainerName=unit-alone\nImage=" + image + "\nExec=sleep 1000\nVolume=/etc/hosts:/hosts:ro\n" +
		"[Service]\nRestart=always\n[Install]\nWantedBy=multi-user.target\n",
	"unit-play.kube": "[Kube]\nYaml=unit-play.yaml\nNetwork=unit-net.network\nPublishPort=18096:80\n[Install]\nWantedBy=multi-user.target\n",
	"unit-play.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: unit-kube}\nspec:\n  containers:\n" +
		"  - {name: a, image: " + image + ", command: [sleep, \"1000\"]}\n  - {name: b, image: " + image + ", command: [sleep, \"1000\"]}\n",
	// Nobody's concern but their own.
	"unit-home.container":   "[Container]\nContainerName=unit-home\nImage=" + image + "\nExec=ls %h\n",
	"unit-device.container": "[Container]\nContainerName=unit-device\nImage=" + image + "\nAddDevice=/dev/null\n",
	"unit-more.container":   "[Container]\nContainerName=unit-more\nImage=" + image + "\n[Service]\nExecStartPre=/bin/mkdir -p /srv/x\n",
	"unit-after.container":  "[Unit]\nRequires=unit-alone.service\n[Container]\nContainerName=unit-after\nImage=" + image + "\n",
}

var nodeWorkload = Workload{Quadlet: []string{"unit-shop.pod", "unit-alone.container", "unit-play.kube"}}

// systemctl runs it; what it says is returned also where it fails.
func systemctl(args ...string) (string, error) {
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func removeUnits(t *testing.T) {
	_, _ = systemctl("stop", "unit-*") // those of networks and volumes count as started
	for name := range nodeUnits {
		_ = os.Remove(filepath.Join(unitDir, name))
	}
	masks, _ := filepath.Glob("/etc/systemd/system/unit-*")
	for _, m := range masks {
		_ = os.Remove(m)
	}
	if out, err := systemctl("daemon-reload"); err != nil {
		t.Error(out)
	}
	for _, args := range [][]string{{"pod", "rm", "-f", "-i", "-t", "0", "unit-shop", "unit-kube"}, {"rm", "-f", "-i", "-t", "0", "unit-alone"}, {"network", "rm", "-f", "systemd-unit-net", "podman-default-kube-network"}, {"volume", "rm", "-f", "systemd-unit-data"}} {
		if out, err := exec.Command("podman", args...).CombinedOutput(); err != nil {
			t.Errorf("podman %v: %s", args, out)
		}
	}
}

// TestNodeUnits takes quadlet units that run out of systemd's hands, and keeps what they
// describe as any other workload.
func TestNodeUnits(t *testing.T) {
	c, ctx := nodeClient(t)
	t.Cleanup(func() { removeUnits(t) })
	if err := os.MkdirAll(unitDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range nodeUnits {
		if err := os.WriteFile(filepath.Join(unitDir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"daemon-reload"}, {"start", "unit-web", "unit-alone", "unit-play"}} {
		if out, err := systemctl(args...); err != nil {
			t.Fatalf("%v: %s", args, out)
		}
	}
	if problems, err := c.CheckUnits(nodeWorkload); err != nil || len(problems) > 0 {
		t.Errorf("units: %v, %v", problems, err)
	}
	for file, want := range map[string]string{"unit-home": "%h", "unit-device": "--device", "unit-more": "ExecStartPre", "unit-after": "unit-alone.container"} {
		problems, err := c.CheckUnits(Workload{Quadlet: []string{file + ".container"}})
		if err != nil || !fatal(problems) || !strings.Contains(problems[0].String(), file+".container") || !strings.Contains(problems[0].String(), want) {
			t.Errorf("%s: %v, %v", file, problems, err)
		}
	}
	names, absent, err := c.Members(ctx, nodeWorkload)
	if err != nil || len(absent) > 0 {
		t.Fatalf("members %q, without %q, %v", names, absent, err)
	}
	w := nodeWorkload
	w.Containers = names
	if problems, err := c.Check(ctx, w); err != nil || fatal(problems) {
		t.Errorf("systemd runs them: %v, %v", problems, err)
	}
	// Killed after systemd has let go, and before anything was made.
	if _, err := c.Adopt(ctx, nodeWorkload, false); err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"unit-web", "unit-alone", "unit-play", "unit-shop-pod"} {
		if state, _ := systemctl("is-active", unit); state == "active" {
			t.Errorf("%s is %s", unit, state)
		}
		if out, err := systemctl("start", unit); err == nil || !strings.Contains(out, "masked") {
			t.Errorf("systemd starts %s: %s", unit, out)
		}
	}
	if changes, err := c.Adopt(ctx, nodeWorkload, true); err != nil || len(changes) != 4 {
		t.Fatalf("made: %q, %v", changes, err)
	}
	w.Containers, absent, err = c.Members(ctx, nodeWorkload)
	if err != nil || len(absent) > 0 || len(w.Containers) != 6 { // two of them infra containers
		t.Fatalf("members %q, without %q, %v", w.Containers, absent, err)
	}
	if problems, err := c.Check(ctx, w); err != nil || fatal(problems) {
		t.Errorf("what was made: %v, %v", problems, err)
	}
	if got := podman(t, "inspect", "-f", "{{.State.Status}} {{.HostConfig.AutoRemove}} {{.Config.Env}}", "unit-web"); !strings.HasPrefix(got, "created false") || !strings.Contains(got, "NAME=two words") {
		t.Errorf("unit-web is %s", got)
	}
	if changes, err := c.Adopt(ctx, nodeWorkload, true); err != nil || len(changes) > 0 {
		t.Errorf("again: %q, %v", changes, err)
	}
	podman(t, "rm", "unit-alone")
	if changes, err := c.Adopt(ctx, nodeWorkload, true); err != nil || len(changes) != 1 {
		t.Errorf("one was removed: %q, %v", changes, err)
	}
	def, err := c.Capture(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	if changes, err := c.Realise(ctx, def); err != nil || len(changes) > 0 {
		t.Errorf("where they are: %q, %v", changes, err)
	}
	replayed(t, def)
}

// replayed: what a kill, a power cut or an operator has left of played pods is made whole.
func replayed(t *testing.T, def *Definition) {
	t.Helper()
	c, ctx := nodeClient(t)
	yaml := def.Kube[0].Path
	for name, harm := range map[string]func() error{
		"a container is gone":      func() error { podman(t, "rm", "unit-kube-b"); return nil },
		"killed before the end":    func() error { podman(t, "rename", def.Pods[0].Infra, "unit-killed"); return nil },
		"killed before the record": func() error { return c.record.update(func(d *recordData) { delete(d.Kube, yaml) }) },
		"the record is lost": func() error {
			return c.record.update(func(d *recordData) { *d = recordData{Version: recordVersion}; d.fill() })
		},
		"the whole pod is gone":       func() error { podman(t, "pod", "rm", "unit-kube"); return nil },
		"a restart policy came along": func() error { podman(t, "update", "--restart=always", "unit-kube-a"); return nil },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if changes, err := c.Realise(ctx, def); err != nil {
			t.Errorf("%s: %q, %v", name, changes, err)
		}
		if diffs, err := differences(ctx, c, def); err != nil || len(diffs) > 0 {
			t.Errorf("%s: %q, %v", name, diffs, err)
		}
		if e, ok, err := c.record.kube(yaml); err != nil || !ok || !slices.Contains(strings.Fields(podman(t, "pod", "ps", "-q", "--no-trunc")), e.Pods["unit-kube"]) {
			t.Errorf("%s: recorded %+v, %v", name, e, err)
		}
		if got := podman(t, "inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", "unit-kube-a"); got != "no" {
			t.Errorf("%s: the restart policy is %s", name, got)
		}
		if changes, err := c.Realise(ctx, def); err != nil || len(changes) > 0 {
			t.Errorf("%s, a second time: %q, %v", name, changes, err)
		}
	}
	// Played by hand meanwhile, and not as on the active.
	podman(t, "pod", "rm", "unit-kube")
	podman(t, "kube", "play", "--start=false", yaml)
	if _, err := c.Realise(ctx, def); !errors.Is(err, ErrForeign) {
		t.Errorf("played by hand, without its flags: %v", err)
	}
}
