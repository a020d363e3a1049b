package podman

import (
	"context"
	"errors"
	"fmt"

	"github.com/containers/podman/v5/pkg/bindings/containers"
	"github.com/containers/podman/v5/pkg/domain/entities/types"

	"github.com/understudy-ha/understudy/agent/api"
)

// Realise makes this node's Podman agree with the definition: networks, volumes
// and containers are created where they lack, and containers and networks of
// ours that differ are made again. Containers are created, not started. The
// result says what was done, one line each; empty: all was right already.
//
// It never touches a container that runs, never removes a volume, and leaves
// alone what is not Understudy's: where such a thing has one of the names, the
// error says so. Images must be there already. It can be repeated after any interruption.
func (c *Client) Realise(ctx context.Context, def *Definition) (changes []string, err error) {
	r := realiser{c: c, def: def}
	for _, step := range []func(context.Context) error{
		r.images, r.surveyPods, r.survey, r.networks, r.volumes, r.binds, r.secrets, r.pods, r.kube, r.containers,
	} {
		if err := step(ctx); err != nil {
			return r.changes, err
		}
	}
	return r.changes, nil
}

type realiser struct {
	c       *Client
	def     *Definition
	again   map[string]bool // containers that exist, differ and may be made again
	present map[string]bool // containers that are as they should be
	changes []string

	podsAgain, podsPresent map[string]bool // the same of pods
}

func (r *realiser) did(format string, args ...any) {
	r.changes = append(r.changes, fmt.Sprintf(format, args...))
}

func (r *realiser) images(ctx context.Context) error {
	if err := errors.Join(r.c.giveBack(ctx), r.c.restoreLost(ctx)); err != nil {
		return err
	}
	_, missing, err := r.c.Present(ctx, r.def.ImageIDs())
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return api.Errorf(api.KindInstalled, "wait until Understudy has shipped it, or load it with `podman load`",
			"image %s is not on this node", missing[0])
	}
	for _, img := range r.def.Images {
		have, err := r.c.Image(ctx, img.ID)
		if err != nil {
			return err
		}
		lack := without(img.Names, have.Names)
		if err := errors.Join(r.c.record.gave(img.ID, img.Names), r.c.Tag(ctx, img.ID, lack)); err != nil {
			return err
		}
		for _, name := range lack {
			r.did("image %.12s: tagged %s", img.ID, name)
		}
	}
	return nil
}

// survey looks at every container before anything is changed.
func (r *realiser) survey(ctx context.Context) error {
	r.again, r.present = map[string]bool{}, map[string]bool{}
	for _, def := range r.def.Containers {
		if def.Infra || def.Kube != "" {
			continue // see surveyPods
		}
		d, err := r.c.inspect(ctx, def.Name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if errors.Is(err, ErrDamaged) {
			if err := r.dropDamaged(ctx, def.Name); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		known, ok, err := r.c.record.container(def.Name)
		if err != nil {
			return err
		}
		ours := ok && (known.ID == "" || known.ID == d.ID)
		now := fromInspect(d)
		looks, err := looksOf(d)
		if err != nil {
			return err
		}
		alike := now.ImageID == def.ImageID && len(lookDifferences(looks, def.Looks)) == 0 &&
			(now.Pod == "") == (def.Pod == "") && (def.secretsHash() == "" || ours && known.Secrets == def.secretsHash())
		switch {
		case ours && known.ID == d.ID && known.Hash == def.hash(), alike:
			if err := r.c.record.setContainer(def.Name, entry{ID: d.ID, Hash: def.hash(), Secrets: def.secretsHash()}); err != nil {
				return err
			}
			r.present[def.Name] = true
		case now.State.Alive():
			return fail(ErrRunning, api.KindRefused, "stop the service on this node first",
				"container %s is %s on this node and differs from the active's: not made again", def.Name, now.State)
		case !ours:
			return fail(ErrForeign, api.KindRefused, "remove or rename it on this node: `podman rm "+def.Name+"`",
				"a container named %s exists on this node and is not Understudy's", def.Name)
		default:
			r.again[def.Name] = true
		}
	}
	return nil
}

// dropDamaged removes a container of ours whose layer a power cut has taken. What
// is in its volumes stays.
func (r *realiser) dropDamaged(ctx context.Context, name string) error {
	_, ours, err := r.c.record.container(name)
	if err != nil {
		return err
	}
	if !ours {
		return fail(ErrForeign, api.KindRefused, "remove it: `podman rm -f "+name+"`", "the container %s on this node is damaged and is not Understudy's", name)
	}
	if err := r.c.removeForced(ctx, name); err != nil {
		return err
	}
	r.did("container %s: its layer was damaged; removed, to be made again", name)
	return nil
}

func (r *realiser) networks(ctx context.Context) error {
	for _, def := range r.def.Networks {
		if err := def.checkParent(); err != nil {
			return err
		}
		have, err := r.c.inspectNetwork(ctx, def.Name)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil {
			hd, err := networkDef(have)
			if err != nil {
				return err
			}
			if hd.same(def) {
				continue
			}
			if err := r.dropNetwork(ctx, def); err != nil {
				return err
			}
		}
		if err := r.c.record.setNetwork(def.Name, hash(def.comparable())); err != nil {
			return err
		}
		if err := r.c.createNetwork(ctx, def); err != nil {
			return err
		}
		r.did("network %s: created", def.Name)
	}
	return nil
}

// dropNetwork removes a network that differs, if it is ours and only stopped
// containers of ours are in it; these are removed before.
func (r *realiser) dropNetwork(ctx context.Context, def NetworkDef) error {
	_, ours, err := r.c.record.network(def.Name)
	if err != nil {
		return err
	}
	if !ours || def.Name == defaultNetwork {
		return fail(ErrForeign, api.KindRefused,
			"give it the same subnets and options as on the active, or remove it: `podman network rm "+def.Name+"`",
			"network %s exists on this node, differs from the active's, and is not Understudy's", def.Name)
	}
	for _, pod := range r.def.Pods {
		if d, err := r.c.inspectPod(ctx, pod.Name); err == nil {
			if err := r.mayRemovePod(ctx, d); err != nil {
				return err
			}
			if err := r.dropPod(ctx, pod); err != nil {
				return err
			}
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	for _, con := range r.def.Containers {
		if con.Infra {
			continue
		}
		d, err := r.c.Inspect(ctx, con.Name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if d.State.Alive() {
			return fail(ErrRunning, api.KindRefused, "stop the service on this node first",
				"network %s differs from the active's, and container %s is %s in it", def.Name, con.Name, d.State)
		}
		if err := r.removeContainer(ctx, con.Name); err != nil {
			return err
		}
	}
	if err := r.c.removeNetwork(ctx, def.Name); err != nil {
		return err
	}
	r.did("network %s: removed, it differed", def.Name)
	return nil
}

func (r *realiser) volumes(ctx context.Context) error {
	for _, def := range r.def.Volumes {
		created, err := r.c.EnsureVolume(ctx, def)
		if err != nil {
			return err
		}
		if created {
			r.did("volume %s: created", def.Name)
		}
	}
	return nil
}

func (r *realiser) binds(context.Context) error {
	for _, def := range r.def.Binds {
		created, err := r.c.ensureBind(def)
		if err != nil {
			return err
		}
		if created {
			r.did("directory %s: created", def.Path)
		}
	}
	return nil
}

func (r *realiser) secrets(ctx context.Context) error {
	for _, def := range r.def.Secrets {
		change, err := r.c.ensureSecret(ctx, def)
		if err != nil {
			return err
		}
		if change != "" {
			r.did("%s", change)
		}
	}
	return nil
}

func (r *realiser) containers(ctx context.Context) error {
	for _, def := range r.def.Containers {
		if r.present[def.Name] || def.Infra || def.Kube != "" {
			continue
		}
		if r.again[def.Name] {
			if err := r.removeContainer(ctx, def.Name); err != nil {
				return err
			}
		}
		if err := r.create(ctx, def); err != nil {
			return err
		}
		r.did("container %s: created", def.Name)
	}
	return nil
}

func (r *realiser) removeContainer(ctx context.Context, name string) error {
	// From here on there is nothing of the name that could be somebody else's.
	if err := r.c.record.setContainer(name, entry{}); err != nil {
		return err
	}
	if err := r.c.Uninit(ctx, name); err != nil {
		return err
	}
	if err := r.c.remove(ctx, name); err != nil {
		return err
	}
	if r.again[name] || r.present[name] {
		r.did("container %s: removed, to be made again", name)
	}
	delete(r.again, name)
	delete(r.present, name)
	return nil
}

// create makes one container and checks that it came out as it should.
func (r *realiser) create(ctx context.Context, def ContainerDef) error {
	spec, err := decodeSpec(def.Spec)
	if err != nil {
		return fmt.Errorf("container %s: %w", def.Name, err)
	}
	// By its name, so that inspect shows the name.
	borrowed, err := r.c.borrow(ctx, def.ImageName, def.ImageID)
	if err != nil {
		return err
	}
	spec.Image = def.ImageID
	if img, err := r.c.Image(ctx, def.ImageName); err == nil && img.ID == def.ImageID {
		spec.Image = def.ImageName
	}
	if err := r.c.record.setContainer(def.Name, entry{Hash: def.hash(), Secrets: def.secretsHash()}); err != nil {
		return err
	}
	made, err := call(ctx, r.c, "create container "+def.Name, func(ctx context.Context) (types.ContainerCreateResponse, error) {
		return containers.CreateWithSpec(ctx, spec, nil)
	})
	if borrowed {
		err = errors.Join(err, r.c.giveBack(ctx))
	}
	if err != nil {
		return err
	}
	for _, w := range made.Warnings {
		r.c.log.Warn("Podman warns", "container", def.Name, "warning", w)
	}
	d, err := r.c.inspect(ctx, made.ID)
	if err != nil {
		return err
	}
	if bareID(d.Image) != def.ImageID {
		return errors.Join(api.Errorf(api.KindGeneric, "", "container %s was made from image %.12s, not %.12s", def.Name, bareID(d.Image), def.ImageID),
			r.c.remove(ctx, made.ID))
	}
	looks, err := looksOf(d)
	if err != nil {
		return err
	}
	for _, diff := range lookDifferences(looks, def.Looks) {
		r.c.log.Warn("container differs from the active's", "container", def.Name, "difference", diff)
	}
	return r.c.record.setContainer(def.Name, entry{ID: made.ID, Hash: def.hash(), Secrets: def.secretsHash()})
}

func without(want, have []string) []string {
	set := make(map[string]bool, len(have))
	for _, h := range have {
		set[h] = true
	}
	var out []string
	for _, w := range want {
		if !set[w] {
			out = append(out, w)
		}
	}
	return out
}
