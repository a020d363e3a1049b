package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/bindings/pods"
	"github.com/containers/podman/v5/pkg/domain/entities/types"
	"github.com/containers/podman/v5/pkg/specgen"

	"github.com/understudy-ha/understudy/agent/api"
)

// PodDef is a pod without its containers, which say themselves that they are in it.
// Infra is the name of the container that holds its namespaces, the same on every
// node; it is made with the pod. Empty: it has none.
type PodDef struct {
	Name  string          `json:"name"`
	Infra string          `json:"infra,omitempty"`
	Spec  json.RawMessage `json:"spec,omitempty"`
	Looks json.RawMessage `json:"looks"`
	// Kube is the path of the YAML that it is played from, instead of being made of Spec, and
	// Played the hash of its KubeDef and of what its containers came to.
	Kube   string `json:"kube,omitempty"`
	Played string `json:"played,omitempty"`
}

func (d PodDef) hash() string { return hash([]byte(d.Name), []byte(d.Infra), d.Spec, []byte(d.Played)) }

func (c *Client) inspectPod(ctx context.Context, name string) (*define.InspectPodData, error) {
	return call(ctx, c, "inspect pod "+name, func(ctx context.Context) (*define.InspectPodData, error) {
		report, err := pods.Inspect(ctx, name, nil)
		if err != nil {
			return nil, err
		}
		return report.InspectPodData, nil
	})
}

// infraOf is the pod's infra container, nil where it has none.
func (c *Client) infraOf(ctx context.Context, d *define.InspectPodData) (*define.InspectContainerData, error) {
	if d.InfraContainerID == "" {
		return nil, nil
	}
	return c.inspect(ctx, d.InfraContainerID)
}

// ownImage is what Podman builds infra containers from, on each node for itself.
var ownImage = regexp.MustCompile(`^(localhost/podman-pause:|$)`)

// capturePod describes a pod, and what stands against it.
func (c *Client) capturePod(ctx context.Context, w Workload, n *needs, name string) (PodDef, []Problem, error) {
	def := PodDef{Name: name}
	d, err := c.inspectPod(ctx, name)
	if err != nil {
		return def, nil, err
	}
	infra, err := c.infraOf(ctx, d)
	if err != nil {
		return def, nil, err
	}
	if infra != nil {
		def.Infra = infra.Name
	}
	if def.Kube = n.pathOf(name); def.Kube != "" {
		def.Looks, err = podLooks(d)
		return def, ofPod(d.Name, missingFrom(w, d)), err
	}
	s, problems := buildPodSpec(d, infra)
	problems = append(problems, ofPod(d.Name, missingFrom(w, d))...)
	if infra != nil {
		if s != nil && !ownImage.MatchString(infra.ImageName) {
			s.InfraImage = carriedName(infra)
		}
	}
	if s == nil || fatal(problems) {
		return def, problems, nil
	}
	binds := bindsOf(s.Mounts, w.ReplicateBinds)
	problems = append(problems, ofPod(d.Name, c.checkBinds(binds))...)
	n.binds = append(n.binds, binds...)
	if def.Spec, err = json.Marshal(s); err != nil {
		return def, nil, err
	}
	def.Looks, err = podLooks(d)
	return def, problems, err
}

// missingFrom finds containers of the pod that are not the service's: they would not
// be there after a takeover.
func missingFrom(w Workload, d *define.InspectPodData) []Problem {
	var out []Problem
	for _, con := range d.Containers {
		if !slices.Contains(w.Containers, con.Name) {
			out = append(out, Problem{
				What: "its container " + con.Name + " is not one of the service's",
				Next: "name the whole pod: pods=" + d.Name,
			})
		}
	}
	return out
}

// podLooks is what `podman pod inspect` shows, without what is the node's or the moment's.
func podLooks(d *define.InspectPodData) (json.RawMessage, error) {
	var m map[string]any
	if err := copyJSON(&m, d); err != nil {
		return nil, err
	}
	drop(m, []string{"Id", "Created", "State", "CgroupParent", "CgroupPath", "InfraContainerID", "NumContainers", "Containers", "RestartPolicy", "LockNumber", "mounts"})
	prune(m)
	ordered(m["SharedNamespaces"])
	if infra, ok := m["InfraConfig"].(map[string]any); ok {
		ordered(infra["Networks"])
	}
	return json.Marshal(m)
}

func (c *Client) createPod(ctx context.Context, def PodDef) (id string, err error) {
	s, err := decodePodSpec(def.Spec)
	if err != nil {
		return "", fmt.Errorf("pod %s: %w", def.Name, err)
	}
	return c.postPod(ctx, s)
}

func (c *Client) postPod(ctx context.Context, s *specgen.PodSpecGenerator) (id string, err error) {
	made, err := call(ctx, c, "create pod "+s.Name, func(ctx context.Context) (*types.PodCreateReport, error) {
		return pods.CreatePodFromSpec(ctx, &types.PodSpec{PodSpecGen: *s})
	})
	if err != nil {
		return "", err
	}
	return made.Id, nil
}

// removePod removes the pod with its infra container, which may run.
func (c *Client) removePod(ctx context.Context, name string) error {
	err := do(ctx, c, "remove pod "+name, func(ctx context.Context) error {
		force, now := true, uint(0)
		report, err := pods.Remove(ctx, name, &pods.RemoveOptions{Force: &force, Timeout: &now})
		if err == nil && report != nil {
			err = report.Err
		}
		return err
	})
	return ignoreNotFound(err)
}

// members lists the names of a pod's containers, the infra container first and the
// others in the order in which they were made.
func (c *Client) members(ctx context.Context, d *define.InspectPodData) ([]string, error) {
	list := make([]*define.InspectContainerData, 0, len(d.Containers))
	for _, m := range d.Containers {
		con, err := c.inspect(ctx, m.ID)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, con)
	}
	slices.SortStableFunc(list, func(a, b *define.InspectContainerData) int {
		if a.IsInfra != b.IsInfra {
			if a.IsInfra {
				return -1
			}
			return 1
		}
		return a.Created.Compare(b.Created)
	})
	names := make([]string, 0, len(list))
	for _, con := range list {
		names = append(names, con.Name)
	}
	return names, nil
}

// surveyPods looks at every pod before anything is changed.
func (r *realiser) surveyPods(ctx context.Context) error {
	r.podsPresent, r.podsAgain = map[string]bool{}, map[string]bool{}
	for _, def := range r.def.Pods {
		d, err := r.c.inspectPod(ctx, def.Name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		known, ok, err := r.c.record.pod(def.Name)
		if err != nil {
			return err
		}
		ours := ok && (known.ID == "" || known.ID == d.ID)
		same, err := r.samePod(ctx, def, d)
		if err != nil {
			return err
		}
		if same && def.Kube != "" && (!ours || known.Hash != def.hash()) {
			if same, err = r.alikePlayed(ctx, def); err != nil {
				return err
			}
		}
		switch {
		case same:
			if err := r.c.record.setPod(def.Name, entry{ID: d.ID, Hash: def.hash()}); err != nil {
				return err
			}
			r.podsPresent[def.Name] = true
		case !ours:
			return fail(ErrForeign, api.KindRefused, "remove it on this node: `podman pod rm "+def.Name+"`",
				"a pod named %s exists on this node and is not Understudy's", def.Name)
		default:
			if err := r.mayRemovePod(ctx, d); err != nil {
				return err
			}
			r.podsAgain[def.Name] = true
		}
	}
	return nil
}

// samePod says whether the pod looks as it should, its infra container included.
func (r *realiser) samePod(ctx context.Context, def PodDef, d *define.InspectPodData) (bool, error) {
	looks, err := podLooks(d)
	if err != nil || len(lookDifferences(looks, def.Looks)) > 0 {
		return false, err
	}
	infra, err := r.c.infraOf(ctx, d)
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if infra == nil && def.Infra != "" || infra != nil && infra.Name != def.Infra {
		return false, nil
	}
	if def.Kube != "" {
		return r.wholePod(ctx, def)
	}
	return true, nil
}

// mayRemovePod: nothing of the pod runs but its infra container, and all of it is ours.
func (r *realiser) mayRemovePod(ctx context.Context, d *define.InspectPodData) error {
	for _, m := range d.Containers {
		if m.ID == d.InfraContainerID {
			continue
		}
		if s := State(m.State); s.Alive() {
			return fail(ErrRunning, api.KindRefused, "stop the service on this node first",
				"pod %s differs from the active's, and its container %s is %s: not made again", d.Name, m.Name, s)
		}
		if _, ours, err := r.c.record.container(m.Name); err != nil || !ours {
			return errors.Join(err, fail(ErrForeign, api.KindRefused, "remove it from the pod on this node: `podman rm "+m.Name+"`",
				"pod %s differs from the active's, and its container %s is not Understudy's", d.Name, m.Name))
		}
	}
	return nil
}

// dropPod removes a pod of ours with its containers, which do not run.
func (r *realiser) dropPod(ctx context.Context, def PodDef) error {
	for _, con := range r.def.Containers {
		if con.Pod == def.Name && !con.Infra {
			if err := r.removeContainer(ctx, con.Name); err != nil {
				return err
			}
		}
	}
	if err := r.c.record.setPod(def.Name, entry{}); err != nil {
		return err
	}
	if err := r.c.removePod(ctx, def.Name); err != nil {
		return err
	}
	delete(r.podsPresent, def.Name)
	r.did("pod %s: removed, to be made again", def.Name)
	return nil
}

func (r *realiser) pods(ctx context.Context) error {
	for _, def := range r.def.Pods {
		if r.podsPresent[def.Name] || def.Kube != "" {
			continue
		}
		if r.podsAgain[def.Name] {
			if err := r.dropPod(ctx, def); err != nil {
				return err
			}
		}
		if err := r.c.record.setPod(def.Name, entry{Hash: def.hash()}); err != nil {
			return err
		}
		id, err := r.c.createPod(ctx, def)
		if err != nil {
			return err
		}
		if err := r.c.record.setPod(def.Name, entry{ID: id, Hash: def.hash()}); err != nil {
			return err
		}
		r.did("pod %s: created", def.Name)
	}
	return nil
}

// podOf names the pod that the container is in, "" for none.
func (c *Client) podOf(ctx context.Context, d *define.InspectContainerData) (string, error) {
	if d.Pod == "" {
		return "", nil
	}
	pod, err := c.inspectPod(ctx, d.Pod)
	if err != nil {
		return "", err
	}
	return pod.Name, nil
}

// withoutPod takes what belongs to one pod's identity out of a description of a
// container: the namespaces that it joins are those of its pod, whatever ID that has.
func withoutPod(m map[string]any) {
	delete(m, "Dependencies")
	host, _ := m["HostConfig"].(map[string]any)
	for k, v := range host {
		if s, ok := v.(string); ok && strings.HasPrefix(s, "container:") {
			host[k] = "container"
		}
	}
	delete(host, "CgroupParent")
}

// withoutImage: what Podman builds an infra container from has another ID on each node.
func withoutImage(m map[string]any) {
	delete(m, "Image")
	withoutName(m)
}
