package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/cgroup"
	"github.com/understudy-ha/understudy/agent/podman"
	"github.com/understudy-ha/understudy/agent/service"
)

// pathsKept is how long a volume's path is believed. It is needed in every cycle, and
// in a demotion while Podman is busy; a volume made anew under its name has the same.
const (
	pathsKept = time.Minute
	pathTime  = 2 * time.Second // for one answer
)

// runtimeAdapter is podman.Client as a service sees it.
type runtimeAdapter struct {
	client *podman.Client
	images *imageKeeper

	mu    sync.Mutex // guards what follows
	paths map[string]volumePath
	binds map[string]string // replicated bind mounts by the names of their trees → directory
}

func newRuntime(c *podman.Client, images *imageKeeper) *runtimeAdapter {
	return &runtimeAdapter{client: c, images: images, binds: map[string]string{}}
}

type volumePath struct {
	path string
	at   time.Time
}

var _ service.Runtime = (*runtimeAdapter)(nil)

func (r *runtimeAdapter) Exec(ctx context.Context, container string, command []string) error {
	return r.client.Exec(ctx, container, command)
}

func (r *runtimeAdapter) Inspect(ctx context.Context, name string) (service.Container, error) {
	c, err := r.client.Inspect(ctx, name)
	if errors.Is(err, podman.ErrNotFound) {
		return service.Container{}, service.ErrNoContainer
	}
	if errors.Is(err, podman.ErrDamaged) { // there is nothing to run; Realise makes it again
		return service.Container{}, fmt.Errorf("%w: %w", service.ErrNoContainer, err)
	}
	if err != nil {
		return service.Container{}, err
	}
	out := service.Container{
		Name: c.Name, ID: c.ID, Running: c.State.Alive(), Infra: c.Infra,
		Initialised: c.State == podman.StateInitialized || c.Infra && c.State.Alive(),
		PID:         c.PID, Cgroup: c.CgroupPath, StopSignal: c.StopSignal, Health: healthOf(c.Health),
	}
	if c.PID > 0 {
		out.StartTime = cgroup.StartTime(c.PID)
	}
	out.Trees = r.treesOf(c.Mounts)
	return out, nil
}

// treesOf are the volumes, and the replicated bind mounts by the names of their trees, with
// where the container has them.
func (r *runtimeAdapter) treesOf(mounts []podman.Mount) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	bound := make(map[string]string, len(r.binds))
	for tree, path := range r.binds {
		bound[path] = tree
	}
	out := map[string]string{}
	for _, m := range mounts {
		tree := m.Volume
		if tree == "" {
			tree = bound[filepath.Clean(m.Source)]
		}
		if tree != "" && m.SubPath == "" {
			out[tree] = m.Destination
		}
	}
	return out
}

func healthOf(h podman.HealthStatus) api.Health {
	switch h {
	case podman.HealthStarting:
		return api.HealthStarting
	case podman.HealthUnhealthy:
		return api.HealthUnhealthy
	case podman.HealthNone, podman.HealthHealthy:
	}
	return api.HealthHealthy
}

// workload is the service's as package podman has it: with its members as far as they
// are known, for what only looks at it.
func workload(spec api.Spec) podman.Workload {
	return podman.Workload{
		Containers: spec.Containers, Pods: spec.Pods, Quadlet: spec.Quadlet, Kube: spec.Kube,
		Volumes: spec.Volumes, ReplicateBinds: spec.BindMounts == api.BindsReplicate,
	}
}

// named is the workload as its operator named it.
func named(spec api.Spec) podman.Workload {
	w := workload(spec)
	if spec.Named != nil || spec.Indirect() {
		w.Containers = spec.Named
	}
	return w
}

func (r *runtimeAdapter) Members(ctx context.Context, spec api.Spec) (names, absent []string, err error) {
	return r.client.Members(ctx, named(spec))
}

func (r *runtimeAdapter) Problems(ctx context.Context, spec api.Spec) (problems, caveats []string, err error) {
	list, err := r.client.Check(ctx, workload(spec))
	for _, p := range list {
		if p.Warning {
			caveats = append(caveats, p.String())
		} else {
			problems = append(problems, p.String())
		}
	}
	return problems, caveats, err
}

func (r *runtimeAdapter) UnitProblems(spec api.Spec) ([]string, error) {
	list, err := r.client.CheckUnits(named(spec))
	var out []string
	for _, p := range list {
		if !p.Warning {
			out = append(out, p.String())
		}
	}
	return out, err
}

func (r *runtimeAdapter) Adopt(ctx context.Context, spec api.Spec, make bool) ([]string, error) {
	return r.client.Adopt(ctx, named(spec), make)
}

func (r *runtimeAdapter) Define(ctx context.Context, spec api.Spec) (service.Definition, error) {
	w := named(spec)
	names, absent, err := r.client.Members(ctx, w)
	if err != nil {
		return service.Definition{}, err
	}
	if len(absent) > 0 && len(spec.Quadlet)+len(spec.Kube) > 0 && len(spec.Containers) > 0 {
		// The files are on the node that the service began on; what they came to is known.
		names, absent = spec.Containers, nil
	}
	if len(absent) > 0 {
		return service.Definition{}, api.Errorf(api.KindNotFound, "make it again as it was, or take it out of the resource's parameters", "this node has no %s", strings.Join(absent, ", no "))
	}
	w.Containers = names
	d, err := r.client.Capture(ctx, w)
	if err != nil {
		return service.Definition{}, err
	}
	raw, err := d.Marshal()
	if err != nil {
		return service.Definition{}, err
	}
	return r.definition(d, raw), nil
}

func (r *runtimeAdapter) Parse(raw []byte) (service.Definition, error) {
	d, err := podman.ParseDefinition(raw)
	if err != nil {
		return service.Definition{}, err
	}
	return r.definition(d, raw), nil
}

// definition keeps where the bind mounts are: VolumePaths is asked by their names.
func (r *runtimeAdapter) definition(d *podman.Definition, raw []byte) service.Definition {
	out := service.Definition{Bytes: raw, Volumes: d.Trees, Chowns: d.Chowns()}
	r.mu.Lock()
	for _, tree := range d.Trees {
		delete(r.binds, tree) // it may have become a plain volume
	}
	for _, b := range d.Binds {
		if b.Volume != "" {
			r.binds[b.Volume] = b.Path
			out.Binds = append(out.Binds, b.Volume)
		}
	}
	r.mu.Unlock()
	for _, i := range d.Images {
		out.Images = append(out.Images, i.ID)
	}
	infra := map[string]string{} // by pod
	for _, p := range d.Pods {
		infra[p.Name] = p.Infra
	}
	out.Infra = map[string]string{}
	for _, c := range d.Containers {
		out.Names = append(out.Names, c.Name)
		if name := infra[c.Pod]; name != "" && name != c.Name {
			out.Infra[c.Name] = name
		}
	}
	return out
}

func (r *runtimeAdapter) Realise(ctx context.Context, raw []byte) ([]string, error) {
	d, err := podman.ParseDefinition(raw)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.paths = nil
	r.mu.Unlock()
	changes, err := r.client.Realise(ctx, d)
	if len(changes) > 0 { // what was made is to survive a power cut
		err = errors.Join(err, r.client.Sync(ctx))
	}
	return changes, err
}

func (r *runtimeAdapter) VolumePaths(ctx context.Context, names []string) (out map[string]string, err error) {
	out = make(map[string]string, len(names))
	for _, name := range names {
		r.mu.Lock()
		known, ok := r.paths[name]
		path, bound := r.binds[name]
		r.mu.Unlock()
		if bound {
			if _, err := os.Stat(path); err == nil {
				out[name] = path
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			continue
		}
		if ok && !isThere(known.path) {
			ok = false // it was removed, and perhaps made anew
		}
		if ok && time.Since(known.at) < pathsKept {
			out[name] = known.path
			continue
		}
		vctx, cancel := context.WithTimeout(ctx, pathTime)
		path, err = r.client.VolumePath(vctx, name)
		cancel()
		if errors.Is(err, podman.ErrNotFound) {
			continue
		}
		if err != nil && ok { // Podman hangs; the tree is where it was
			out[name] = known.path
			continue
		}
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		if r.paths == nil {
			r.paths = map[string]volumePath{}
		}
		r.paths[name] = volumePath{path, time.Now()}
		r.mu.Unlock()
		out[name] = path
	}
	return out, nil
}

// isThere: also where that cannot be told. Who goes there then says what it is.
func isThere(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func (r *runtimeAdapter) Init(ctx context.Context, name string) error {
	return needsAddress(r.client.Init(ctx, name))
}

func (r *runtimeAdapter) Start(ctx context.Context, name string) error {
	return needsAddress(r.client.Start(ctx, name))
}

func needsAddress(err error) error {
	if errors.Is(err, podman.ErrNoAddress) {
		return fmt.Errorf("%w: %w", service.ErrNeedsAddress, err)
	}
	return err
}

// Stop treats a container that does not exist as stopped.
func (r *runtimeAdapter) Stop(ctx context.Context, name string, grace time.Duration) error {
	err := r.client.Stop(ctx, name, grace)
	if errors.Is(err, podman.ErrNotFound) {
		return nil
	}
	return err
}

func (r *runtimeAdapter) Neutralise(ctx context.Context, name string) error {
	_, err := r.client.Neutralise(ctx, []string{name})
	return err
}

// Images lists every image present and every layer that need not be sent.
func (r *runtimeAdapter) Images(ctx context.Context) (images, layers []string, err error) {
	if images, err = r.client.Images(ctx); err != nil {
		return nil, nil, err
	}
	layers, err = r.client.Layers(ctx)
	return images, layers, err
}

func (r *runtimeAdapter) ExportImage(ctx context.Context, id, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = r.client.ExportOCI(ctx, id, w)
	return errors.Join(err, w.Flush(), f.Close())
}

// LoadImage loads an archive that arrived; the image must have the ID that the archive says.
func (r *runtimeAdapter) LoadImage(ctx context.Context, path string) (string, error) {
	want, err := imageID(path)
	if err != nil {
		return "", err
	}
	id, err := r.client.Bring(ctx, path, strings.TrimPrefix(want, "sha256:"))
	if err != nil {
		return "", err
	}
	whole := r.images.keep(path)
	// Podman syncs nothing: a power cut would leave an image that is there and cannot be used.
	err = r.client.Sync(ctx)
	if err == nil && whole {
		r.images.loaded(id)
	}
	return id, err
}

func (r *runtimeAdapter) DamagedImages(ids []string) []string { return r.images.Damaged(ids) }

func (r *runtimeAdapter) RepairImage(ctx context.Context, id string, mine []string) (bool, error) {
	reloaded, err := r.images.Repair(ctx, id, mine)
	return reloaded, errors.Join(err, r.client.Sync(ctx))
}
