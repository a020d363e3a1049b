package podman

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containers/podman/v5/libpod/define"
	"sigs.k8s.io/yaml"
)

// KubeDef is Kubernetes YAML and the pods that `podman kube play` makes of it. On
// another node it is played again there, without starting anything. What flags it was
// played with does not show in Podman; these can be told from what came of it.
type KubeDef struct {
	Path      string   `json:"path"` // by which the service names it; the file need not be on every node
	YAML      []byte   `json:"yaml"`
	Pods      []string `json:"pods"`
	Networks  []string `json:"networks,omitempty"`
	Publish   []string `json:"publish,omitempty"`
	LogDriver string   `json:"log_driver,omitempty"`
}

// hashWith is of the YAML and of what the pod's containers came to: of secrets, say, which
// are others when it is played again.
func (d KubeDef) hashWith(pod string, containers []ContainerDef) string {
	raw, _ := json.Marshal(d) // strings and bytes cannot fail
	parts := [][]byte{raw}
	for _, con := range containers {
		if con.Pod == pod && !con.Infra {
			parts = append(parts, []byte(con.Name), []byte(bareID(con.ImageID)), con.Looks)
		}
	}
	return hash(parts...)
}

// kubeSource is YAML that a workload names, as this node has it.
type kubeSource struct {
	path    string
	yaml    []byte
	docs    []map[string]any
	pods    []string
	changed bool // the file has another content since the pods were made of it
	stale   bool // the pods were made anew, of nobody knows what
}

// kubeSource finds the YAML that the pods here were made of: the file, or what the
// record keeps of it, which is right while the pods are the ones that were recorded.
// Nil: this node has neither.
func (c *Client) kubeSource(ctx context.Context, path string) (*kubeSource, error) {
	file, err := os.ReadFile(filepath.Join(c.opts.Root, path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	missing := err != nil
	known, ok, err := c.record.kube(path)
	if err != nil {
		return nil, err
	}
	same := false
	if ok {
		if same, err = c.samePods(ctx, known.Pods); err != nil {
			return nil, err
		}
		ok = same || missing
	}
	switch {
	case ok:
		s, err := readKube(path, known.YAML)
		if s != nil {
			s.changed, s.stale = !missing && !bytes.Equal(file, known.YAML), !same
		}
		return s, err
	case missing:
		return nil, nil
	}
	return readKube(path, file)
}

// samePods says whether the pods are the very ones of these IDs.
func (c *Client) samePods(ctx context.Context, ids map[string]string) (bool, error) {
	for name, id := range ids {
		d, err := c.inspectPod(ctx, name)
		if errors.Is(err, ErrNotFound) || err == nil && d.ID != id {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// nextDocument separates the documents of YAML.
var nextDocument = regexp.MustCompile(`(?m)^---(\s|$)`)

func readKube(path string, raw []byte) (*kubeSource, error) {
	s := &kubeSource{path: path, yaml: raw}
	for _, text := range nextDocument.Split(string(raw), -1) {
		var doc map[string]any
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			return nil, fmt.Errorf("%s cannot be read: %w", path, err)
		}
		if len(doc) == 0 {
			continue
		}
		s.docs = append(s.docs, doc)
		name := textAt(doc, "metadata", "name")
		switch kind := textAt(doc, "kind"); kind {
		case "Pod":
			s.pods = append(s.pods, name)
		case "Deployment", "DaemonSet":
			s.pods = append(s.pods, name+"-pod")
		}
	}
	return s, nil
}

// at is what is at a path of a document, nil where there is nothing.
func at(doc any, path ...string) any {
	for _, key := range path {
		m, _ := doc.(map[string]any)
		doc = m[key]
	}
	return doc
}

func textAt(doc any, path ...string) string {
	s, _ := at(doc, path...).(string)
	return s
}

// podSpecs are the specifications of the pods in the documents, each with the name that Podman gives the pod.
func (s *kubeSource) podSpecs() iter.Seq2[string, map[string]any] {
	return func(yield func(string, map[string]any) bool) {
		for _, doc := range s.docs {
			path, name := []string{"spec", "template", "spec"}, textAt(doc, "metadata", "name")
			if textAt(doc, "kind") == "Pod" {
				path = path[:1]
			} else {
				name += "-pod"
			}
			if spec, ok := at(doc, path...).(map[string]any); ok && !yield(name, spec) {
				return
			}
		}
	}
}

// check says what of the YAML cannot be carried.
func (s *kubeSource) check() []Problem {
	var out []Problem
	add := func(what, next string) { out = append(out, Problem{What: s.path + ": " + what, Next: next}) }
	for _, doc := range s.docs {
		if kind := textAt(doc, "kind"); kind == "Job" || kind == "CronJob" {
			add("a "+kind+" ends by itself and is no service", "use a Pod or a Deployment")
		}
	}
	for _, spec := range s.podSpecs() {
		if list, _ := at(spec, "initContainers").([]any); len(list) > 0 {
			add("an init container ends before the service has started", "do its work in the image, or in a container that stays")
		}
	}
	if len(s.pods) == 0 {
		add("it describes no pod", "name a file with a Pod or a Deployment")
	}
	if s.stale {
		add("its pods were made anew, and the file is not on this node", "put it there")
	}
	if s.changed {
		out = append(out, Problem{
			What: s.path + " was changed after its pods were made: they, and the standby's, are as it was before",
			Next: "play it again, with the service in maintenance: podman kube play --replace --start=false " + s.path, Warning: true,
		})
	}
	return out
}

// secrets are the names of those that the YAML refers to and does not define.
func (s *kubeSource) secrets() []string {
	names := map[string]bool{}
	for _, spec := range s.podSpecs() {
		walkMaps(spec, func(key string, v any) {
			switch key {
			case "secretName":
				if name, ok := v.(string); ok {
					names[name] = true
				}
			case "secretKeyRef", "secretRef", "secret":
				if name := textAt(v, "name"); name != "" {
					names[name] = true
				}
			}
		})
	}
	for _, doc := range s.docs {
		if textAt(doc, "kind") == "Secret" {
			delete(names, textAt(doc, "metadata", "name"))
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func walkMaps(v any, f func(key string, v any)) {
	switch v := v.(type) {
	case map[string]any:
		for k, sub := range v {
			f(k, sub)
			walkMaps(sub, f)
		}
	case []any:
		for _, sub := range v {
			walkMaps(sub, f)
		}
	}
}

// local is the YAML in such a form that Podman pulls nothing: the images that it names
// are here, and are the active's. Those that it names by digest go by the ID that images has for the container.
func (s *kubeSource) local(images map[string]string) ([]byte, error) {
	for pod, spec := range s.podSpecs() {
		list, _ := at(spec, "containers").([]any)
		for _, con := range list {
			m, ok := con.(map[string]any)
			if !ok {
				continue
			}
			m["imagePullPolicy"] = "Never"
			if id := images[pod+"-"+textAt(m, "name")]; id != "" && byDigest(textAt(m, "image")) {
				m["image"] = id
			}
		}
	}
	var out bytes.Buffer
	for _, doc := range s.docs {
		raw, err := yaml.Marshal(doc)
		if err != nil {
			return nil, err
		}
		out.WriteString("---\n")
		out.Write(raw)
	}
	return out.Bytes(), nil
}

// kubeNetwork is the network of pods that were played without naming one.
const kubeNetwork = "podman-default-kube-network"

// flags finds out with what flags the pod was played, from its infra container and
// from one of its others.
func (s *kubeSource) flags(def *KubeDef, infra, con *define.InspectContainerData) {
	host := false
	for _, spec := range s.podSpecs() {
		host = host || spec["hostNetwork"] == true
	}
	networks := networksOf(infra)
	switch mode := infra.HostConfig.NetworkMode; {
	case mode == "host" && !host, mode == "none":
		def.Networks = []string{mode}
	case mode == "bridge" && !slices.Equal(networks, []string{kubeNetwork}):
		def.Networks = networks
	}
	bindings := []string{}
	for inside, list := range infra.HostConfig.PortBindings {
		for _, b := range list {
			bindings = append(bindings, b.HostIP+":"+b.HostPort+":"+inside)
		}
	}
	slices.Sort(bindings)
	if !slices.Equal(bindings, s.hostPorts()) {
		def.Publish = bindings
	}
	if con != nil && con.HostConfig.LogConfig != nil {
		def.LogDriver = con.HostConfig.LogConfig.Type
	}
}

// hostPorts are those that the YAML itself publishes, as flags shows those there are.
func (s *kubeSource) hostPorts() []string {
	out := []string{}
	number := func(v any) string {
		f, _ := v.(float64)
		return strconv.Itoa(int(f))
	}
	for _, spec := range s.podSpecs() {
		containers, _ := at(spec, "containers").([]any)
		for _, con := range containers {
			ports, _ := at(con, "ports").([]any)
			for _, p := range ports {
				if at(p, "hostPort") == nil {
					continue
				}
				ip, protocol := textAt(p, "hostIP"), strings.ToLower(textAt(p, "protocol"))
				if ip == "" {
					ip = "0.0.0.0"
				}
				if protocol == "" {
					protocol = "tcp"
				}
				out = append(out, ip+":"+number(at(p, "hostPort"))+":"+number(at(p, "containerPort"))+"/"+protocol)
			}
		}
	}
	slices.Sort(out)
	return out
}

// playedFrom is the YAML that the pod was played from, "" for none. Where the workload
// does not say it (its units are another node's), the record does.
func (c *Client) playedFrom(ctx context.Context, n *needs, pod string) (string, error) {
	if path := n.pathOf(pod); path != "" {
		return path, nil
	}
	path, err := c.record.kubeOf(pod)
	if err != nil || path == "" {
		return "", err
	}
	s, err := c.kubeSource(ctx, path)
	if err != nil || s == nil {
		return "", err
	}
	n.sources = append(n.sources, s)
	return path, nil
}

// captureKube describes the YAML that the workload names, and what stands against it.
func (c *Client) captureKube(ctx context.Context, n *needs) (defs []KubeDef, problems []Problem, err error) {
	for _, s := range n.sources {
		problems = append(problems, s.check()...)
		def := KubeDef{Path: s.path, YAML: s.yaml, Pods: s.pods}
		for i, name := range s.pods {
			if i > 0 {
				break // flags are the same for all
			}
			pod, err := c.inspectPod(ctx, name)
			if err != nil {
				return nil, nil, err
			}
			infra, err := c.infraOf(ctx, pod)
			if err != nil || infra == nil {
				return nil, nil, err
			}
			var con *define.InspectContainerData
			for _, m := range pod.Containers {
				if m.ID != infra.ID && con == nil {
					if con, err = c.inspect(ctx, m.ID); err != nil {
						return nil, nil, err
					}
				}
			}
			s.flags(&def, infra, con)
		}
		found, err := c.kubeSecrets(ctx, n, s)
		if err != nil {
			return nil, nil, err
		}
		problems = append(problems, found...)
		defs = append(defs, def)
	}
	return defs, problems, nil
}

func (c *Client) kubeSecrets(ctx context.Context, n *needs, s *kubeSource) ([]Problem, error) {
	var problems []Problem
	for _, name := range s.secrets() {
		info, err := c.inspectSecret(ctx, name)
		if errors.Is(err, ErrNotFound) {
			continue // it is optional: its pods could be made without it
		}
		if err != nil {
			return nil, err
		}
		if info.Spec.Driver.Name != fileDriver {
			problems = append(problems, Problem{
				What: fmt.Sprintf("%s: its secret %s is kept by the driver %s, whose content is not carried", s.path, name, info.Spec.Driver.Name),
				Next: "make it with the driver file",
			})
			continue
		}
		def, err := secretDef(info)
		if err != nil {
			return nil, err
		}
		n.secrets[name] = def
	}
	return problems, nil
}

// checkPlayed looks at a container that kube play made, by what it came to.
func checkPlayed(d *define.InspectContainerData) []Problem {
	var out []Problem
	if ns := d.HostConfig.UsernsMode; ns != "" && ns != "host" {
		out = append(out, Problem{What: "it has the user namespace " + ns + ": the range of IDs belongs to the node", Next: "play it with --userns host"})
	}
	if len(d.HostConfig.Devices) > 0 && !d.HostConfig.Privileged {
		out = append(out, Problem{What: "it has devices of this node", Next: "make it without them"})
	}
	return out
}

// playedBinds are the directories of the node that it mounts (hostPath).
func playedBinds(d *define.InspectContainerData, replicate bool) []bind {
	var out []bind
	for _, m := range d.Mounts {
		var options []string
		if !m.RW {
			options = append(options, "ro")
		}
		if m.Type == define.TypeBind && !carriedBind(m.Source, options) {
			out = append(out, bind{path: m.Source, target: m.Destination, replicate: replicate})
		}
	}
	return out
}
