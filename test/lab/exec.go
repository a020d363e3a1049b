package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// execCgroup is where commands from outside run inside a node, so that they freeze and die with it.
const execCgroup = "lab.exec"

// nodeEnv is the environment of a command in a node.
var nodeEnv = []string{"HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=" + termOr("dumb"), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// CommandError is a command that failed on a node.
type CommandError struct {
	Node   string
	Args   []string
	Stderr string // the last 4 KiB at most
	Err    error  // *exec.ExitError if the command ran and failed
}

func (e *CommandError) Error() string {
	msg := fmt.Sprintf("%s: %s: %v", e.Node, strings.Join(e.Args, " "), e.Err)
	if e.Stderr != "" {
		msg += ": " + e.Stderr
	}
	return msg
}

func (e *CommandError) Unwrap() error { return e.Err }

// ExitCode is the command's exit code, or -1 if it did not run to its end.
func (e *CommandError) ExitCode() int {
	var x *exec.ExitError
	if errors.As(e.Err, &x) {
		return x.ExitCode()
	}
	return -1
}

// Command prepares args to run on the node as root, in the node's namespaces and cgroup. The end of
// ctx kills it with its children; a power cut kills it as everything else on the node. If the node is
// off, starting it fails.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	p := n.pid1()
	argv := append([]string{
		"nsenter", "--target", strconv.Itoa(p.PID), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		"--root", "--wd", "--", "env", "-i",
	}, append(append([]string{}, nodeEnv...), args...)...)
	cmd := inCgroup(ctx, n.cgroup().child(execCgroup), argv...)
	if !p.alive() {
		cmd.Err = errOff
	}
	return cmd
}

// Exec runs args on the node and returns what it wrote to stdout. The error is a *CommandError.
func (n *Node) Exec(ctx context.Context, args ...string) ([]byte, error) {
	return n.exec(ctx, nil, args...)
}

// Shell runs a script with bash -eu -o pipefail on the node and returns its stdout.
func (n *Node) Shell(ctx context.Context, script string) (string, error) {
	out, err := n.exec(ctx, nil, "bash", "-euo", "pipefail", "-c", script)
	return string(out), err
}

func (n *Node) exec(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := n.Command(ctx, args...)
	var out bytes.Buffer
	msg := &tail{max: 4096}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, msg
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		return out.Bytes(), &CommandError{Node: n.name, Args: args, Stderr: strings.TrimSpace(msg.String()), Err: err}
	}
	return out.Bytes(), nil
}

// CopyIn copies a file of the machine to the node, in one step, making directories as needed.
func (n *Node) CopyIn(ctx context.Context, hostPath, nodePath string, mode os.FileMode) error {
	f, err := os.Open(hostPath)
	if err != nil {
		return err
	}
	defer f.Close()
	return n.write(ctx, f, nodePath, mode)
}

// WriteFile makes a file on the node, in one step, making directories as needed.
func (n *Node) WriteFile(ctx context.Context, nodePath string, data []byte, mode os.FileMode) error {
	return n.write(ctx, bytes.NewReader(data), nodePath, mode)
}

func (n *Node) write(ctx context.Context, r io.Reader, nodePath string, mode os.FileMode) error {
	const script = `mkdir -p "$(dirname "$1")"; t=$(mktemp "$1.XXXXXX"); cat >"$t"; chmod "$2" "$t"; mv -T "$t" "$1"`
	_, err := n.exec(ctx, r, "bash", "-euc", script, "copy-in", nodePath, fmt.Sprintf("%o", mode.Perm()))
	return err
}

// CopyOut copies a file of the node to the machine.
func (n *Node) CopyOut(ctx context.Context, nodePath, hostPath string) error {
	b, err := n.Exec(ctx, "cat", nodePath)
	if err != nil {
		return err
	}
	return os.WriteFile(hostPath, b, 0o644)
}

// InstallDeb installs a package file; what it depends on must be in the root already.
func (n *Node) InstallDeb(ctx context.Context, path string) error {
	const dst = "/var/tmp/install.deb"
	if err := n.CopyIn(ctx, path, dst, 0o644); err != nil {
		return err
	}
	_, err := n.Exec(ctx, "env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-confold", "-i", dst)
	return err
}

// Client is a machine on the lab's switch that is on neither node: only a network namespace, so
// that any program of the machine can run there.
type Client struct{ lab *Lab }

// IP is the client's IPv4 address.
func (c *Client) IP() string { return prefix4 + clientHost }

// IP6 is the client's IPv6 address.
func (c *Client) IP6() string { return prefix6 + clientHost }

// NetNS is the file of the client's network namespace.
func (c *Client) NetNS() string { return c.lab.dir.netnsPath(clientName) }

func (c *Client) cgroup() cgroup {
	g, _ := labCgroup(c.lab.Name())
	return g.child(clientName)
}

func (c *Client) plug(ctx context.Context) error {
	if err := c.cgroup().create(); err != nil {
		return err
	}
	return c.lab.dir.plug(ctx, clientName)
}

// Command prepares a program of the machine to run in the client's network namespace. The end of
// ctx kills it with its children; Down kills what still runs.
func (c *Client) Command(ctx context.Context, args ...string) *exec.Cmd {
	return inCgroup(ctx, c.cgroup(), append([]string{"nsenter", "--net=" + c.NetNS(), "--"}, args...)...)
}

// Exec runs args on the client and returns what it wrote to stdout. The error is a *CommandError.
func (c *Client) Exec(ctx context.Context, args ...string) ([]byte, error) {
	cmd := c.Command(ctx, args...)
	var out bytes.Buffer
	msg := &tail{max: 4096}
	cmd.Stdout, cmd.Stderr = &out, msg
	if err := cmd.Run(); err != nil {
		return out.Bytes(), &CommandError{Node: clientName, Args: args, Stderr: strings.TrimSpace(msg.String()), Err: err}
	}
	return out.Bytes(), nil
}

// inCgroup prepares args to run in c. A shell joins it first: a process that were cloned right into the
// cgroup of a paused node would freeze before its exec, and this process with it.
func inCgroup(ctx context.Context, c cgroup, args ...string) *exec.Cmd {
	join := []string{"-c", `echo $$ >"$0" && exec "$@"`, string(c) + "/cgroup.procs"}
	cmd := exec.CommandContext(ctx, "sh", append(join, args...)...)
	inGroup(cmd)
	return cmd
}

// inGroup gives cmd its own process group and lets the end of the context kill all of it: nsenter's
// child would otherwise stay behind.
func inGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
}

// tail keeps the end of what is written to it.
type tail struct {
	buf []byte
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.max; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.buf) }

func termOr(fallback string) string {
	if t := os.Getenv("TERM"); t != "" {
		return t
	}
	return fallback
}
