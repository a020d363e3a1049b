package podman

import (
	"context"
	"maps"
	"slices"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/specgen"
)

// Capture takes the definition of the workload, in its order, and of the networks,
// volumes, bind mounts and images it needs, from this node's Podman. What cannot be
// carried faithfully is an error that names all of it.
//
// The captured containers are Understudy's from then on: when the roles change, a
// later Realise on this node may make them again.
func (c *Client) Capture(ctx context.Context, w Workload) (*Definition, error) {
	def := &Definition{Version: DefinitionVersion}
	w, err := c.withYAML(w)
	if err != nil {
		return nil, err
	}
	needs, err := c.newNeeds(ctx, w)
	if err != nil {
		return nil, err
	}
	for _, name := range w.Volumes {
		needs.volumes[name] = true
	}
	var problems []Problem
	ids := map[string]string{}
	for _, name := range w.Containers {
		d, err := c.inspect(ctx, name)
		if err != nil {
			return nil, err
		}
		con, found, err := c.captureContainer(ctx, w, needs, d)
		if err != nil {
			return nil, err
		}
		problems = append(problems, found...)
		def.Containers = append(def.Containers, con)
		ids[con.Name] = d.ID
	}
	more, err := c.capturePods(ctx, w, needs, def)
	if err != nil {
		return nil, err
	}
	problems = append(problems, more...)
	def.Binds = bindDefs(needs.binds)
	problems = append(problems, overlapping(def.Binds)...)
	if err := asError(problems); err != nil {
		return nil, err
	}
	if err := c.captureNeeds(ctx, def, needs); err != nil {
		return nil, err
	}
	def.Trees = def.trees(w.Volumes)
	for _, con := range def.Containers {
		if err := c.record.setContainer(con.Name, entry{ID: ids[con.Name], Hash: con.hash(), Secrets: con.secretsHash()}); err != nil {
			return nil, err
		}
	}
	pods := map[string]string{} // name to ID
	for _, pod := range def.Pods {
		d, err := c.inspectPod(ctx, pod.Name)
		if err != nil {
			return nil, err
		}
		if err := c.record.setPod(pod.Name, entry{ID: d.ID, Hash: pod.hash()}); err != nil {
			return nil, err
		}
		pods[pod.Name] = d.ID
	}
	for _, k := range def.Kube {
		e := kubeEntry{YAML: k.YAML, Pods: map[string]string{}}
		for _, name := range k.Pods {
			e.Pods[name] = pods[name]
		}
		if err := c.record.setKube(k.Path, e); err != nil {
			return nil, err
		}
	}
	return def, nil
}

// captureContainer describes a container, and what stands against it: then it has no
// specification. What it uses is added to n.
func (c *Client) captureContainer(ctx context.Context, w Workload, n *needs, d *define.InspectContainerData) (def ContainerDef, problems []Problem, err error) {
	def = ContainerDef{Name: d.Name, ImageID: bareID(d.Image), ImageName: carriedName(d), Infra: d.IsInfra}
	if def.Pod, err = c.podOf(ctx, d); err != nil {
		return def, nil, err
	}
	if def.Pod != "" {
		n.pods[def.Pod] = true
		if def.Kube, err = c.playedFrom(ctx, n, def.Pod); err != nil {
			return def, nil, err
		}
	}
	var spec *specgen.SpecGenerator
	switch {
	case d.IsInfra:
		if ownImage.MatchString(d.ImageName) {
			def.ImageID, def.ImageName = "", ""
		}
	case def.Kube != "":
		problems = named(d.Name, checkPlayed(d))
	default:
		spec, problems = buildSpec(d, def.Pod)
	}
	more, err := c.checkNeeds(ctx, w, n, spec, d)
	if err != nil {
		return def, nil, err
	}
	problems = append(problems, more...)
	if def.ImageID != "" {
		n.images[def.ImageID] = true
	}
	if def.Looks, err = looksOf(d); err == nil && def.Kube != "" { // the YAML has it, perhaps by digest
		def.Looks, err = nameless(def.Looks)
	}
	if err != nil || spec == nil {
		return def, problems, err
	}
	def.Secrets = secretHashes(spec, n)
	def.Spec, err = encodeSpec(spec)
	return def, problems, err
}

// capturePods describes the pods that the containers are in, by name, and the YAML that
// they were played from.
func (c *Client) capturePods(ctx context.Context, w Workload, n *needs, def *Definition) (problems []Problem, err error) {
	if def.Kube, problems, err = c.captureKube(ctx, n); err != nil {
		return nil, err
	}
	for _, name := range sorted(n.pods) {
		pod, found, err := c.capturePod(ctx, w, n, name)
		if err != nil {
			return nil, err
		}
		for _, k := range def.Kube {
			if k.Path == pod.Kube {
				pod.Played = k.hashWith(pod.Name, def.Containers)
			}
		}
		def.Pods, problems = append(def.Pods, pod), append(problems, found...)
	}
	return problems, nil
}

// needs is what containers use.
type needs struct {
	networks, volumes, pods map[string]bool // names
	images                  map[string]bool // IDs
	binds                   []bind
	secrets                 map[string]SecretDef // by name
	sources                 []*kubeSource
}

// newNeeds has nothing yet but the YAML that the workload names.
func (c *Client) newNeeds(ctx context.Context, w Workload) (*needs, error) {
	n := &needs{networks: map[string]bool{}, volumes: map[string]bool{}, pods: map[string]bool{}, images: map[string]bool{}, secrets: map[string]SecretDef{}}
	for _, path := range w.Kube {
		s, err := c.kubeSource(ctx, path)
		if err != nil {
			return nil, err
		}
		if s != nil {
			n.sources = append(n.sources, s)
		}
	}
	return n, nil
}

// pathOf is the YAML that the pod was played from, "" for none.
func (n *needs) pathOf(pod string) string {
	for _, s := range n.sources {
		if slices.Contains(s.pods, pod) {
			return s.path
		}
	}
	return ""
}

func (n *needs) add(con Container) {
	for _, v := range con.Volumes() {
		n.volumes[v] = true
	}
	for _, name := range con.Networks {
		n.networks[name] = true
	}
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (c *Client) captureNeeds(ctx context.Context, def *Definition, n *needs) error {
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
	for _, name := range slices.Sorted(maps.Keys(n.secrets)) {
		s := n.secrets[name]
		def.Secrets = append(def.Secrets, s)
		if err := c.record.setSecret(s.Name, s.hash()); err != nil {
			return err
		}
	}
	for _, id := range sorted(n.images) {
		img, err := c.Image(ctx, id)
		if err != nil {
			return err
		}
		def.Images = append(def.Images, img)
	}
	return nil
}
