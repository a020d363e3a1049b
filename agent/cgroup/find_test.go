package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseConmon(t *testing.T) {
	id := ids[0]
	for _, tc := range []struct {
		name string
		argv []string
		want conmon
		ok   bool
	}{
		{"podman's", append([]string{"/usr/bin/conmon"}, podmanArgs("web", id, id)...), conmon{name: "web", id: id, session: id, pidfile: "/run/containers/x/pidfile"}, true},
		{"long options", []string{"conmon", "--name", "web", "--cid", id}, conmon{name: "web", id: id}, true},
		{"joined options", []string{"conmon", "--name=web", "--cid=" + id}, conmon{name: "web", id: id}, true},
		{"another program", []string{"grep", "-n", "web", "-c", id}, conmon{}, false},
		{"another program's argument", []string{"sh", "conmon", "-n", "web", "-c", id}, conmon{}, false},
		{"no name", []string{"conmon", "-c", id}, conmon{}, false},
		{"no id", []string{"conmon", "-n", "web"}, conmon{}, false},
		{"short id", []string{"conmon", "-n", "web", "-c", id[:12]}, conmon{}, false},
		{"id with other characters", []string{"conmon", "-n", "web", "-c", strings.ToUpper(id)}, conmon{}, false},
		{"name as the value of another option", []string{"conmon", "--log-tag", "-n", "-c", id, "web"}, conmon{}, false},
		{"two names", []string{"conmon", "-n", "web", "-c", id, "-n", "db"}, conmon{}, false},
		{"option without its value", []string{"conmon", "-c", id, "-n"}, conmon{}, false},
		{"nothing", nil, conmon{}, false},
	} {
		got, ok := parseConmon([]byte(strings.Join(tc.argv, "\x00") + "\x00"))
		if ok != tc.ok || ok && got != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, got, ok)
		}
	}
}

func FuzzParseConmon(f *testing.F) {
	f.Add([]byte(strings.Join(append([]string{"conmon"}, podmanArgs("web", ids[0], ids[0])...), "\x00")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, ok := parseConmon(b); ok && (c.name == "" || !isID(c.id)) {
			t.Errorf("%+v", c)
		}
	})
}

func TestIDOfCgroup(t *testing.T) {
	id := ids[0]
	for dir, want := range map[string]string{
		"libpod-" + id:                   id,
		"libpod-" + id + ".scope":        id,
		"libpod-payload-" + id:           id,
		"libpod-conmon-" + id + ".scope": "",
		"libpod-" + id[:63]:              "",
		"libpod_parent":                  "",
		id:                               "",
	} {
		if got := idOf(dir); got != want {
			t.Errorf("%s: %q", dir, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	st, err := parseStat("42 (a) b (c) S 7 " + strings.Repeat("0 ", 17) + "99 0\n")
	if err != nil || st != (stat{comm: "a) b (c", state: "S", ppid: 7, start: "99"}) {
		t.Errorf("%+v, %v", st, err)
	}
	for _, bad := range []string{"", "1 (x) S", ") (", "1 (x) S y " + strings.Repeat("0 ", 20)} {
		if st, err := parseStat(bad); err == nil {
			t.Errorf("%q: %+v", bad, st)
		}
	}
}

// A node with two containers, one under each cgroup manager, an exec session,
// and processes that only look like a monitor.
func TestFind(t *testing.T) {
	top := root(t)
	conmons := mkdir(t, top, "conmons")
	systemd := mkdir(t, top, "machine.slice", "libpod-"+ids[0]+".scope")
	payload := mkdir(t, systemd, "container")
	cgroupfs := mkdir(t, top, "libpod_parent", "libpod-"+ids[1])
	mkdir(t, top, "machine.slice", "libpod-conmon-"+ids[0]+".scope")
	binary := conmonBinary(t)
	web := startConmon(t, binary, conmons, payload, podmanArgs("web", ids[0], ids[0]))
	startConmon(t, binary, conmons, payload, append(podmanArgs("web", ids[0], strings.Repeat("9", 64)), "-e"))
	db := startConmon(t, binary, conmons, cgroupfs, podmanArgs("db", ids[1], ids[1]))
	// argv says conmon, the program is another
	liar := in(t, conmons, "bash", "-c", `exec -a conmon sh -c 'sleep 100; exit' sh -n web -c `+strings.Repeat("e", 64))

	h := NewHost(Options{Root: top, Storage: []string{}})
	for _, tc := range []struct {
		name string
		want []Container
	}{
		{"web", []Container{{Name: "web", ID: ids[0], Conmon: web.cmd.Process.Pid, Init: web.init, Cgroups: []string{systemd}}}},
		{"db", []Container{{Name: "db", ID: ids[1], Conmon: db.cmd.Process.Pid, Init: db.init, Cgroups: []string{cgroupfs}}}},
		{"we", nil},
	} {
		got, err := h.Find(tc.name)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s: %s", tc.name, d)
		}
	}
	if !h.Started(web.init) || h.Started(0) {
		t.Error("Started")
	}
	liar.Process.Kill()
}

// With conmon dead a container is found by its recorded id, or by its name in
// the storage library's list.
func TestFindWithoutMonitor(t *testing.T) {
	top := root(t)
	dir := mkdir(t, top, "libpod-"+ids[0]+".scope")
	p := in(t, dir, "sleep", "100")
	list := filepath.Join(t.TempDir(), "containers.json")
	if err := os.WriteFile(list, []byte(`[{"id":"`+ids[0]+`","names":["web"],"image":"x"},{"id":"`+ids[1]+`","names":["db"]}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	h := NewHost(Options{Root: top, Storage: []string{list, "/nonexistent"}})
	byName, err := h.Find("web")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Container{{Name: "web", ID: ids[0], Cgroups: []string{dir}}}, byName); d != "" {
		t.Error(d)
	}
	if got, err := h.Find("db"); err != nil || got != nil {
		t.Errorf("a container that exists and does not run: %v, %v", got, err)
	}
	if pids, err := Procs(dir); err != nil || !cmp.Equal(pids, []int{p.Process.Pid}) {
		t.Errorf("%v, %v", pids, err)
	}
}
