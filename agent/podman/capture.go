package podman

import (
	"context"
	"slices"
	"strings"

	"github.com/containers/podman/v5/libpod/define"
)

// Capture takes the definition of the containers, in the order given, and of the
// networks, volumes and images they need, from this node's Podman. What cannot be
// carried faithfully is an error that names all of it.
//
// The captured containers are Understudy's from then on: when the roles change, a
// later Realise on this node may make them again.
func (c *Client) Capture(ctx context.Context, names []string) (*Definition, error) {
	def := &Definition{Version: DefinitionVersion}
	needs := needs{networks: map[string]bool{}, volumes: map[string]bool{}, images: map[string]bool{}}
	var problems []Problem
	ids := map[string]string{}
	for _, name := range names {
		d, err := c.inspect(ctx, name)
		if err != nil {
			return nil, err
		}
		con, found, err := captureContainer(d)
		if err != nil {
			return nil, err
		}
		more, err := c.checkNeeds(ctx, d)
		if err != nil {
			return nil, err
		}
		problems = append(append(problems, found...), more...)
		def.Containers = append(def.Containers, con)
		ids[con.Name] = d.ID
		needs.add(d)
	}
	if err := asError(problems); err != nil {
		return nil, err
	}
	if err := c.captureNeeds(ctx, def, needs); err != nil {
		return nil, err
	}
	for _, con := range def.Containers {
		if err := c.record.setContainer(con.Name, entry{ID: ids[con.Name], Hash: con.hash()}); err != nil {
			return nil, err
		}
	}
	return def, nil
}

func captureContainer(d *define.InspectContainerData) (ContainerDef, []Problem, error) {
	def := ContainerDef{Name: d.Name, ImageID: bareID(d.Image), ImageName: d.ImageName}
	spec, problems := buildSpec(d)
	if fatal(problems) {
		return def, problems, nil
	}
	var err error
	if def.Spec, err = encodeSpec(spec); err != nil {
		return def, nil, err
	}
	def.Looks, err = looksOf(d)
	return def, problems, err
}

// needs are names of what containers use.
type needs struct{ networks, volumes, images map[string]bool }

func (n needs) add(d *define.InspectContainerData) {
	con := fromInspect(d)
	for _, v := range con.Volumes() {
		n.volumes[v] = true
	}
	for _, name := range con.Networks {
		n.networks[name] = true
	}
	n.images[bareID(con.ImageID)] = true
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (c *Client) captureNeeds(ctx context.Context, def *Definition, n needs) error {
	for _, name := range sorted(n.networks) {
		net, err := c.inspectNetwork(ctx, name)
		if err != nil {
			return err
		}
		nd, err := networkDef(net)
		if err != nil {
			return err
		}
		def.Networks = append(def.Networks, nd)
		if err := c.record.setNetwork(nd.Name, hash(nd.comparable())); err != nil {
			return err
		}
	}
	for _, name := range sorted(n.volumes) {
		v, err := c.inspectVolume(ctx, name)
		if err != nil {
			return err
		}
		def.Volumes = append(def.Volumes, volumeDef(v))
	}
	for _, id := range sorted(n.images) {
		img, err := c.Image(ctx, id)
		if err != nil {
			return err
		}
		// A name that a container was made with counts even if another image has it now.
		for _, con := range def.Containers {
			if con.ImageID == img.ID && strings.ContainsAny(con.ImageName, ":/") && !slices.Contains(img.Names, con.ImageName) && len(img.Names) == 0 {
				img.Names = append(img.Names, con.ImageName)
			}
		}
		def.Images = append(def.Images, img)
	}
	return nil
}
