package podman

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containers/podman/v5/pkg/specgen"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/understudy-ha/understudy/agent/api"
)

// DefinitionVersion is the version of the Definition's form. A reader knows the older
// ones: version 1 had plain volumes and bridges only.
const DefinitionVersion = 2

// Definition is all it takes to make a service's containers again on a node that
// has the images. Equal definitions have equal bytes: maps are sorted, networks,
// volumes and images are in order of their names and IDs, containers in the order
// in which they are started.
type Definition struct {
	Version    int            `json:"version"`
	Pods       []PodDef       `json:"pods,omitempty"`
	Kube       []KubeDef      `json:"kube,omitempty"`
	Containers []ContainerDef `json:"containers"`
	Networks   []NetworkDef   `json:"networks,omitempty"`
	Volumes    []VolumeDef    `json:"volumes,omitempty"`
	Binds      []BindDef      `json:"binds,omitempty"`
	Secrets    []SecretDef    `json:"secrets,omitempty"`
	Trees      []string       `json:"trees,omitempty"` // names under which content is replicated: volumes and bind mounts
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
	// Secrets are the hashes of those that the container got when it was made, by name.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Pod is the name of the pod that it is in. Infra: it is the one that holds the pod's
	// namespaces, is made with the pod, and has no specification of its own.
	Pod   string `json:"pod,omitempty"`
	Infra bool   `json:"infra,omitempty"`
	Kube  string `json:"kube,omitempty"` // path of the YAML that it is played from: no specification either
}

// Marshal is the definition's one encoding.
func (d *Definition) Marshal() ([]byte, error) { return json.Marshal(d) }

// ParseDefinition reads what Marshal wrote, and refuses what another version wrote.
func ParseDefinition(raw []byte) (*Definition, error) {
	var d Definition
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("the service's definition cannot be read: %w", err)
	}
	if d.Version < 1 || d.Version > DefinitionVersion {
		return nil, api.Errorf(api.KindIncompatible, "install the same version of Understudy on both nodes",
			"the service's definition has version %d, this node knows %d", d.Version, DefinitionVersion)
	}
	if d.Version == 1 {
		d.Trees = d.trees(nil)
	}
	for _, p := range d.Pods {
		if p.Name == "" {
			return nil, errors.New("the service's definition has a pod without a name")
		}
		if p.Kube != "" {
			continue
		}
		if _, err := decodePodSpec(p.Spec); err != nil {
			return nil, fmt.Errorf("pod %s: %w", p.Name, err)
		}
	}
	for _, c := range d.Containers {
		if c.Name == "" || c.ImageID == "" && !c.Infra {
			return nil, fmt.Errorf("the service's definition has a container without name or image")
		}
		if c.Infra || c.Kube != "" {
			continue
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
	parts := [][]byte{[]byte(c.Name), []byte(bareID(c.ImageID)), c.Spec}
	if len(c.Secrets) > 0 {
		parts = append(parts, []byte(c.secretsHash()))
	}
	return hash(parts...)
}

// secretsHash is of the content of the secrets that it got; "" for none.
func (c ContainerDef) secretsHash() string {
	if len(c.Secrets) == 0 {
		return ""
	}
	raw, _ := json.Marshal(c.Secrets) // a map of strings cannot fail
	return hash(raw)
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

// trees are the names under which content is replicated, sorted: of the volumes named,
// or all, and of bind mounts where that was asked for.
func (d *Definition) trees(named []string) []string {
	var names []string
	for _, v := range d.Volumes {
		if v.place() == onNode && (len(named) == 0 || slices.Contains(named, v.Name)) {
			names = append(names, v.Name)
		}
	}
	for _, b := range d.Binds {
		if b.Volume != "" {
			names = append(names, b.Volume)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Chowns says whether setting a container up gives a volume's files to the container's
// user (option U): the trees are at no generation afterwards.
func (d *Definition) Chowns() bool {
	return slices.ContainsFunc(d.Containers, func(c ContainerDef) bool {
		s, err := decodeSpec(c.Spec)
		return err == nil && (slices.ContainsFunc(s.Volumes, func(v *specgen.NamedVolume) bool { return slices.Contains(v.Options, "U") }) ||
			slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return slices.Contains(m.Options, "U") }))
	})
}
