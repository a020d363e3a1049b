//go:build lab

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// nextPackage packs what is checked out as a release that is newer than any other.
// software is what its programs call themselves; with "" they are those in build/.
func nextPackage(t *testing.T, format, software string) string {
	t.Helper()
	out := "build/e2e-next"
	t.Cleanup(func() { _ = os.RemoveAll(checkout(out)) })
	cmd := exec.CommandContext(limited(t, 5*time.Minute), checkout(".packaging", "build.sh"))
	cmd.Env = append(os.Environ(), "FORMATS="+format, "OUT="+out, "TOOLS=build/tools", fmt.Sprintf("PACKAGE_VERSION=99.%d", time.Now().Unix()))
	if software == "" {
		cmd.Env = append(cmd.Env, "BIN=build")
	} else {
		cmd.Env = append(cmd.Env, "VERSION="+software)
	}
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("packing the next release: %v\n%s", err, said)
	}
	return only(t, checkout(out, "understudy*."+format))
}

// only is the one file that the pattern matches.
func only(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("%s: there is not one, but %v", pattern, found)
	}
	return found[0]
}

// testUpgrade: agents of two versions get along: replication goes on and the
// service moves both ways. Installing the next release on the active node is
// unnoticed by the service's clients; its agent takes the service up again (invariant 8).
func testUpgrade(t *testing.T, c *cluster) {
	next := fmt.Sprintf("next-%d", time.Now().Unix())
	deb := nextPackage(t, "deb", next)
	active, standby := c.roles(t)
	w := c.writing(t)
	must(t, standby.InstallDeb(limited(t, time.Minute), deb))
	c.settle(t)
	old := software(t, c, active)
	if old == next || software(t, c, standby) != next {
		t.Fatalf("%s runs %s, %s runs %s", active.Name(), old, standby.Name(), software(t, c, standby))
	}
	for _, n := range c.Nodes() {
		contains(t, "understudy status", c.sh(t, n, "understudy status"), old, next)
	}
	for _, to := range []*lab.Node{standby, active} {
		w.more(t, 20)
		from, _ := c.roles(t)
		c.sh(t, from, "understudy switchover registry --yes")
		c.waitRole(t, to, api.RoleActive)
		c.settle(t)
	}
	w.more(t, 20)
	before, began := look(active), time.Now()
	unbroken(t, c.measured(t, func() {
		must(t, active.InstallDeb(limited(t, time.Minute), deb))
		eventually(t, 30*time.Second, "the next release on the active node", func() error {
			if v, err := c.Agent(active).Version(limited(t, 5*time.Second)); err != nil || v.Software != next {
				return fmt.Errorf("%s, %w", v.Software, err)
			}
			return nil
		})
		c.settle(t)
		w.more(t, 50)
	}))
	after := look(active)
	for _, program := range []string{"ledger", "registry"} {
		if before.programs[program] == 0 || before.programs[program] != after.programs[program] {
			t.Errorf("%s is process %d, was %d: it was started anew", program, after.programs[program], before.programs[program])
		}
	}
	if !after.holds(stack.VIP) {
		t.Error("the address is gone")
	}
	contains(t, "understudy log", c.journal(t, active, began), "re-adopted")
	if lost := c.lost(t, w.stop()); len(lost) > 0 {
		t.Errorf("%d writes are lost", len(lost))
	}
	c.settle(t)
	c.sameLedger(t)
}

// software is the version that the node's agent runs.
func software(t *testing.T, c *cluster, n *lab.Node) string {
	t.Helper()
	v, err := c.Agent(n).Version(limited(t, 10*time.Second))
	must(t, err)
	return v.Software
}

// TestRPM installs, upgrades and removes the rpm on a node that has never had
// Understudy, with the real rpm. What it depends on is there by other means.
func TestRPM(t *testing.T) {
	l, err := lab.Up(limited(t, 5*time.Minute), lab.Options{Name: "e2erpm", Nodes: []string{"n1"}, Out: said{t}})
	must(t, err)
	c := &cluster{Stack: &stack.Stack{Lab: l}}
	t.Cleanup(func() { must(t, l.Down(limited(t, time.Minute))) })
	c.keepLogs(t)
	n, ctx := l.Node("n1"), limited(t, 5*time.Minute)
	deb, err := stack.Deb()
	must(t, err)
	rpm, next := only(t, checkout("build", "understudy-*.rpm")), nextPackage(t, "rpm", "")
	for from, to := range map[string]string{deb: "/root/a.deb", rpm: "/root/a.rpm", next: "/root/b.rpm"} {
		must(t, n.CopyIn(ctx, from, to, 0o644))
	}
	t.Run("as the deb", func(t *testing.T) { sameFiles(t, c, n) })
	t.Run("install", func(t *testing.T) { installRPM(t, c, n) })
	t.Run("upgrade", func(t *testing.T) { upgradeRPM(t, c, n) })
	t.Run("remove", func(t *testing.T) { removeRPM(t, c, n) })
}

// sameFiles: rpm and deb hold the same files with the same modes and owners.
func sameFiles(t *testing.T, c *cluster, n *lab.Node) {
	inRPM := strings.Split(c.sh(t, n, "rpm -qp --qf '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]' /root/a.rpm"), "\n")
	var inDeb []string
	for line := range strings.Lines(c.sh(t, n, "dpkg-deb -c /root/a.deb")) {
		f := strings.Fields(line) // mode owner size date time ./path
		path := strings.TrimSuffix(strings.TrimPrefix(f[5], "."), "/")
		if f[0][0] != 'd' || path == "/etc/understudy" { // the directories above are the system's
			inDeb = append(inDeb, f[0]+" "+f[1]+" "+path)
		}
	}
	inRPM = slices.DeleteFunc(inRPM, func(l string) bool { return l[0] == 'd' && !strings.HasSuffix(l, " /etc/understudy") })
	slices.Sort(inRPM)
	slices.Sort(inDeb)
	if !slices.Equal(inRPM, inDeb) || len(inRPM) < 15 {
		t.Errorf("the rpm has\n%s\nthe deb has\n%s", strings.Join(inRPM, "\n"), strings.Join(inDeb, "\n"))
	}
}

func installRPM(t *testing.T, c *cluster, n *lab.Node) {
	out := c.sh(t, n, "rpm -i --nodeps /root/a.rpm 2>&1")
	contains(t, "rpm -i", out, "agent.toml.example", "understudy agent --check")
	if wrong := c.sh(t, n, "rpm -V --nodeps understudy || true"); wrong != "" {
		t.Errorf("what is installed is not what the rpm says:\n%s", wrong)
	}
	got := c.sh(t, n, `getent passwd understudy | cut -d: -f1,6,7
stat -c '%a %U:%G %n' /etc/understudy /var/lib/understudy /var/lib/understudy/services /var/lib/understudy/.ssh/authorized_keys
systemctl is-enabled podman.socket understudy.service
systemctl is-active podman.socket understudy.service || true
zcat /usr/share/man/man8/understudy.8.gz | sed -n 's/^.TH "UNDERSTUDY" "\([^"]*\)".*/section \1/p'`)
	want := `understudy:/var/lib/understudy:/bin/sh
750 root:root /etc/understudy
2750 root:understudy /var/lib/understudy
2770 root:understudy /var/lib/understudy/services
640 root:understudy /var/lib/understudy/.ssh/authorized_keys
enabled
enabled
active
inactive
section 8` // the agent has no configuration yet; a manual page is in its own section
	if got != want {
		t.Errorf("after the installation:\n%s\nwant\n%s", got, want)
	}
	contains(t, "understudy version", c.sh(t, n, "understudy version"), "understudy ", "agent: does not answer")
	contains(t, "the resource agent", c.sh(t, n, agentPath+" meta-data"), `<resource-agent name="service"`)
}

// upgradeRPM: a configured agent is restarted, and nothing of its own is touched.
func upgradeRPM(t *testing.T, c *cluster, n *lab.Node) {
	c.sh(t, n, "understudy init --node n1 --address "+n.IP()+" --peer n2=192.0.2.2 >/dev/null\nsystemctl start understudy")
	before := c.sh(t, n, "sha256sum /etc/understudy/*")
	old, _ := agentProcesses(n)
	c.sh(t, n, "rpm -U --nodeps /root/b.rpm 2>&1")
	newAgent(t, c, n, old)
	if v := c.sh(t, n, "rpm -q --qf '%{VERSION}\\n' understudy"); !strings.HasPrefix(v, "99.") || strings.Contains(v, "\n") {
		t.Errorf("installed is %s", v)
	}
	if after := c.sh(t, n, "sha256sum /etc/understudy/*"); after != before {
		t.Errorf("/etc/understudy changed:\n%s\nwas\n%s", after, before)
	}
	if enabled := c.sh(t, n, "systemctl is-enabled understudy.service"); enabled != "enabled" {
		t.Errorf("the agent is %s", enabled)
	}
}

// removeRPM: nothing runs and no program is left; what may be all that is left of a
// service stays, and is named.
func removeRPM(t *testing.T, c *cluster, n *lab.Node) {
	out := c.sh(t, n, "rpm -e --nodeps understudy 2>&1")
	contains(t, "rpm -e", out, "kept: /var/lib/understudy", "/etc/understudy", "userdel understudy")
	got := c.sh(t, n, `ls -d /var/lib/understudy/services /etc/understudy/agent.toml /etc/understudy/ssh_key
getent passwd understudy | cut -d: -f1
systemctl is-active understudy.service || true
find /usr -path '*understudy*' -o -path '*libpod-*'`)
	want := `/etc/understudy/agent.toml
/etc/understudy/ssh_key
/var/lib/understudy/services
understudy
inactive`
	if got != want {
		t.Errorf("after the removal:\n%s\nwant\n%s", got, want)
	}
	if agent, _ := agentProcesses(n); agent != 0 {
		t.Error("the agent still runs")
	}
}
