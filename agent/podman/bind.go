package podman

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containers/podman/v5/libpod/define"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/understudy-ha/understudy/agent/api"
)

// BindDef is a directory or file of the node that a container mounts. Volume is the
// name under which its content is replicated; empty: it is listed, and has to be
// alike on every node by other means.
type BindDef struct {
	Path   string `json:"path"`
	Volume string `json:"volume,omitempty"`
}

// bind is a bind mount of a container, or the directory that a volume is.
type bind struct {
	path, target, volume string // target or volume is set
	replicate            bool
}

func (b bind) String() string {
	if b.volume != "" {
		return "its volume " + b.volume + " is the directory " + b.path + " of this node"
	}
	return "it mounts " + b.path + " of this node at " + b.target
}

// bindsOf lists the bind mounts of a specification, without those that are the same on
// every node set up alike.
func bindsOf(mounts []specs.Mount, replicate bool) []bind {
	var out []bind
	for _, m := range mounts {
		if m.Type == define.TypeBind && !carriedBind(m.Source, m.Options) {
			out = append(out, bind{path: m.Source, target: m.Destination, replicate: replicate})
		}
	}
	return out
}

// sameEverywhere are paths whose content is the same on every node set up alike.
var sameEverywhere = []string{"/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/etc/ssl/certs", "/etc/pki"}

func carriedBind(source string, options []string) bool {
	return slices.Contains(options, "ro") && slices.ContainsFunc(sameEverywhere, func(p string) bool { return below(source, p) })
}

// below says whether path is dir or below it.
func below(path, dir string) bool {
	path, dir = filepath.Clean(path), filepath.Clean(dir)
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// Directories that are the node's own: to replicate them would make one node of two. Of
// the second list, what is below may be a service's.
var (
	systemTrees = []string{
		"/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/boot", "/dev", "/proc", "/sys", "/run", "/var/run",
		"/var/lib/containers", "/var/lib/understudy", "/var/lib/pacemaker", "/var/lib/corosync", "/var/lib/pcsd",
	}
	systemDirs = []string{"/", "/home", "/root", "/opt", "/srv", "/mnt", "/media", "/tmp", "/var", "/var/lib", "/var/log", "/var/tmp", "/var/cache", "/var/spool"}
)

// bindVolume is the name under which the content of a directory is replicated. It is
// what the path is, so that all nodes agree on it.
func bindVolume(path string) string {
	words := strings.FieldsFunc(path, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	})
	name := strings.Join(words, "-")
	return fmt.Sprintf("bind-%s-%s", name[:min(len(name), 150)], hash([]byte(filepath.Clean(path)))[:8])
}

// replicable says why the content of a directory cannot be replicated; nil: it can.
func (c *Client) replicable(path string) *Problem {
	clean := filepath.Clean(path)
	if slices.Contains(systemDirs, clean) || slices.ContainsFunc(systemTrees, func(d string) bool { return below(clean, d) }) {
		return &Problem{What: path + " is the node's own and is not replicated", Next: "mount a directory of the service's own, such as /srv/NAME, or set bind-mounts=list"}
	}
	st, err := os.Stat(filepath.Join(c.opts.Root, clean))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Problem{What: path + " does not exist on this node", Next: "make it"}
	case err != nil:
		return &Problem{What: "it cannot be looked at: " + err.Error(), Next: "correct that"}
	case !st.IsDir():
		return &Problem{What: path + " is not a directory, and only directories are replicated", Next: "mount the directory that it is in, or make a secret of it, or set bind-mounts=list"}
	}
	return nil
}

// checkBinds lists the bind mounts of one container, and what stands against
// replicating them where that was asked for.
func (c *Client) checkBinds(binds []bind) []Problem {
	var out []Problem
	for _, b := range binds {
		if !b.replicate {
			out = append(out, Problem{
				What: b.String() + ": its content is not replicated",
				Next: "keep it alike on every node, or set bind-mounts=replicate", Warning: true,
			})
			continue
		}
		if p := c.replicable(b.path); p != nil {
			out = append(out, Problem{What: b.String() + ": " + p.What, Next: p.Next})
		}
	}
	return out
}

// overlapping finds replicated directories that lie within each other: their content
// would be applied twice.
func overlapping(binds []BindDef) []Problem {
	var out []Problem
	for _, a := range binds {
		for _, b := range binds {
			if a.Volume != "" && b.Volume != "" && a.Path != b.Path && below(b.Path, a.Path) {
				out = append(out, Problem{
					What: fmt.Sprintf("the bind mount %s lies within the bind mount %s: they cannot both be replicated", b.Path, a.Path),
					Next: "mount directories that lie beside each other, or set bind-mounts=list",
				})
			}
		}
	}
	return out
}

// bindDefs are the bind mounts of a workload by path, each once.
func bindDefs(binds []bind) []BindDef {
	var out []BindDef
	for _, b := range binds {
		d := BindDef{Path: filepath.Clean(b.path)}
		if b.replicate {
			d.Volume = b.volume // of a volume's device: under the volume's own name
			if d.Volume == "" {
				d.Volume = bindVolume(b.path)
			}
		}
		out = append(out, d)
	}
	// Of those with one path the first stays: one that is replicated.
	slices.SortFunc(out, func(a, b BindDef) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(b.Volume, a.Volume))
	})
	return slices.CompactFunc(out, func(a, b BindDef) bool { return a.Path == b.Path })
}

// ensureBind makes the directory of a replicated bind mount where it lacks; one that is
// only listed has to be there, or no container could be set up.
func (c *Client) ensureBind(d BindDef) (created bool, err error) {
	path := filepath.Join(c.opts.Root, d.Path)
	_, err = os.Stat(path)
	switch {
	case err == nil:
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("the bind mount %s: %w", d.Path, err)
	case d.Volume == "":
		return false, api.Errorf(api.KindInstalled, "make it there, as it is on the active node, or set bind-mounts=replicate",
			"the bind mount %s does not exist on this node", d.Path)
	}
	return true, os.MkdirAll(path, 0o755)
}
