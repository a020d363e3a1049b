package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Node is one machine of the lab. It keeps its disk when its power is cut.
type Node struct {
	lab  *Lab
	name string
}

// Name is the host name.
func (n *Node) Name() string { return n.name }

// IP is the node's own IPv4 address (prefix length 24).
func (n *Node) IP() string { return prefix4 + hostPart(n.name) }

// IP6 is the node's own IPv6 address (prefix length 64).
func (n *Node) IP6() string { return prefix6 + hostPart(n.name) }

func (n *Node) path(elem ...string) string { return n.lab.dir.node(n.name, elem...) }

func (n *Node) cgroup() cgroup {
	c, _ := labCgroup(n.lab.Name()) // Up has made it: there is a v2 hierarchy
	return c.child(n.name)
}

// pid1 is the node's systemd as the machine sees it; the zero value if the node was never booted.
func (n *Node) pid1() process {
	var p process
	b, err := os.ReadFile(n.path("pid1"))
	if err == nil {
		_, _ = fmt.Sscan(string(b), &p.PID, &p.Start)
	}
	return p
}

// Running tells whether the node has power: booting counts, paused too.
func (n *Node) Running() bool { return n.pid1().alive() }

// PowerOff pulls the cord: the cable is cut and every process of the node dies at once, without
// warning. It returns when none is left. A node that is off stays so.
//
// What was written below /var/lib/containers and /var/lib/understudy and not synced is lost, unless
// Options.KeepUnsynced says otherwise: call Sync after a set-up that must survive. The rest of the
// node's file system keeps everything.
func (n *Node) PowerOff(ctx context.Context) error { return n.powerOff(ctx, "lab") }

func (n *Node) powerOff(ctx context.Context, by string) error {
	_ = n.lab.log.add(PowerEvent{Node: n.name, Verb: "off", Phase: PhaseAsked, By: by})
	lk, err := n.powerLock(ctx)
	if err == nil {
		err = n.cutPower(ctx)
		lk.unlock()
	}
	n.lab.log.done(n.name, "off", by, err)
	if err != nil {
		return fmt.Errorf("power off %s: %w", n.name, err)
	}
	return nil
}

// powerLock makes power verbs on one node take turns, across processes.
func (n *Node) powerLock(ctx context.Context) (*flock, error) { return lock(ctx, n.path("power.lock")) }

// cutPower cuts the cable before it kills: the kernel closes the connections of the dead with a word
// to the other side, and no client of a node without power ever hears one.
func (n *Node) cutPower(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err := n.lab.dir.cable(ctx, n.name, false)
	p := n.pid1()
	disk, e := openDisk(p)
	if e == nil {
		// Held open, the disk is not unmounted by the node's end: that would write everything back.
		defer disk.Close()
	}
	err = errors.Join(err, p.signal(sigKill), n.cgroup().kill())
	if disk != nil && !n.lab.st.Options.KeepUnsynced {
		err = errors.Join(err, loseUnsynced(disk))
	}
	if err != nil {
		return err
	}
	if err := p.wait(ctx); err != nil {
		return fmt.Errorf("its processes did not end: %w", err)
	}
	for !n.cgroup().event("populated 0") {
		if _, err := os.Stat(string(n.cgroup())); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("its cgroup did not empty: %w", err)
		}
	}
	return nil
}

// Sync makes what was written on the node's disk durable.
func (n *Node) Sync(ctx context.Context) error {
	_, err := n.Exec(ctx, "sync", "--file-system", "/mnt/disk")
	return err
}

// Reset cuts the power and boots the node again.
func (n *Node) Reset(ctx context.Context) error {
	if err := n.PowerOff(ctx); err != nil {
		return err
	}
	return n.Boot(ctx)
}

// Pause freezes every process of the node, as a hypervisor that stalls would. Its kernel is the
// machine's and goes on: it still answers ARP and ping, and accepts connections that nobody serves.
func (n *Node) Pause(ctx context.Context) error { return n.freeze(ctx, true) }

// Resume lets a paused node continue.
func (n *Node) Resume(ctx context.Context) error { return n.freeze(ctx, false) }

func (n *Node) freeze(ctx context.Context, on bool) error {
	verb := map[bool]string{true: "pause", false: "resume"}[on]
	_ = n.lab.log.add(PowerEvent{Node: n.name, Verb: verb, Phase: PhaseAsked, By: "lab"})
	var err error
	if n.Running() {
		err = n.cgroup().freeze(ctx, on)
	} else {
		err = errOff
	}
	n.lab.log.done(n.name, verb, "lab", err)
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, n.name, err)
	}
	return nil
}

var errOff = errors.New("the node is off: boot it first")

// prepare makes the node's disk and what distinguishes its root file system from the others'.
func (n *Node) prepare(ctx context.Context) error {
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(n.path(d), 0o755); err != nil {
			return err
		}
	}
	if err := n.writeConfig(); err != nil {
		return fmt.Errorf("configure %s: %w", n.name, err)
	}
	if err := makeDisk(ctx, n.diskImage(), n.lab.st.Options.FS, n.lab.st.Options.Disk); err != nil {
		return fmt.Errorf("disk of %s: %w", n.name, err)
	}
	return nil
}

func (n *Node) diskImage() string { return n.path("disk.img") }

// writeConfig lays files/ and the node's identity over the root.
func (n *Node) writeConfig() error {
	sub, err := fs.Sub(nodeFiles, "files")
	if err != nil {
		return err
	}
	err = fs.WalkDir(sub, ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(sub, p)
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if filepath.Dir(p) == "usr/sbin" {
			mode = 0o755
		}
		return writeFile(n.path("upper", p), b, mode)
	})
	if err != nil {
		return err
	}
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	for _, m := range n.lab.nodes {
		hosts += fmt.Sprintf("%s %s\n%s %s\n", m.IP(), m.name, m.IP6(), m.name)
	}
	hosts += fmt.Sprintf("%s %s\n", n.lab.client.IP(), clientName)
	for p, text := range map[string]string{
		"etc/hosts": hosts, "etc/hostname": n.name + "\n", "etc/machine-id": randomHex(16) + "\n",
		"etc/resolv.conf": "# a lab has no name server\n",
	} {
		if err := writeFile(n.path("upper", p), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
