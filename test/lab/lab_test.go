//go:build lab

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	// A child that makes a lab and waits to be killed; see TestLeftoversOfAKilledRun.
	if name := os.Getenv("LAB_TEST_VICTIM"); name != "" {
		victim(name)
	}
	os.Exit(m.Run())
}

// upLab makes a lab for one test and takes it down after it, keeping logs if the test has failed.
func upLab(t *testing.T, name string, o Options) *Lab {
	t.Helper()
	needRoot(t)
	o.Name, o.Out = testName(name), testWriter{t}
	l, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if t.Failed() {
			dir := filepath.Join(os.TempDir(), "understudy-lab-failed-"+l.Name())
			t.Logf("logs are in %s (%v)", dir, l.CollectLogs(ctx, dir))
		}
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
		if err := l.Down(ctx); err != nil {
			t.Errorf("second Down: %v", err)
		}
		nothingLeft(t, o.Name)
	})
	return l
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a lab needs root")
	}
}

// testName is a lab name that parallel test runs do not share.
func testName(name string) string { return fmt.Sprintf("%s-%x", name, os.Getpid()) }

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// nothingLeft checks that no trace of the lab is on the machine.
func nothingLeft(t *testing.T, name string) {
	t.Helper()
	if _, err := os.Stat(string(labDir(name))); err == nil {
		t.Errorf("directory of lab %s is left", name)
	}
	if left, _ := filepath.Glob(filepath.Join(netnsDir, "us-"+name+"-*")); left != nil {
		t.Errorf("namespaces are left: %v", left)
	}
	if left := loopsOf(string(labDir(name))); left != nil {
		t.Errorf("loop devices are left: %v", left)
	}
	if cg, err := labCgroup(name); err == nil {
		if _, err := os.Stat(string(cg)); err == nil {
			t.Errorf("cgroup %s is left", cg)
		}
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), string(labDir(name))) {
		t.Error("a mount is left")
	}
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range cmdlines {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), string(labDir(name))+"/") {
			t.Errorf("process %s is left: %q", f, b)
		}
	}
}

func shell(t *testing.T, n *Node, script string) string {
	t.Helper()
	out, err := n.Shell(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits at most limit for what to hold.
func eventually(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func TestLab(t *testing.T) {
	l := upLab(t, "lab", Options{})
	n1, n2 := l.Node("n1"), l.Node("n2")
	t.Run("exec", func(t *testing.T) { testExec(t, n1) })
	t.Run("files", func(t *testing.T) { testFiles(t, n1) })
	t.Run("isolation", func(t *testing.T) { testIsolation(t, n1) })
	t.Run("cables", func(t *testing.T) { testCables(t, l) })
	t.Run("pause", func(t *testing.T) { testPause(t, l, n2) })
	t.Run("power", func(t *testing.T) { testPower(t, n1, n2) })
	t.Run("power log", func(t *testing.T) { testPowerLog(t, l) })
	t.Run("ssh", func(t *testing.T) { testSSH(t, l) })
	t.Run("second lab of the same name", func(t *testing.T) {
		_, err := Up(t.Context(), Options{Name: l.Name()})
		if err == nil || !strings.Contains(err.Error(), "is up already") {
			t.Errorf("error %v", err)
		}
		other, err := Attach(l.Name())
		must(t, err)
		if err := other.Down(t.Context()); err == nil || !strings.Contains(err.Error(), "belongs to process") {
			t.Errorf("Down by a process that does not own it: %v", err)
		}
		if out, err := other.Node("n1").Exec(t.Context(), "hostname"); err != nil || string(out) != "n1\n" {
			t.Errorf("exec through an attached lab: %q %v", out, err)
		}
	})
	t.Run("logs", func(t *testing.T) { testLogs(t, l) })
}

func testExec(t *testing.T, n *Node) {
	if got := shell(t, n, "hostname; systemctl is-system-running"); got != "n1\nrunning" {
		t.Errorf("hostname and state %q", got)
	}
	_, err := n.Exec(t.Context(), "sh", "-c", "echo oops >&2; exit 7")
	var ce *CommandError
	if !errors.As(err, &ce) || ce.ExitCode() != 7 || ce.Stderr != "oops" || ce.Node != "n1" {
		t.Errorf("error %#v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := n.Exec(ctx, "sleep", "4711"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	eventually(t, 5*time.Second, "the end of a context kills the command on the node", func() bool {
		return shell(t, n, "pgrep -f '^sleep 4711' || true") == ""
	})
}

func testFiles(t *testing.T, n *Node) {
	host := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(host, []byte("content\n"), 0o644))
	must(t, n.CopyIn(t.Context(), host, "/opt/new/dir/f", 0o750))
	if got := shell(t, n, "stat -c %a /opt/new/dir/f; cat /opt/new/dir/f; ls /opt/new/dir | wc -l"); got != "750\ncontent\n1" {
		t.Errorf("copied in: %q", got)
	}
	back := filepath.Join(t.TempDir(), "g")
	must(t, n.CopyOut(t.Context(), "/opt/new/dir/f", back))
	if b, _ := os.ReadFile(back); string(b) != "content\n" {
		t.Errorf("copied out: %q", b)
	}
	if got := shell(t, n, "stat -f -c %T /var/lib/containers /var/lib/understudy"); got != "xfs\nxfs" {
		t.Errorf("file systems %q", got)
	}
	shell(t, n, "cd /var/lib/understudy; echo x >a; cp --reflink=always a b; rm a b")
}

// testIsolation looks for ways out of a node that would hurt the machine.
func testIsolation(t *testing.T, n *Node) {
	if got := shell(t, n, "(echo 1 >/proc/sys/kernel/panic) 2>&1 || true"); !strings.Contains(got, "Read-only") {
		t.Errorf("the machine's kernel settings can be written: %q", got)
	}
	shell(t, n, "! echo b >/proc/sysrq-trigger || [ ! -s /proc/sysrq-trigger ]; echo 1 >/proc/sys/net/ipv4/ip_forward")
	mine, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if got := shell(t, n, "cat /proc/sys/kernel/random/boot_id"); got == strings.TrimSpace(string(mine)) {
		t.Error("the node has the machine's boot ID")
	}
	if b, _ := exec.Command("ip", "-br", "link").Output(); strings.Contains(string(b), "v-n1") {
		t.Errorf("the lab is seen in the machine's network: %s", b)
	}
}

// reaches tells whether from can ping to over IPv4 and IPv6.
func reaches(t *testing.T, from, to *Node) bool {
	t.Helper()
	var err4, err6 error
	// Right after a cable or a node came or went, one family's neighbour entry may still be
	// waiting for its next solicitation (a second apart); they must agree soon.
	for range 4 {
		_, err4 = from.Exec(t.Context(), "ping", "-c1", "-W1", to.IP())
		_, err6 = from.Exec(t.Context(), "ping", "-c1", "-W1", to.IP6())
		if (err4 == nil) == (err6 == nil) {
			return err4 == nil
		}
	}
	t.Errorf("%s to %s: IPv4 %v, IPv6 %v", from.Name(), to.Name(), err4, err6)
	return err4 == nil
}

// clientReaches tells whether the client can open a connection to n's sshd.
func clientReaches(t *testing.T, l *Lab, n *Node) bool {
	_, err := l.Client().Exec(t.Context(), "timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/"+n.IP()+"/22 && read -r -u3 x && [[ $x == SSH-* ]]")
	return err == nil
}

// arrives tells whether a frame from one node gets to the other: an ARP request, which needs no answer.
func arrives(t *testing.T, from, to *Node) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := to.Command(ctx, "timeout", "3", "tcpdump", "-i", "eth0", "-c", "1", "-nn", "--immediate-mode", "arp and src host "+from.IP())
	said, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	for sc := bufio.NewScanner(said); sc.Scan() && !strings.HasPrefix(sc.Text(), "listening"); {
	}
	shell(t, from, "for i in 1 2 3 4 5; do ip neigh flush dev eth0; echo x >/dev/udp/"+to.IP()+"/9; sleep 0.1; done")
	return cmd.Wait() == nil
}

func testCables(t *testing.T, l *Lab) {
	n1, n2 := l.Node("n1"), l.Node("n2")
	if !reaches(t, n1, n2) || !clientReaches(t, l, n1) {
		t.Fatal("the network does not work to begin with")
	}
	must(t, l.Cut(t.Context(), "n1", "n2"))
	if reaches(t, n1, n2) || reaches(t, n2, n1) {
		t.Error("cut, and they still reach each other")
	}
	if !clientReaches(t, l, n1) || !clientReaches(t, l, n2) {
		t.Error("the cut between the nodes cut off the client")
	}
	must(t, l.Heal(t.Context(), "n2", "n1"))
	must(t, l.Heal(t.Context(), "n2", "n1"))
	eventually(t, 10*time.Second, "healed", func() bool { return reaches(t, n1, n2) })

	must(t, l.CutOneWay(t.Context(), "n1", "n2"))
	if arrives(t, n1, n2) {
		t.Error("cut one way, and frames arrive that way")
	}
	if !arrives(t, n2, n1) {
		t.Error("cut one way, and frames do not arrive the other way")
	}
	must(t, l.Cut(t.Context(), "n2", "client"))
	if clientReaches(t, l, n2) || !clientReaches(t, l, n1) {
		t.Error("the client should reach n1 and not n2")
	}
	must(t, l.HealAll(t.Context()))
	eventually(t, 10*time.Second, "healed all", func() bool { return reaches(t, n1, n2) && clientReaches(t, l, n2) })
	if err := l.Cut(t.Context(), "n1", "n7"); err == nil {
		t.Error("a cable to nowhere can be cut")
	}
}

func testPause(t *testing.T, l *Lab, n *Node) {
	shell(t, n, "nohup sh -c 'while sleep 0.02; do echo >>/tmp/ticks; done' >/dev/null 2>&1 &")
	eventually(t, 5*time.Second, "ticks", func() bool { return shell(t, n, "wc -l </tmp/ticks || true") > "0" })
	must(t, n.Pause(t.Context()))
	if !n.Running() {
		t.Error("a paused node counts as off")
	}
	if clientReaches(t, l, n) {
		t.Error("sshd of a paused node answers")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if out, err := n.Exec(ctx, "true"); err == nil {
		t.Errorf("a command runs on a paused node: %s", out)
	}
	must(t, n.Resume(t.Context()))
	before := shell(t, n, "wc -l </tmp/ticks")
	eventually(t, 5*time.Second, "ticks go on", func() bool { return shell(t, n, "wc -l </tmp/ticks") > before })
	must(t, n.Pause(t.Context()))
	must(t, n.PowerOff(t.Context()))
	must(t, n.Boot(t.Context()))
}

func testPower(t *testing.T, n1, n2 *Node) {
	shell(t, n1, `cd /var/lib/understudy; echo kept >synced; sync; echo lost >unsynced
echo root >/etc/mark; ip address add 192.0.2.100/24 dev eth0; cat /proc/sys/kernel/random/boot_id >/etc/boot`)
	hang := n1.Command(t.Context(), "sleep", "1000")
	must(t, hang.Start())
	must(t, n1.PowerOff(t.Context()))
	must(t, n1.PowerOff(t.Context()))
	if err := hang.Wait(); err == nil {
		t.Error("a command survived the power cut")
	}
	if n1.Running() || reaches(t, n2, n1) {
		t.Error("the node is off and is there")
	}
	if _, err := n1.Exec(t.Context(), "true"); !errors.Is(err, errOff) {
		t.Errorf("exec on a node that is off: %v", err)
	}
	must(t, n1.Boot(t.Context()))
	must(t, n1.Boot(t.Context()))
	eventually(t, 5*time.Second, "reachable after boot", func() bool { return reaches(t, n2, n1) })
	if got := shell(t, n1, "cd /var/lib/understudy; cat synced /etc/mark; ls unsynced 2>&1 || true"); !strings.HasPrefix(got, "kept\nroot\nls: cannot access") {
		t.Errorf("after a power cut: %q", got)
	}
	if got := shell(t, n1, "ip -4 -br address show eth0; diff -q /etc/boot /proc/sys/kernel/random/boot_id || true"); strings.Contains(got, ".100") || !strings.Contains(got, "differ") {
		t.Errorf("the node remembers what only memory knew: %q", got)
	}
	must(t, n2.Reset(t.Context()))
	if got := shell(t, n1, "journalctl --list-boots --quiet | wc -l"); got != "2" {
		t.Errorf("the journal knows %s boots of n1, want 2", got)
	}
}

func testPowerLog(t *testing.T, l *Lab) {
	all, err := l.PowerLog()
	must(t, err)
	var got []string
	var last int64
	for _, e := range all {
		if e.TimeNS < last-int64(time.Second) || e.TimeNS > time.Now().UnixNano() {
			t.Errorf("time of %+v", e)
		}
		last = e.TimeNS
		got = append(got, e.Node+" "+e.Verb+" "+e.Phase+" "+e.By)
	}
	text := strings.Join(got, "\n")
	for _, want := range []string{"n1,n2 cut done lab", "n1>n2 cut done lab", "all heal done lab", "n2 pause done lab", "n1 off asked lab\nn1 off done lab", "n1 boot asked lab\nn1 boot done lab"} {
		if !strings.Contains(text, want) {
			t.Errorf("power log lacks %q:\n%s", want, text)
		}
	}
}

func testSSH(t *testing.T, l *Lab) {
	must(t, l.TrustSSH(t.Context()))
	if got := shell(t, l.Node("n1"), "ssh n2 hostname; ssh -o BatchMode=yes "+l.Node("n2").IP()+" hostname"); got != "n2\nn2" {
		t.Errorf("ssh: %q", got)
	}
	if got := shell(t, l.Node("n2"), "ssh n1 hostname"); got != "n1" {
		t.Errorf("ssh: %q", got)
	}
}

func testLogs(t *testing.T, l *Lab) {
	dir := t.TempDir()
	must(t, l.Node("n2").PowerOff(t.Context()))
	must(t, l.CollectLogs(t.Context(), dir))
	for f, want := range map[string]string{
		"power.jsonl": `"verb":"boot"`, "n1/journal.txt": "systemd", "n1/podman.txt": "REPOSITORY", "n2/OFF": "off",
	} {
		if b, err := os.ReadFile(filepath.Join(dir, f)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v, %d bytes without %q", f, err, len(b), want)
		}
	}
	if j, _ := filepath.Glob(filepath.Join(dir, "n2/journal/*/*.journal")); len(j) == 0 {
		t.Error("no journal of the node that is off")
	}
}
