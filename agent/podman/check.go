package podman

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/specgen"
	nettypes "go.podman.io/common/libnetwork/types"

	"github.com/understudy-ha/understudy/agent/api"
)

// Problem is something about a container, or what it needs, that cannot be
// carried to another node, or that would start it behind Pacemaker's back.
type Problem struct {
	Container string `json:"container,omitempty"`
	Pod       string `json:"pod,omitempty"`
	What      string `json:"what"`
	Next      string `json:"next,omitempty"`    // what to do instead
	Warning   bool   `json:"warning,omitempty"` // carried all the same
}

// String is one line for the operator.
func (p Problem) String() string {
	s := p.What
	switch {
	case p.Container != "":
		s = "container " + p.Container + ": " + s
	case p.Pod != "":
		s = "pod " + p.Pod + ": " + s
	}
	if p.Next != "" {
		s += "; " + p.Next
	}
	return s
}

func named(container string, problems []Problem) []Problem {
	for i := range problems {
		problems[i].Container = container
	}
	return problems
}

func fatal(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning })
}

// asError joins the problems that are more than warnings.
func asError(problems []Problem) error {
	var errs []error
	for _, p := range problems {
		if !p.Warning {
			what := Problem{Container: p.Container, Pod: p.Pod, What: p.What}.String()
			errs = append(errs, api.Errorf(api.KindConfigured, p.Next, "%s", what))
		}
	}
	return errors.Join(errs...)
}

// Check looks for whatever stands against keeping the workload ready on another
// node, all of it at once. The error is Podman's own; a container that does not
// exist is a problem, not an error.
func (c *Client) Check(ctx context.Context, w Workload) ([]Problem, error) {
	var problems []Problem
	w, err := c.withYAML(w)
	if err != nil {
		return nil, err
	}
	n, err := c.newNeeds(ctx, w)
	if err != nil {
		return nil, err
	}
	units, _, err := c.quadlets(w.Quadlet)
	if err != nil {
		return nil, err
	}
	var own []string
	for _, u := range units {
		own = append(own, u.service)
	}
	for _, name := range w.Containers {
		d, err := c.inspect(ctx, name)
		if errors.Is(err, ErrNotFound) {
			if slices.ContainsFunc(units, func(u unit) bool { return u.name() == name }) {
				continue // it is made at the start; see CheckUnits
			}
			problems = append(problems, Problem{
				Container: name, What: "there is no such container on this node",
				Next: "make it with `podman create --name " + name + " …`",
			})
			continue
		}
		if err != nil {
			return problems, err
		}
		if slices.Contains(own, d.Config.Labels[systemdLabel]) {
			continue // systemd's until the start; see CheckUnits
		}
		_, found, err := c.captureContainer(ctx, w, n, d)
		if err != nil {
			return problems, err
		}
		problems = append(append(problems, found...), c.checkRestart(ctx, d)...)
	}
	found, err := c.capturePods(ctx, w, n, &Definition{})
	if err != nil {
		return problems, err
	}
	problems = append(problems, found...)
	problems = append(problems, overlapping(bindDefs(n.binds))...)
	return append(problems, bootStarters(c.opts.Root, w.Containers, own...)...), nil
}

// checkRestart: Podman itself starts a container with a restart policy again
// when it dies, and podman-restart.service at boot.
func (c *Client) checkRestart(ctx context.Context, d *define.InspectContainerData) []Problem {
	policy := restarts(d)
	if policy == define.RestartPolicyNo {
		return nil
	}
	p := Problem{
		Container: d.Name, Warning: true,
		What: "its restart policy " + policy + " starts it behind Pacemaker's back",
		Next: "Understudy sets it to no when the service starts; or run `podman update --restart=no " + d.Name + "`",
	}
	if can, err := c.versionAtLeast(ctx, updateMajor, updateMinor); err != nil || !can {
		p.Warning, p.Next = false, "make the container again with --restart=no"
	}
	return []Problem{p}
}

// checkNeeds looks at the volumes, bind mounts, secrets and networks of the container, and
// adds them to n. The specification is nil where it could not be made.
func (c *Client) checkNeeds(ctx context.Context, w Workload, n *needs, s *specgen.SpecGenerator, d *define.InspectContainerData) ([]Problem, error) {
	var problems []Problem
	con := fromInspect(d)
	n.add(con)
	var binds []bind
	switch {
	case s != nil:
		binds = bindsOf(s.Mounts, w.ReplicateBinds)
	case len(d.Config.CreateCommand) == 0 && !d.IsInfra:
		binds = playedBinds(d, w.ReplicateBinds)
	}
	for _, name := range con.Volumes() {
		v, err := c.inspectVolume(ctx, name)
		if errors.Is(err, ErrNotFound) {
			problems = append(problems, Problem{What: "its volume " + name + " does not exist", Next: "make it with `podman volume create`"})
			continue
		}
		if err != nil {
			return nil, err
		}
		def := volumeDef(v)
		asked := slices.Contains(w.Volumes, name)
		problems = append(problems, def.check(con.mountedAt(name), asked)...)
		if def.place() == onBind {
			binds = append(binds, bind{path: def.directory(""), volume: name, replicate: asked || w.ReplicateBinds && len(w.Volumes) == 0})
		}
	}
	if s != nil {
		found, err := c.checkSecrets(ctx, n, s, d)
		if err != nil {
			return nil, err
		}
		problems = append(problems, found...)
	}
	problems = append(problems, c.checkBinds(binds)...)
	n.binds = append(n.binds, binds...)
	for _, name := range con.Networks {
		net, err := c.inspectNetwork(ctx, name)
		if err != nil {
			return nil, err
		}
		problems = append(problems, checkNetwork(net)...)
	}
	return named(con.Name, problems), nil
}

var anonymousName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check looks at what only the create command tells.
func (p *parsed) check(d *define.InspectContainerData) []Problem {
	var out []Problem
	add := func(what, next string) { out = append(out, Problem{What: what, Next: next}) }
	for _, e := range p.plain.env {
		if name, _, ok := strings.Cut(e, "="); !ok {
			add("it was made with --env "+name+", which takes the value from this node's environment", "give the value: --env "+name+"=value")
		}
	}
	for _, l := range p.options.LogOptions {
		if strings.HasPrefix(strings.ToLower(l), "path=") {
			add("its --log-opt "+l+" names a file on this node", "leave the path to Podman")
		}
	}
	for _, o := range p.options.SecurityOpt {
		key, val, _ := strings.Cut(strings.Replace(o, ":", "=", 1), "=")
		if key == "seccomp" && val != "unconfined" {
			add("its seccomp profile "+val+" is a file on this node", "use the default profile")
		}
	}
	if strings.HasPrefix(p.options.LogDriver, "passthrough") {
		add("its --log-driver "+p.options.LogDriver+" writes to the process that started it", "use --log-driver journald or k8s-file")
	}
	if p.options.CgroupsMode == "split" {
		add("its --cgroups=split needs the systemd unit that started it", nextPlain)
	}
	if strings.HasPrefix(p.options.HealthLogDestination, "/") {
		add("its --health-log-destination is a directory of this node", nextPlain)
	}
	if p.options.HealthCmd == "" && (p.changed["health-interval"] || p.changed["health-retries"] || p.changed["health-timeout"] || p.changed["health-start-period"]) {
		add("its --health-… flags without --health-cmd mean different things to different versions of Podman", "add --health-cmd")
	}
	if p.options.PublishAll {
		add("it was made with --publish-all: its host ports would be others on the other node", "publish fixed ports: --publish HOSTPORT:PORT")
	}
	for _, g := range p.options.GroupAdd {
		if g == "keep-groups" {
			add("its --group-add keep-groups takes the groups of the user who made it", "name the groups")
		}
	}
	out = append(out, p.namespaces()...)
	return append(out, checkManaged(d)...)
}

// namespaces that are shared with something that may not be there on the other node.
func (p *parsed) namespaces() []Problem {
	var out []Problem
	for flag, val := range map[string]string{"pid": p.options.PID, "ipc": p.options.IPC, "uts": p.options.UTS, "cgroupns": p.options.CgroupNS} {
		if strings.HasPrefix(val, "container:") || strings.HasPrefix(val, "ns:") {
			out = append(out, Problem{What: "it was made with --" + flag + " " + val + ": a namespace of something else", Next: nextPlain})
		}
	}
	if ns := p.options.UserNS; ns != "" && ns != "host" {
		out = append(out, Problem{What: "it was made with --userns " + ns + ": the range of IDs belongs to the node", Next: nextUsers})
	}
	slices.SortFunc(out, func(a, b Problem) int { return strings.Compare(a.What, b.What) })
	return out
}

// systemdLabel is set by quadlet and by `podman generate systemd`.
const systemdLabel = "PODMAN_SYSTEMD_UNIT"

// checkManaged looks for others who think the container is theirs.
func checkManaged(d *define.InspectContainerData) []Problem {
	var out []Problem
	if unit := d.Config.Labels[systemdLabel]; unit != "" {
		out = append(out, Problem{
			What: "systemd's " + unit + " starts and stops it",
			Next: "name its quadlet file in quadlet= instead, or remove the unit and make the container with `podman create`: Pacemaker is in charge now",
		})
	}
	if d.HostConfig.AutoRemove {
		out = append(out, Problem{What: "it removes itself when it stops", Next: "make it without --rm"})
	}
	return out
}

// checkSpec looks at what Podman's parsers made of mounts, ports and namespaces.
func checkSpec(s *specgen.SpecGenerator, d *define.InspectContainerData) []Problem {
	var out []Problem
	out = append(out, checkMounts(s.OverlayVolumes, s.ImageVolumes)...)
	if len(s.ArtifactVolumes) > 0 {
		out = append(out, Problem{What: "it mounts an artifact, which is not carried yet", Next: "use a volume"})
	}
	out = append(out, checkPorts(s.PortMappings)...)
	if ns := s.NetNS; ns.IsContainer() || ns.IsPod() || ns.IsPath() {
		out = append(out, Problem{What: fmt.Sprintf("it is in the network namespace of something else (%s %s)", ns.NSMode, ns.Value), Next: "give it a network of its own"})
	}
	if d.HostConfig.NetworkMode == "slirp4netns" || d.HostConfig.NetworkMode == "pasta" {
		out = append(out, Problem{What: "its network mode " + d.HostConfig.NetworkMode + " is not carried yet", Next: "use a bridge network or --network host"})
	}
	return out
}

func checkMounts(overlays []*specgen.OverlayVolume, images []*specgen.ImageVolume) []Problem {
	var out []Problem
	for _, m := range overlays {
		out = append(out, Problem{What: "it mounts " + m.Source + " of this node as an overlay", Next: "put the files into a volume, or into the image"})
	}
	for _, v := range images {
		out = append(out, Problem{What: "it mounts the image " + v.Source + ", which is not carried yet", Next: "use a volume"})
	}
	return out
}

// checkPorts wants every port published where it is also published on another node.
func checkPorts(ports []nettypes.PortMapping) []Problem {
	var out []Problem
	for _, port := range ports {
		if ip := net.ParseIP(port.HostIP); ip != nil && !ip.IsUnspecified() && !ip.IsLoopback() {
			out = append(out, Problem{
				What:    fmt.Sprintf("it publishes port %d on the address %s only: where that is not, it cannot be initialised ahead of a takeover", port.ContainerPort, port.HostIP),
				Next:    "publish on all addresses, or set net.ipv4.ip_nonlocal_bind=1 (net.ipv6.ip_nonlocal_bind=1) on every node",
				Warning: true,
			})
		}
		if port.HostPort == 0 {
			out = append(out, Problem{
				What: fmt.Sprintf("it publishes port %d on a host port that Podman chose: another on the other node", port.ContainerPort),
				Next: fmt.Sprintf("publish a fixed port: --publish HOSTPORT:%d", port.ContainerPort),
			})
		}
	}
	return out
}
