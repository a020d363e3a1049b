package podman

import (
	"context"
	"errors"
	"maps"

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
}

// VolumePath is the directory on this node that holds the volume's data; ErrNotFound if there is no such volume.
func (c *Client) VolumePath(ctx context.Context, name string) (string, error) {
	v, err := c.inspectVolume(ctx, name)
	if err != nil {
		return "", err
	}
	if v.Mountpoint == "" {
		return "", api.Errorf(api.KindConfigured, "use a volume of the driver local", "volume %s has no directory on this node", name)
	}
	return v.Mountpoint, nil
}

func (c *Client) inspectVolume(ctx context.Context, name string) (*types.VolumeConfigResponse, error) {
	return call(ctx, c, "inspect volume "+name, func(ctx context.Context) (*types.VolumeConfigResponse, error) {
		return volumes.Inspect(ctx, name, nil)
	})
}

// EnsureVolume makes the volume if it is not there. One that is there but was
// made otherwise is an error: to make it again would delete its data.
func (c *Client) EnsureVolume(ctx context.Context, def VolumeDef) (created bool, err error) {
	have, err := c.inspectVolume(ctx, def.Name)
	if err == nil {
		if diff := def.differs(volumeDef(have)); diff != "" {
			return false, fail(ErrForeign, api.KindRefused,
				"if its data on this node is not needed, remove it there with `podman volume rm "+def.Name+"`",
				"volume %s exists on this node with another %s than on the active", def.Name, diff)
		}
		return false, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	return true, do(ctx, c, "create volume "+def.Name, func(ctx context.Context) error {
		_, err := volumes.Create(ctx, types.VolumeCreateOptions{
			Name: def.Name, Driver: def.Driver, Options: def.Options, Labels: def.Labels,
		}, nil)
		return err
	})
}

func volumeDef(v *types.VolumeConfigResponse) VolumeDef {
	def := VolumeDef{Name: v.Name, Driver: v.Driver}
	if len(v.Options) > 0 {
		def.Options = maps.Clone(v.Options)
		// Podman adds what the mount option string says as entries of its own.
		delete(def.Options, "UID")
		delete(def.Options, "GID")
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
