package podman

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// generated puts into a root what Podman's generator made, as testdata has it.
func generated(t *testing.T, root string, files ...string) {
	t.Helper()
	dir := filepath.Join(root, generatorDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(filepath.Join("testdata", "quadlet", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestQuadletUnits(t *testing.T) {
	root := t.TempDir()
	generated(t, root, "web.service", "shop-pod.service", "data-volume.service", "alone.service", "play.service")
	c := New(Options{Root: root})
	services := func(units []unit) (out []string) {
		for _, u := range units {
			out = append(out, u.service)
		}
		return out
	}
	units, missing, err := c.quadlets([]string{"alone.container", "shop.pod", "gone.container"})
	if err != nil || !slices.Equal(missing, []string{"gone.container"}) || !slices.Equal(services(units), []string{"alone.service", "shop-pod.service", "web.service"}) {
		t.Fatalf("%q, missing %q, %v", services(units), missing, err)
	}
	want := []string{"podman", "create", "--pod", "systemd-shop", "--name", "web", "-v", "systemd-data:/data", "--env", "NAME=two words", "localhost/app:1", "serve", "--rm", "-d", "100%"}
	if got := units[2].command; !slices.Equal(got, want) {
		t.Errorf("web is made by\n%q, want\n%q", got, want)
	}
	if got := units[1].command; units[1].name() != "systemd-shop" || !slices.Equal(got[:3], []string{"podman", "pod", "create"}) || slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "/run/") }) {
		t.Errorf("the pod is made by %q", got)
	}
	if problems, err := c.CheckUnits(Workload{Quadlet: []string{"shop.pod", "alone.container"}}); err != nil || fatal(problems) {
		t.Errorf("%v, %v", problems, err)
	}
	// A container brings its pod along.
	if units, _, err := c.quadlets([]string{"web.container"}); err != nil || !slices.Equal(services(units), []string{"shop-pod.service", "web.service"}) {
		t.Errorf("%q, %v", services(units), err)
	}
	w, err := c.withYAML(Workload{Quadlet: []string{"play.kube"}})
	if err != nil || !slices.Equal(w.Kube, []string{"/etc/containers/systemd/shop.yaml"}) {
		t.Errorf("YAML of a unit: %q, %v", w.Kube, err)
	}
}

func TestSpecifiers(t *testing.T) {
	for in, want := range map[string]string{
		"a": "a", "100%%": "100%", "$$HOME": "$HOME", "%t/%N.cid": "/run/web.cid", "%n": "web.service", "%": "%", "$": "$", "a%": "a%",
	} {
		if got, err := specifiers(in, "web.service"); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"%h/x", "${HOME}", "$HOME", "%i"} {
		if got, err := specifiers(in, "web.service"); err == nil {
			t.Errorf("%q was read as %q", in, got)
		}
	}
}

// What stands against a unit is told by its name, and does not stand against others.
func TestUnitsRefusedByName(t *testing.T) {
	root := t.TempDir()
	generated(t, root, "device.service", "home.service", "after.service", "alone.service", "data-volume.service", "web.service", "shop-pod.service")
	c := New(Options{Root: root})
	for file, wants := range map[string][]string{
		"device.container": {"--device"}, "home.container": {"%h"}, "after.container": {"ExecStartPre=/bin/mkdir", "requires alone.container"}, "alone.container": nil, "shop.pod": nil,
	} {
		problems, err := c.CheckUnits(Workload{Quadlet: []string{file}})
		if err != nil || fatal(problems) != (len(wants) > 0) || len(problems) != len(wants) {
			t.Errorf("%s: %v, %v", file, problems, err)
			continue
		}
		for i, want := range wants {
			if text := problems[i].String(); !strings.HasPrefix(text, file+": ") || !strings.Contains(text, want) {
				t.Errorf("%s: %s, want %q", file, text, want)
			}
		}
	}
	if problems, err := c.CheckUnits(Workload{Quadlet: []string{"after.container", "alone.container"}}); err != nil || len(problems) != 1 {
		t.Errorf("with what it requires: %v, %v", problems, err)
	}
}

func TestPlayCommand(t *testing.T) {
	def, err := playCommand(strings.Fields("/usr/bin/podman kube play --replace --service-container=true --network a --network b --publish 8081:81 --log-driver=journald /etc/x.yaml"))
	if err != nil || def.Path != "/etc/x.yaml" || !slices.Equal(def.Networks, []string{"a", "b"}) || !slices.Equal(def.Publish, []string{"8081:81"}) || def.LogDriver != "journald" {
		t.Errorf("%+v, %v", def, err)
	}
	for _, bad := range []string{"podman kube play --configmap /x /etc/x.yaml", "podman kube play /a /b", "podman kube play x.yaml", "podman kube play", "podman run x"} {
		if def, err := playCommand(strings.Fields(bad)); err == nil {
			t.Errorf("%s: read as %+v", bad, def)
		}
	}
}

// noSystemd writes down what it is asked.
type noSystemd struct {
	root  string
	asked []string
	fails error
}

func (s *noSystemd) mask(_ context.Context, units []string) error {
	s.asked = append(s.asked, "mask "+strings.Join(units, " "))
	for _, u := range units {
		if err := errors.Join(os.MkdirAll(filepath.Join(s.root, "etc/systemd/system"), 0o755), os.Symlink("/dev/null", filepath.Join(s.root, "etc/systemd/system", u))); err != nil {
			return err
		}
	}
	return s.fails
}

func (s *noSystemd) stop(_ context.Context, unit string) error {
	s.asked = append(s.asked, "stop "+unit)
	return s.fails
}

func (s *noSystemd) start(_ context.Context, unit string) error {
	s.asked = append(s.asked, "start "+unit)
	return s.fails
}

func (*noSystemd) close() {}

// Units are stopped, containers before their pod, and masked, once; masked ones do not
// stand against the service.
func TestAdoptDisarms(t *testing.T) {
	root := t.TempDir()
	generated(t, root, "web.service", "shop-pod.service")
	wants := filepath.Join(root, generatorDir, "default.target.wants")
	if err := errors.Join(os.MkdirAll(wants, 0o755), os.Symlink("../web.service", filepath.Join(wants, "web.service"))); err != nil {
		t.Fatal(err)
	}
	s := &noSystemd{root: root}
	c := New(Options{Root: root})
	c.systemd = func(context.Context) (systemd, error) { return s, nil }
	w := Workload{Quadlet: []string{"shop.pod"}}
	if p := bootStarters(root, []string{"web"}); len(p) != 1 {
		t.Errorf("before: %v", p)
	}
	s.fails = errors.New("systemd does not want to")
	if _, err := c.Adopt(t.Context(), w, false); err == nil || len(s.asked) != 1 {
		t.Errorf("a unit that cannot be stopped: %v, asked %q", err, s.asked)
	}
	s.fails, s.asked = nil, nil
	changes, err := c.Adopt(t.Context(), w, false)
	if err != nil || len(changes) != 2 || !slices.Equal(s.asked, []string{"stop web.service", "stop shop-pod.service", "mask web.service shop-pod.service"}) {
		t.Errorf("%q, %v, asked %q", changes, err, s.asked)
	}
	if p := bootStarters(root, []string{"web"}); len(p) != 0 {
		t.Errorf("afterwards: %v", p)
	}
	if changes, err := c.Adopt(t.Context(), w, false); err != nil || len(changes) > 0 {
		t.Errorf("again: %q, %v", changes, err)
	}
	if changes, err := c.Adopt(t.Context(), Workload{}, true); err != nil || len(changes) > 0 {
		t.Errorf("a service without units: %q, %v", changes, err)
	}
}

func FuzzReadUnit(f *testing.F) {
	for _, name := range []string{"web.service", "shop-pod.service", "play.service"} {
		raw, err := os.ReadFile(filepath.Join("testdata", "quadlet", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(raw))
	}
	f.Fuzz(func(t *testing.T, text string) {
		u := readUnit("x.service", text)
		if u != nil && !u.makes() && u.play == nil && len(u.command) == 0 && !fatal(u.problems) {
			t.Error("a unit without a command, and no word of it")
		}
	})
}
