package podman

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/understudy-ha/understudy/agent/api"
)

// DefinitionVersion is the version of the Definition's form.
const DefinitionVersion = 1

// Definition is all it takes to make a service's containers again on a node that
// has the images. Equal definitions have equal bytes: maps are sorted, networks,
// volumes and images are in order of their names and IDs, containers in the order
// in which they are started.
type Definition struct {
	Version    int            `json:"version"`
	Containers []ContainerDef `json:"containers"`
	Networks   []NetworkDef   `json:"networks,omitempty"`
	Volumes    []VolumeDef    `json:"volumes,omitempty"`
	Images     []ImageDef     `json:"images"`
}

// ContainerDef is one container. Spec is Podman's own specification, as its API
// takes it. Looks is what `podman inspect` shows of it on the active, without
// what is the node's or the moment's: what a container made of Spec is compared with.
type ContainerDef struct {
	Name      string          `json:"name"`
	ImageID   string          `json:"image_id"`
	ImageName string          `json:"image_name"`
	Spec      json.RawMessage `json:"spec"`
	Looks     json.RawMessage `json:"looks"`
}

// Marshal is the definition's one encoding.
func (d *Definition) Marshal() ([]byte, error) { return json.Marshal(d) }

// Hash names the definition by its content: hex SHA-256 of its encoding.
func (d *Definition) Hash() (string, error) {
	raw, err := d.Marshal()
	if err != nil {
		return "", err
	}
	return hash(raw), nil
}

// ParseDefinition reads what Marshal wrote, and refuses what another version wrote.
func ParseDefinition(raw []byte) (*Definition, error) {
	var d Definition
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("the service's definition cannot be read: %w", err)
	}
	if d.Version != DefinitionVersion {
		return nil, api.Errorf(api.KindIncompatible, "install the same version of Understudy on both nodes",
			"the service's definition has version %d, this node knows %d", d.Version, DefinitionVersion)
	}
	for _, c := range d.Containers {
		if c.Name == "" || c.ImageID == "" {
			return nil, fmt.Errorf("the service's definition has a container without name or image")
		}
		if _, err := decodeSpec(c.Spec); err != nil {
			return nil, fmt.Errorf("container %s: %w", c.Name, err)
		}
	}
	return &d, nil
}

// hash of what the container is made from; not of how it looks, which may
// differ between versions of Podman without any need to make it again.
func (c ContainerDef) hash() string {
	return hash([]byte(c.Name), []byte(bareID(c.ImageID)), c.Spec)
}

func hash(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ImageIDs are the IDs of the images the definition needs.
func (d *Definition) ImageIDs() []string {
	ids := make([]string, 0, len(d.Images))
	for _, i := range d.Images {
		ids = append(ids, i.ID)
	}
	return ids
}

// VolumeNames are the names of the volumes the containers mount.
func (d *Definition) VolumeNames() []string {
	names := make([]string, 0, len(d.Volumes))
	for _, v := range d.Volumes {
		names = append(names, v.Name)
	}
	return names
}
