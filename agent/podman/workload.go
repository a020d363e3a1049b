package podman

import (
	"context"
	"errors"
	"slices"
)

// Workload is what a service is made of, as its operator names it. What describes or
// checks it wants Containers to be the Members.
type Workload struct {
	Containers []string // in the order in which they are started
	Pods       []string // with all their containers, after Containers
	Quadlet    []string // file names of quadlet units, after Pods: containers, pods with theirs, YAML
	Kube       []string // paths of Kubernetes YAML: the pods that were made of it, after the rest
	// Volumes are those whose content is replicated; empty: all that the containers mount.
	Volumes []string
	// ReplicateBinds: the content of bind mounts is replicated too, and not only listed.
	ReplicateBinds bool
}

// Members are the names of all containers that the workload comes to on this node, in
// the order in which they are started: of a pod its infra container first. A container
// that is named is among them also if it does not exist; absent names what else is not
// here ("pod shop").
func (c *Client) Members(ctx context.Context, w Workload) (names, absent []string, err error) {
	add := func(more ...string) {
		for _, n := range more {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	for _, name := range w.Containers {
		infra, err := c.infraName(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		if infra != "" {
			add(infra)
		}
		add(name)
	}
	pod := func(name, what string) error {
		d, err := c.inspectPod(ctx, name)
		if errors.Is(err, ErrNotFound) {
			absent = append(absent, what)
			return nil
		}
		if err != nil {
			return err
		}
		members, err := c.members(ctx, d)
		add(members...)
		return err
	}
	for _, name := range w.Pods {
		if err := pod(name, "pod "+name); err != nil {
			return nil, nil, err
		}
	}
	ofUnits, missing, err := c.unitMembers(ctx, w)
	if err != nil {
		return nil, nil, err
	}
	add(ofUnits...)
	absent = append(absent, missing...)
	if w, err = c.withYAML(w); err != nil {
		return nil, nil, err
	}
	for _, path := range w.Kube {
		s, err := c.kubeSource(ctx, path)
		if err != nil {
			return nil, nil, err
		}
		if s == nil {
			absent = append(absent, "file "+path)
			continue
		}
		for _, name := range s.pods {
			if err := pod(name, "pod "+name+" (podman kube play --start=false "+path+")"); err != nil {
				return nil, nil, err
			}
		}
	}
	return names, absent, nil
}

// unitMembers are the containers of the units but those that are played.
func (c *Client) unitMembers(ctx context.Context, w Workload) (names, absent []string, err error) {
	units, missing, err := c.quadlets(w.Quadlet)
	if err != nil {
		return nil, nil, err
	}
	for _, file := range missing {
		absent = append(absent, "unit "+file)
	}
	for _, u := range units {
		switch {
		case u.play != nil, u.name() == "": // with the YAML; refused
			continue
		case !u.pod():
			names = append(names, u.name())
			continue
		}
		// Containers of it that are of no unit are seen to in missingFrom.
		d, err := c.inspectPod(ctx, u.name())
		if errors.Is(err, ErrNotFound) {
			absent = append(absent, "pod "+u.name())
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		infra, err := c.infraOf(ctx, d)
		if err != nil {
			return nil, nil, err
		}
		if infra != nil {
			names = append(names, infra.Name)
		}
	}
	return names, absent, nil
}

// infraName is the infra container of the pod that the container is in, "" for none.
func (c *Client) infraName(ctx context.Context, name string) (string, error) {
	d, err := c.inspect(ctx, name)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) || err == nil && d.Pod == "" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	pod, err := c.inspectPod(ctx, d.Pod)
	if err != nil || pod.InfraContainerID == "" {
		return "", err
	}
	infra, err := c.inspect(ctx, pod.InfraContainerID)
	if err != nil {
		return "", err
	}
	return infra.Name, nil
}

// withYAML adds to the YAML that the workload names that of its .kube units.
func (c *Client) withYAML(w Workload) (Workload, error) {
	units, _, err := c.quadlets(w.Quadlet)
	for _, u := range units {
		if u.play != nil && !slices.Contains(w.Kube, u.play.Path) {
			w.Kube = append(slices.Clone(w.Kube), u.play.Path)
		}
	}
	return w, err
}
