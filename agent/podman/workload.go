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
	for _, name := range w.Pods {
		pod, err := c.inspectPod(ctx, name)
		if errors.Is(err, ErrNotFound) {
			absent = append(absent, "pod "+name)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		members, err := c.members(ctx, pod)
		if err != nil {
			return nil, nil, err
		}
		add(members...)
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
