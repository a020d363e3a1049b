package podman

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/containers/podman/v5/libpod/define"
)

// What of an inspection is the node's or the moment's, and so not part of how a
// container looks. Everything else is, also what this version does not know.
var (
	notLooks = []string{
		"Id", "Created", "State", "ResolvConfPath", "HostnamePath", "HostsPath", "StaticDir", "OCIConfigPath",
		"ConmonPidFile", "PidFile", "RestartCount", "MountLabel", "ProcessLabel", "AppArmorProfile", "ExecIDs",
		"GraphDriver", "SizeRw", "SizeRootFs", "lockNumber",
		"ImageDigest", // of the manifest, which differs with the compression of layers; Image is the configuration's
		"Driver",      // of the node's storage
		"Pod",
		"BoundingCaps", "EffectiveCaps", // follow from CapAdd and CapDrop and the node's defaults
	}
	notHostLooks = []string{"RestartPolicy", "ContainerIDFile", "CgroupManager", "Runtime", "Ulimits"}
)

// looksOf is the stable part of an inspection, as JSON with sorted keys.
func looksOf(d *define.InspectContainerData) (json.RawMessage, error) {
	raw, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	drop(m, notLooks)
	delete(m, "OCIRuntime")
	if host, ok := m["HostConfig"].(map[string]any); ok {
		drop(host, notHostLooks)
		if l, ok := host["LogConfig"].(map[string]any); ok {
			drop(l, []string{"Path", "Size"})
		}
		host["Ulimits"] = chosenUlimits(d)
		plainBinds(host, d)
	}
	if cfg, ok := m["Config"].(map[string]any); ok {
		asked := askedFor(d.Config.CreateCommand)
		if !asked.hostname {
			delete(cfg, "Hostname")
		}
		cfg["Env"] = asked.env(cfg["Env"])
		cfg["Secrets"] = plainSecrets(cfg["Secrets"])
		dropRunning(cfg["Annotations"])
		if host, ok := m["HostConfig"].(map[string]any); ok {
			dropRunning(host["Annotations"])
		}
	}
	if d.Pod != "" {
		withoutPod(m)
	}
	if byDigest(d.ImageName) {
		withoutName(m)
	}
	if d.IsInfra && ownImage.MatchString(d.ImageName) {
		withoutImage(m)
	}
	m["Mounts"] = plainMounts(m["Mounts"])
	m["NetworkSettings"] = map[string]any{"Networks": plainNetworks(d), "Ports": portsOf(d)}
	// Through JSON again, so that what was put in above is pruned as well.
	if raw, err = json.Marshal(m); err != nil {
		return nil, err
	}
	var plain map[string]any
	if err := json.Unmarshal(raw, &plain); err != nil {
		return nil, err
	}
	prune(plain)
	return json.Marshal(plain)
}

// prune removes what says nothing: whether Podman shows null, [] or no key at all
// depends on whether the container was started yet.
func prune(m map[string]any) {
	for k, v := range m {
		if sub, ok := v.(map[string]any); ok {
			prune(sub)
		}
		if empty(v) {
			delete(m, k)
		}
	}
}

func drop(m map[string]any, keys []string) {
	for _, k := range keys {
		delete(m, k)
	}
}

// chosenUlimits are the limits that the create command asks for: others are the node's.
func chosenUlimits(d *define.InspectContainerData) any {
	if p, _ := parseCommand(d.Config.CreateCommand); p == nil || !p.changed["ulimit"] {
		return nil
	}
	limits := slices.Clone(d.HostConfig.Ulimits)
	sort.Slice(limits, func(i, j int) bool { return limits[i].Name < limits[j].Name })
	return limits
}

// plainBinds drops the order and keeps the names of binds: "volume:/path:options". Of
// directories of the node Podman forgets that it gave them a label (z, Z).
func plainBinds(host map[string]any, d *define.InspectContainerData) {
	binds := slices.Clone(d.HostConfig.Binds)
	for i, b := range binds {
		if at := strings.LastIndexByte(b, ':'); at > 0 && b[0] == '/' {
			options := slices.DeleteFunc(strings.Split(b[at+1:], ","), isLabel)
			binds[i] = b[:at+1] + strings.Join(options, ",")
		}
	}
	slices.Sort(binds)
	host["Binds"] = binds
}

func isLabel(option string) bool { return option == "z" || option == "Z" }

// asked is what of a container's identity the create command chose; the rest is
// made up by Podman from the ID or the node's name, some of it only at the start.
type asked struct {
	hostname bool
	vars     map[string]bool
	secrets  map[string]bool // a container that was set up shows those of its environment, masked, as variables
}

func askedFor(command []string) asked {
	a := asked{vars: map[string]bool{}, secrets: map[string]bool{}}
	p, _ := parseCommand(command)
	if p == nil {
		return a
	}
	a.hostname = p.options.Hostname != ""
	a.vars["HOSTNAME"] = a.hostname
	for _, e := range p.plain.env {
		name, _, _ := strings.Cut(e, "=")
		a.vars[name] = true
	}
	for _, s := range p.options.Secrets {
		name, _, _ := strings.Cut(s, ",")
		a.secrets[strings.TrimPrefix(name, "source=")] = true
	}
	return a
}

// env drops the order, and the variables that Podman makes up.
func (a asked) env(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		s := fmt.Sprint(e)
		name, _, _ := strings.Cut(s, "=")
		if (name == "HOSTNAME" || name == "HOME" || name == "TERM") && !a.vars[name] || a.secrets[name] {
			continue
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// dropRunning removes annotations that a container has only once it was started.
func dropRunning(v any) {
	m, _ := v.(map[string]any)
	for k := range m {
		// A sandbox's ID is that of the pod's infra container.
		if k == "io.container.manager" || k == "io.kubernetes.cri-o.SandboxID" || k == "org.opencontainers.image.stopSignal" || strings.HasPrefix(k, "org.systemd.property.") {
			delete(m, k)
		}
	}
}

// plainMounts orders mounts by destination and drops where a volume lies on the node.
func plainMounts(v any) []map[string]any {
	list, _ := v.([]any)
	out := make([]map[string]any, 0, len(list))
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			if m["Name"] != nil {
				delete(m, "Source")
			} else if mode, _ := m["Mode"].(string); isLabel(mode) {
				delete(m, "Mode")
			}
			out = append(out, m)
		}
	}
	sort.Slice(out, func(i, j int) bool {
		return fmt.Sprint(out[i]["Destination"]) < fmt.Sprint(out[j]["Destination"])
	})
	return out
}

// plainNetworks are the networks, each with the aliases that somebody chose:
// addresses are the moment's unless the create command fixes them.
func plainNetworks(d *define.InspectContainerData) []string {
	var out []string
	if sharesNetwork(d) {
		return nil
	}
	for _, name := range networksOf(d) {
		out = append(out, strings.Join(append([]string{name}, aliases(d, name)...), " "))
	}
	return out
}

// withoutName: what Podman calls the image is not to be the same on both nodes.
func withoutName(m map[string]any) {
	delete(m, "ImageName")
	if cfg, ok := m["Config"].(map[string]any); ok {
		delete(cfg, "Image")
	}
}

// nameless are looks without their image's name.
func nameless(looks json.RawMessage) (json.RawMessage, error) {
	var m map[string]any
	if err := json.Unmarshal(looks, &m); err != nil {
		return nil, err
	}
	withoutName(m)
	return json.Marshal(m)
}

// lookDifferences compares two looks and names what differs, at most a few levels
// deep: "HostConfig.Memory: 0 here, 67108864 on the active". A name of the image that the active's have not is not compared.
func lookDifferences(here, there json.RawMessage) []string {
	var a, b map[string]any
	if json.Unmarshal(here, &a) != nil || json.Unmarshal(there, &b) != nil {
		return []string{"the descriptions cannot be read"}
	}
	if b["ImageName"] == nil {
		withoutName(a)
	}
	var out []string
	walk("", a, b, &out)
	return out
}

func walk(path string, a, b any, out *[]string) {
	am, aok := a.(map[string]any)
	bm, bok := b.(map[string]any)
	if !aok || !bok {
		if !reflect.DeepEqual(a, b) && !(empty(a) && empty(b)) {
			ja, _ := json.Marshal(a)
			jb, _ := json.Marshal(b)
			*out = append(*out, fmt.Sprintf("%s: %s here, %s on the active", path, ja, jb))
		}
		return
	}
	keys := map[string]bool{}
	for k := range am {
		keys[k] = true
	}
	for k := range bm {
		keys[k] = true
	}
	sorted := make([]string, 0, len(keys))
	for k := range keys {
		sorted = append(sorted, k)
	}
	slices.Sort(sorted)
	for _, k := range sorted {
		walk(strings.TrimPrefix(path+"."+k, "."), am[k], bm[k], out)
	}
}

// empty: absent, null, "", [], {} and 0 say the same.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case float64:
		return v == 0
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// ordered sorts what Podman lists in no particular order.
func ordered(v any) {
	list, _ := v.([]any)
	slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
}
