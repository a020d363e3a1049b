package lab

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"
)

// Options says what kind of lab to make. The zero value is a lab "lab" of two nodes on XFS without
// a cluster.
type Options struct {
	// Name tells labs on one machine apart: at most 12 lower-case letters, digits and dashes.
	Name string
	// Nodes are the host names, n1 and n2 unless set. A node nX has address 192.0.2.X.
	Nodes []string
	// FS is the file system of each node's disk: "xfs" (with reflink), "btrfs" or "ext4".
	FS string
	// DiskSize is the size of each node's (sparse) disk in bytes; 8 GiB unless set.
	DiskSize int64
	// Deb is a package to install on every node; none if empty.
	Deb string
	// Cluster asks for a running, fenced cluster; Token is Corosync's token timeout (1 s unless set).
	Cluster bool
	Token   time.Duration
	// ManualBoot leaves a node off after it was fenced with "reboot"; see Lab.SetAutoBoot.
	ManualBoot bool
	// KeepUnsynced keeps what a node had written but not synced when its power is cut. On btrfs there is no
	// other way: it cannot be shut down.
	KeepUnsynced bool
	// Out receives progress, one line a step; nil discards it.
	Out io.Writer
}

var (
	validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,11}$`)
	validNode = regexp.MustCompile(`^n([1-9]|[1-8][0-9])$`)
)

func (o *Options) setDefaults() {
	if o.Name == "" {
		o.Name = "lab"
	}
	if len(o.Nodes) == 0 {
		o.Nodes = []string{"n1", "n2"}
	}
	if o.FS == "" {
		o.FS = "xfs"
	}
	if o.DiskSize == 0 {
		o.DiskSize = 8 << 30
	}
	if o.Token == 0 {
		o.Token = time.Second
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
}

func (o *Options) validate() error {
	if !validName.MatchString(o.Name) {
		return fmt.Errorf("lab name %q: use 1 to 12 lower-case letters, digits and dashes", o.Name)
	}
	seen := map[string]bool{}
	for _, n := range o.Nodes {
		if !validNode.MatchString(n) {
			return fmt.Errorf("node name %q: use n1 to n89", n)
		}
		if seen[n] {
			return fmt.Errorf("node %s is named twice", n)
		}
		seen[n] = true
	}
	if fileSystems[o.FS] == nil {
		return fmt.Errorf("file system %q: use xfs, btrfs or ext4", o.FS)
	}
	if o.FS == "btrfs" && !o.KeepUnsynced {
		return errors.New("btrfs cannot be made to lose what was not synced: keep it (KeepUnsynced, --keep-unsynced), or use xfs or ext4")
	}
	if o.DiskSize < 512<<20 {
		return errors.New("a node's disk needs at least 512 MiB")
	}
	return nil
}
