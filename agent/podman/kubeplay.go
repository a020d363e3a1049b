package podman

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/containers/podman/v5/pkg/bindings/containers"
	"github.com/containers/podman/v5/pkg/bindings/kube"
	"github.com/containers/podman/v5/pkg/domain/entities/types"

	"github.com/understudy-ha/understudy/agent/api"
)

// kube plays YAML whose pods are not all there as they should be. What comes of it gets
// the active's names and no restart policy, and is compared with the active's.
func (r *realiser) kube(ctx context.Context) error {
	for _, def := range r.def.Kube {
		if slices.ContainsFunc(def.Pods, func(pod string) bool { return !r.podsPresent[pod] }) {
			if err := r.replay(ctx, def); err != nil {
				return err
			}
		}
		if err := r.settlePlayed(ctx, def); err != nil {
			return err
		}
	}
	return nil
}

// wholePod says whether all containers of a pod that is played are there: where one was
// removed, or a power cut took its layer, it is played again.
func (r *realiser) wholePod(ctx context.Context, def PodDef) (bool, error) {
	for _, con := range r.def.Containers {
		if con.Pod != def.Name {
			continue
		}
		d, err := r.c.inspect(ctx, con.Name)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) || err == nil && !con.Infra && bareID(d.Image) != con.ImageID {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// alikePlayed says whether the pod's containers look like the active's.
func (r *realiser) alikePlayed(ctx context.Context, def PodDef) (bool, error) {
	for _, con := range r.def.Containers {
		if con.Pod != def.Name || con.Infra {
			continue
		}
		d, err := r.c.inspect(ctx, con.Name)
		if err != nil {
			return false, err
		}
		looks, err := looksOf(d)
		if err != nil || len(lookDifferences(looks, con.Looks)) > 0 {
			return false, err
		}
	}
	return true, nil
}

// replay removes what is there of the pods and makes all of them.
func (r *realiser) replay(ctx context.Context, def KubeDef) error {
	for _, pod := range r.podsOf(def) {
		if r.podsPresent[pod.Name] || r.podsAgain[pod.Name] {
			if err := r.dropPod(ctx, pod); err != nil {
				return err
			}
		}
		if err := r.c.record.setPod(pod.Name, entry{Hash: pod.hash()}); err != nil {
			return err
		}
		for _, con := range r.def.Containers {
			if con.Pod != pod.Name {
				continue
			}
			if err := r.c.record.setContainer(con.Name, entry{}); err != nil {
				return err
			}
		}
	}
	if err := r.playHere(ctx, def); err != nil {
		return err
	}
	for _, pod := range r.podsOf(def) {
		d, err := r.c.inspectPod(ctx, pod.Name)
		if err != nil {
			return err
		}
		infra, err := r.c.infraOf(ctx, d)
		if err != nil {
			return err
		}
		// The last thing that is done: a pod whose infra container has another name was
		// not made to the end.
		if infra != nil && infra.Name != pod.Infra {
			if err := r.c.rename(ctx, infra.ID, pod.Infra); err != nil {
				return err
			}
		}
		r.did("pod %s: played from %s", pod.Name, def.Path)
	}
	return nil
}

// playHere plays with the active's images under the names that the YAML has for them.
func (r *realiser) playHere(ctx context.Context, def KubeDef) error {
	borrowed, images := false, map[string]string{}
	for _, con := range r.def.Containers {
		if con.Kube != def.Path || con.Infra {
			continue
		}
		images[con.Name] = con.ImageID
		lent, err := r.c.borrow(ctx, con.ImageName, con.ImageID)
		if err != nil {
			return err
		}
		borrowed = borrowed || lent
	}
	err := r.c.play(ctx, def, images)
	if borrowed {
		err = errors.Join(err, r.c.giveBack(ctx))
	}
	return err
}

func (r *realiser) podsOf(def KubeDef) []PodDef {
	return slices.DeleteFunc(slices.Clone(r.def.Pods), func(p PodDef) bool { return p.Kube != def.Path })
}

// settlePlayed wants what was played to be what the active has: no flag that it was
// played with there, and that nobody can see, may be lost. It remembers of what the pods are.
func (r *realiser) settlePlayed(ctx context.Context, def KubeDef) error {
	for _, con := range r.def.Containers {
		if con.Kube != def.Path {
			continue
		}
		if _, err := r.c.Neutralise(ctx, []string{con.Name}); err != nil {
			return err
		}
		if con.Infra {
			continue
		}
		if err := r.comparePlayed(ctx, def, con); err != nil {
			return err
		}
	}
	ids := map[string]string{}
	for _, pod := range r.podsOf(def) {
		d, err := r.c.inspectPod(ctx, pod.Name)
		if err != nil {
			return err
		}
		if err := r.c.record.setPod(pod.Name, entry{ID: d.ID, Hash: pod.hash()}); err != nil {
			return err
		}
		ids[pod.Name] = d.ID
	}
	return r.c.record.setKube(def.Path, kubeEntry{YAML: def.YAML, Pods: ids})
}

func (r *realiser) comparePlayed(ctx context.Context, def KubeDef, con ContainerDef) error {
	d, err := r.c.inspect(ctx, con.Name)
	if err != nil {
		return err
	}
	looks, err := looksOf(d)
	if err != nil {
		return err
	}
	diffs := lookDifferences(looks, con.Looks)
	if bareID(d.Image) != con.ImageID {
		diffs = append(diffs, "its image")
	}
	if len(diffs) > 0 {
		return api.Errorf(api.KindRefused,
			"play it on the active node again, in maintenance, without flags: podman kube play --replace --start=false "+def.Path,
			"container %s, played from %s on this node, is not what it is on the active: %s", con.Name, def.Path, strings.Join(diffs, "; "))
	}
	return r.c.record.setContainer(con.Name, entry{ID: d.ID, Hash: con.hash()})
}

// play makes the pods of the YAML without starting them, with images as local has them.
func (c *Client) play(ctx context.Context, def KubeDef, images map[string]string) error {
	s, err := readKube(def.Path, def.YAML)
	if err != nil {
		return err
	}
	body, err := s.local(images)
	if err != nil {
		return err
	}
	start, quiet := false, true
	o := &kube.PlayOptions{Start: &start, Quiet: &quiet, PublishPorts: def.Publish}
	if len(def.Networks) > 0 {
		o.Network = &def.Networks
	}
	if def.LogDriver != "" {
		o.LogDriver = &def.LogDriver
	}
	return do(ctx, c, "play "+def.Path, func(ctx context.Context) error {
		report, err := kube.PlayWithBody(ctx, bytes.NewReader(body), o)
		return errors.Join(err, playErrors(report))
	})
}

func playErrors(report *types.KubePlayReport) error {
	if report == nil {
		return nil
	}
	var errs []error
	for _, p := range report.Pods {
		for _, text := range p.ContainerErrors {
			errs = append(errs, errors.New(text))
		}
	}
	return errors.Join(errs...)
}

func (c *Client) rename(ctx context.Context, id, name string) error {
	return do(ctx, c, "rename container "+id, func(ctx context.Context) error {
		return containers.Rename(ctx, id, (&containers.RenameOptions{}).WithName(name))
	})
}
