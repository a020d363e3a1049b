package podman

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containers/podman/v5/pkg/bindings/volumes"
	"github.com/containers/podman/v5/pkg/domain/entities/types"

	"github.com/understudy-ha/understudy/agent/api"
)

// VolumeDef is a volume without its content.
type VolumeDef struct {
	Name    string            `json:"name"`
	Driver  string            `json:"driver"`
	Options map[string]string `json:"options,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	// Anonymous: it has a name that Podman made up, and is made together with its container.
	Anonymous bool `json:"anonymous,omitempty"`
}

// place is where a volume's content is.
type place int

const (
	onNode    place = iota // in its directory: replicated
	onNetwork              // on a file server that every node reaches: carried by definition
	inMemory               // nowhere once it is unmounted
	onBind                 // in a directory of the node that is mounted: as a bind mount
	onDevice               // on a block device
	elsewhere              // what another driver, or a type that is not known here, makes of it
)

var networkTypes = []string{"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs"}

// place tells by what Podman gives to mount(8).
func (d VolumeDef) place() place {
	kind, device := d.Options["type"], d.Options["device"]
	bound := slices.ContainsFunc(strings.Split(d.Options["o"], ","), func(o string) bool { return o == "bind" || o == "rbind" })
	switch {
	case d.Driver != "local" && d.Driver != "":
		return elsewhere
	case bound || kind == "bind":
		return onBind
	case slices.Contains(networkTypes, kind):
		return onNetwork
	case kind == "tmpfs" || kind == "ramfs":
		return inMemory
	case strings.HasPrefix(device, "/dev/"):
		return onDevice
	case kind == "" && device == "":
		return onNode
	}
	return elsewhere
}

// directory is where the volume's content is on this node: its own mountpoint, or
// the directory that is mounted there when it is used.
func (d VolumeDef) directory(mountpoint string) string {
	if d.place() == onBind {
		return d.Options["device"]
	}
	return mountpoint
}

// check says what stands against carrying the volume to another node, and what of it
// is not carried. named: the operator wants its content replicated.
func (d VolumeDef) check(at string, named bool) []Problem {
	switch d.place() {
	case onNetwork, inMemory:
		if named {
			return []Problem{{
				What: fmt.Sprintf("its volume %s is a mount of the type %s: there is nothing of it on the node to replicate", d.Name, d.Options["type"]),
				Next: "leave it out of volumes=: its definition is carried all the same",
			}}
		}
	case onDevice:
		return []Problem{{
			What: fmt.Sprintf("its volume %s is the device %s, which would be mounted on two nodes at once when a standby is made ready", d.Name, d.Options["device"]),
			Next: "use a plain local volume, or one on a file server",
		}}
	case elsewhere:
		return []Problem{{
			What: fmt.Sprintf("its volume %s has the driver %s and the type %q, which are not carried", d.Name, d.Driver, d.Options["type"]),
			Next: "use a volume of the driver local: plain, tmpfs, bind, NFS or CIFS",
		}}
	case onNode:
		if d.Anonymous {
			return []Problem{{
				What: "it has an anonymous volume at " + at + ": a container that is made anew begins with an empty one",
				Next: "name it, if it should outlive the container: --volume NAME:" + at, Warning: true,
			}}
		}
	case onBind: // see checkBinds
	}
	return nil
}

// VolumePath is the directory on this node that holds the volume's data; ErrNotFound if there is no such volume.
func (c *Client) VolumePath(ctx context.Context, name string) (string, error) {
	v, err := c.inspectVolume(ctx, name)
	if err != nil {
		return "", err
	}
	path := volumeDef(v).directory(v.Mountpoint)
	if path == "" {
		return "", api.Errorf(api.KindConfigured, "use a volume of the driver local", "volume %s has no directory on this node", name)
	}
	return path, nil
}

func (c *Client) inspectVolume(ctx context.Context, name string) (*types.VolumeConfigResponse, error) {
	return call(ctx, c, "inspect volume "+name, func(ctx context.Context) (*types.VolumeConfigResponse, error) {
		return volumes.Inspect(ctx, name, nil)
	})
}

// EnsureVolume makes the volume if it is not there. One that is there but was
// made otherwise is an error: to make it again would delete its data. Of one that
// Podman knows and whose directory is gone, that is made.
func (c *Client) EnsureVolume(ctx context.Context, def VolumeDef) (created bool, err error) {
	have, err := c.inspectVolume(ctx, def.Name)
	if err == nil {
		if diff := def.differs(volumeDef(have)); diff != "" {
			return false, fail(ErrForeign, api.KindRefused,
				"if its data on this node is not needed, remove it there with `podman volume rm "+def.Name+"`",
				"volume %s exists on this node with another %s than on the active", def.Name, diff)
		}
		if def.place() != onNode || have.Mountpoint == "" {
			return false, nil
		}
		dir := filepath.Join(c.opts.Root, have.Mountpoint)
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return true, c.makeAgain(def.Name, dir)
	}
	if !errors.Is(err, ErrNotFound) || def.Anonymous { // that comes with its container
		return false, ignoreNotFound(err)
	}
	return true, do(ctx, c, "create volume "+def.Name, func(ctx context.Context) error {
		_, err := volumes.Create(ctx, types.VolumeCreateOptions{
			Name: def.Name, Driver: def.Driver, Options: def.Options, Labels: def.Labels,
		}, nil)
		return err
	})
}

// makeAgain makes the directory that a volume had, dir, and the one that it is in. Where nothing else is beside
// that, the file system of them all may not be mounted.
func (c *Client) makeAgain(volume, dir string) error {
	in := filepath.Dir(dir)
	if _, err := os.Stat(in); errors.Is(err, fs.ErrNotExist) {
		if others, err := os.ReadDir(filepath.Dir(in)); err != nil || len(others) == 0 {
			return fail(err, api.KindInstalled, "mount what Podman keeps volumes on; where it is mounted, mkdir "+in,
				"%s, where volume %s was, is gone, and no other is there", in, volume)
		}
		if err := os.Mkdir(in, 0o700); err != nil {
			return err
		}
	}
	return os.Mkdir(dir, 0o755)
}

func volumeDef(v *types.VolumeConfigResponse) VolumeDef {
	def := VolumeDef{Name: v.Name, Driver: v.Driver, Anonymous: v.Anonymous || anonymousName.MatchString(v.Name)}
	options := maps.Clone(v.Options)
	// Podman adds what the mount option string says as entries of its own.
	for _, derived := range []string{"UID", "GID", "SIZE", "INODES", "NOQUOTA"} {
		delete(options, derived)
	}
	if len(options) > 0 {
		def.Options = options
	}
	if len(v.Labels) > 0 {
		def.Labels = maps.Clone(v.Labels)
	}
	return def
}

// differs names the first attribute in which two definitions of a volume differ.
func (d VolumeDef) differs(o VolumeDef) string {
	switch {
	case d.Driver != o.Driver:
		return "driver"
	case !maps.Equal(d.Options, o.Options):
		return "set of options"
	case !maps.Equal(d.Labels, o.Labels):
		return "set of labels"
	}
	return ""
}
