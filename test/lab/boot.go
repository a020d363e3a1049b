package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const sigKill = unix.SIGKILL

// bootTimeout is generous: a loaded machine with two cores may boot several labs.
const bootTimeout = 2 * time.Minute

//go:embed all:files
var nodeFiles embed.FS

//go:embed init.sh
var initScript []byte

// Boot gives the node power and returns when systemd has finished booting. A node that has power is
// left alone, and waited for if it still boots.
func (n *Node) Boot(ctx context.Context) error { return n.boot(ctx, "lab") }

func (n *Node) boot(ctx context.Context, by string) error {
	_ = n.lab.log.add(PowerEvent{Node: n.name, Verb: "boot", Phase: PhaseAsked, By: by})
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	life, err := n.powerOn(ctx)
	switch {
	case err != nil:
	case life == nil:
		err = n.WaitBooted(ctx)
	default:
		err = n.awaitReady(ctx, life)
	}
	n.lab.log.done(n.name, "boot", by, err)
	if err != nil {
		return fmt.Errorf("boot %s: %w", n.name, err)
	}
	return nil
}

// life is a node from the start of its PID 1 until it is ready.
type life struct {
	pid1  process
	ready *readiness
}

// powerOn starts PID 1, or returns nil if the node has power already.
func (n *Node) powerOn(ctx context.Context) (*life, error) {
	lk, err := n.powerLock(ctx)
	if err != nil {
		return nil, err
	}
	defer lk.unlock()
	if n.Running() {
		return nil, nil
	}
	if err := n.clearFormerLife(ctx); err != nil {
		return nil, err
	}
	if err := n.lab.dir.plug(ctx, n.name); err != nil {
		return nil, err
	}
	loop, err := attachLoop(n.diskImage())
	if err != nil {
		return nil, err
	}
	ready, err := listenReady(n.lab.dir.path("share", "notify-"+n.name), loop)
	if err != nil {
		loop.Close()
		return nil, err
	}
	p, err := n.startInit(loop.Name())
	if err != nil {
		ready.close()
		return nil, err
	}
	return &life{p, ready}, nil
}

// awaitReady does not hold the power lock: the cord of a booting node can be pulled like any other.
func (n *Node) awaitReady(ctx context.Context, l *life) error {
	defer l.ready.close()
	err := l.ready.wait(ctx, l.pid1)
	if err == nil {
		return nil
	}
	console, _ := os.ReadFile(n.path("console.log"))
	err = fmt.Errorf("%w; its console: %s", err, bytes.TrimSpace(console))
	return errors.Join(err, l.pid1.signal(sigKill))
}

// WaitBooted returns when systemd on a node that has power has finished booting, also if some of its
// units have failed.
func (n *Node) WaitBooted(ctx context.Context) error {
	for {
		out, err := n.Exec(ctx, "systemctl", "is-system-running", "--wait")
		switch strings.TrimSpace(string(out)) {
		case "running", "degraded":
			return nil
		}
		if !n.Running() {
			return fmt.Errorf("%s lost its power while it booted", n.name)
		}
		if e := sleep(ctx, 50*time.Millisecond); e != nil {
			return errors.Join(e, err)
		}
	}
}

// clearFormerLife removes what a life that ended abruptly left: cgroups, and a mount of the disk that
// is still going away. Two mounts of one image through two loop devices would destroy it.
func (n *Node) clearFormerLife(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := n.cgroup().remove(ctx); err != nil {
		return err
	}
	return waitLoopFree(ctx, n.diskImage())
}

// startInit starts PID 1. The process outlives this one; while this one lives, it reaps it.
func (n *Node) startInit(disk string) (process, error) {
	var none process
	for _, c := range []cgroup{n.cgroup(), n.cgroup().child(execCgroup)} {
		if err := c.create(); err != nil {
			return none, err
		}
	}
	cg, err := os.Open(string(n.cgroup()))
	if err != nil {
		return none, err
	}
	defer cg.Close()
	script := n.lab.dir.path("init.sh")
	if err := writeFile(script, initScript, 0o755); err != nil {
		return none, err
	}
	console, err := os.Create(n.path("console.log"))
	if err != nil {
		return none, err
	}
	defer console.Close()
	// The cgroup namespace is made by unshare, when the process is in the node's cgroup already: its
	// root is where the process is then.
	cmd := exec.Command("nsenter", "--net="+n.lab.dir.netnsPath(n.name), "unshare", "--cgroup", script,
		n.name, n.lab.st.Root, n.path(), n.lab.dir.share(), disk, n.lab.st.Options.FS)
	cmd.Stdout, cmd.Stderr, cmd.Dir = console, console, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:      true,
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID,
		UseCgroupFD: true, CgroupFD: int(cg.Fd()),
	}
	if err := cmd.Start(); err != nil {
		return none, fmt.Errorf("start its PID 1: %w", err)
	}
	n.lab.reapers.Go(func() { _ = cmd.Wait() })
	p, err := findProcess(cmd.Process.Pid)
	if err == nil {
		err = writeFile(n.path("pid1"), fmt.Appendf(nil, "%d %d\n", p.PID, p.Start), 0o644)
	}
	if err != nil {
		_ = n.cgroup().kill()
	}
	return p, err
}

// readiness receives systemd's own word that it has booted: the protocol of sd_notify(3), which PID 1
// of a container speaks to its manager.
type readiness struct {
	conn *net.UnixConn
	path string
	disk *os.File // keeps the loop device until the node has mounted it
}

func listenReady(path string, disk *os.File) (*readiness, error) {
	_ = os.Remove(path)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	return &readiness{conn, path, disk}, nil
}

func (r *readiness) close() {
	r.conn.Close()
	r.disk.Close()
	_ = os.Remove(r.path)
}

// wait returns when READY=1 arrives, or with an error when p dies or ctx ends before.
func (r *readiness) wait(ctx context.Context, p process) error {
	buf := make([]byte, 4096)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if !p.alive() {
			return errors.New("its PID 1 ended")
		}
		_ = r.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		k, err := r.conn.Read(buf)
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			return err
		}
		if strings.Contains("\n"+string(buf[:k])+"\n", "\nREADY=1\n") {
			return nil
		}
	}
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
