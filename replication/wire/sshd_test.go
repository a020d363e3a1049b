package wire

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sshd is a real OpenSSH server of our own on loopback, whose one key may do
// nothing but receive.
type sshd struct {
	*receiver
	dir     string
	addr    string
	user    string
	options ClientOptions
}

const sshdPath = "/usr/sbin/sshd"

func startSSHD(t testing.TB, config ...string) *sshd {
	t.Helper()
	if _, err := os.Stat(sshdPath); err != nil {
		t.Fatalf("these tests need the real sshd: %v; apt-get install openssh-server", err)
	}
	me, err := user.Current()
	ok(t, err)
	d := &sshd{receiver: &receiver{root: t.TempDir(), log: &syncBuffer{}}, dir: t.TempDir(), user: me.Username}
	d.s = openStore(t, d.root)
	for _, k := range []string{"host", "key"} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(d.dir, k))
	}
	self, err := os.Executable()
	ok(t, err)
	pub := d.read(t, "key.pub")
	// With the race detector it would sleep for a second at its end, and sshd counts its session until then.
	d.write(t, "authorized", fmt.Sprintf("restrict,command=\"GORACE=atexit_sleep_ms=0 %s=%s exec %s\" %s", receiveEnv, d.root, self, pub))
	d.start(t, config)
	host := strings.Fields(d.read(t, "host.pub"))
	_, port, _ := net.SplitHostPort(d.addr)
	d.write(t, "known", fmt.Sprintf("[127.0.0.1]:%s %s %s\n", port, host[0], host[1]))
	d.options = ClientOptions{Addr: d.addr, Name: "n2", User: d.user, KeyFile: d.path("key"), KnownHosts: d.path("known")}
	d.dial = func(t testing.TB) *Client {
		t.Helper()
		c, err := Dial(t.Context(), d.options)
		ok(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	return d
}

func (d *sshd) path(name string) string { return filepath.Join(d.dir, name) }

func (d *sshd) read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(d.path(name))
	ok(t, err)
	return string(b)
}

func (d *sshd) write(t testing.TB, name, text string) {
	t.Helper()
	ok(t, os.WriteFile(d.path(name), []byte(text), 0o600))
}

// start runs sshd on a free port until the test ends.
func (d *sshd) start(t testing.TB, config []string) {
	t.Helper()
	ok(t, os.MkdirAll("/run/sshd", 0o755)) // where sshd chroots its unprivileged part to
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ok(t, err)
		d.addr = l.Addr().String()
		_ = l.Close()
		_, port, _ := net.SplitHostPort(d.addr)
		d.write(t, "config", strings.Join([]string{
			"ListenAddress 127.0.0.1", "Port " + port, "HostKey " + d.path("host"), "PidFile none",
			"AuthorizedKeysFile " + d.path("authorized"), "StrictModes no", "UsePAM no", "PasswordAuthentication no",
			"PermitRootLogin prohibit-password", "MaxStartups 100", "AllowTcpForwarding yes", "Subsystem sftp internal-sftp", strings.Join(config, "\n"), "",
		}, "\n"))
		cmd := exec.Command(sshdPath, "-D", "-e", "-f", d.path("config"))
		cmd.Stderr = d.log
		ok(t, cmd.Start())
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
		if d.listens(ended) {
			return
		}
	}
	t.Fatalf("sshd did not start: %s", d.log)
}

// listens waits until sshd answers, or has ended: the port was taken.
func (d *sshd) listens(ended chan struct{}) bool {
	for {
		if c, err := net.Dial("tcp", d.addr); err == nil {
			_ = c.Close()
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// client runs one of OpenSSH's programs, or rsync, with the key, and gives
// what it printed.
func (d *sshd) client(t testing.TB, stdin, name string, args ...string) (string, error) {
	t.Helper()
	_, port, _ := net.SplitHostPort(d.addr)
	flag := "-p"
	if name != "ssh" {
		flag = "-P"
	}
	opts := []string{"-F", "none", "-i", d.path("key"), "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + d.path("known"), "-o", "BatchMode=yes"}
	all := append(append(opts, flag, port), args...)
	if name == "rsync" {
		all = append([]string{"-e", "ssh -p " + port + " " + strings.Join(opts, " ")}, args...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // whoever hangs fails
	defer cancel()
	cmd := exec.CommandContext(ctx, name, all...)
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%s %v hangs:\n%s", name, args, out)
	}
	return string(out), err
}
