package ocf

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// parameter is one parameter of the resource: how it is described and how it is read.
type parameter struct {
	name        string
	short       string
	long        string // meaning, without default and example
	def         string
	example     string
	workload    bool   // names what the service is made of; at least one such parameter is set
	uniqueGroup string // no two resources may have the same value
	reloadable  bool   // takes effect by reload-agent, without a restart

	// shape: without it there is no service, on any node. The others are
	// tunables: a wrong value has a default to fall back on.
	shape bool
	read  func(spec *api.Spec, value string) error // value is never empty; nil: not part of the Spec
}

// apply reads a value, or the default for want of one, into the spec.
func (p parameter) apply(spec *api.Spec, value string) *api.Error {
	if p.read == nil {
		return nil
	}
	next := fmt.Sprintf("write for example %s=%s", p.name, p.example)
	if value == "" {
		value = p.def
	}
	if value == "" {
		return nil
	}
	err := p.read(spec, value)
	if err == nil {
		return nil
	}
	kind := api.KindConfigured
	if !p.shape {
		kind = api.KindArgs
		_ = p.read(spec, p.def) // defaults are right: a test reads them all
	}
	return api.Errorf(kind, next, "parameter %s: %w", p.name, err)
}

// together finds what is wrong with values that are right one by one.
func together(spec api.Spec) []*api.Error {
	if err := hooks(spec); err != nil {
		return []*api.Error{err}
	}
	if spec.MaxRPO < spec.Interval {
		return []*api.Error{api.Errorf(api.KindArgs, "make interval shorter or max-rpo longer",
			"parameter max-rpo (%s) is shorter than interval (%s): a replica would be too old between captures", spec.MaxRPO, spec.Interval)}
	}
	return nil
}

// hooks checks that there are some where they are asked for, and only then, and
// that they run in the service's own containers.
func hooks(spec api.Spec) *api.Error {
	if spec.Consistency != api.ConsistencyHooks {
		if len(spec.BeforeCapture)+len(spec.AfterCapture) > 0 {
			return api.Errorf(api.KindArgs, "write consistency=hooks, or leave them out", "before-capture and after-capture do nothing with consistency=%s", spec.Consistency)
		}
		return nil
	}
	if len(spec.BeforeCapture) == 0 {
		return api.Errorf(api.KindArgs, "name the command that makes the data ready, or write consistency=frozen", "parameter before-capture is missing for consistency=hooks")
	}
	for _, h := range [][]string{spec.BeforeCapture, spec.AfterCapture} {
		if len(h) > 0 && !spec.Indirect() && !slices.Contains(spec.Containers, h[0]) {
			return api.Errorf(api.KindArgs, "begin it with one of "+strings.Join(spec.Containers, ", "), "before-capture or after-capture is to run in %q, which is no container of the service", h[0])
		}
	}
	return nil
}

// nothing says so when no parameter names a workload.
func nothing(e Env) []*api.Error {
	var names []string
	example := ""
	for _, p := range parameters {
		if !p.workload {
			continue
		}
		if e.Param(p.name) != "" {
			return nil
		}
		if names = append(names, p.name); example == "" {
			example = p.name + "=" + p.example
		}
	}
	return []*api.Error{api.Errorf(api.KindConfigured, "write for example "+example, "none of the parameters %s is set: there is no service without containers", strings.Join(names, ", "))}
}

func isParameter(name string) bool {
	name = strings.ReplaceAll(name, "_", "-")
	for _, p := range parameters {
		if p.name == name {
			return true
		}
	}
	// Pacemaker's own, and those of its tracing.
	return name == "crm-feature-set" || name == "OCF-CHECK-LEVEL" || name == "trace-ra" || name == "trace-dir" || name == "trace-file"
}

// parameters is every parameter, in the order in which it is described.
var parameters = []parameter{
	{
		name: "vip", short: "Virtual IP addresses", uniqueGroup: "vip", reloadable: true, shape: true,
		long: "The addresses that clients use, each with the prefix length of its network, IPv4 or IPv6, separated by commas or spaces. " +
			"They are on the active node, and only there. A service without an address has none here. A change takes effect while the service runs.",
		example: "192.0.2.100/24,2001:db8::100/64", read: readVIPs,
	},
	{
		name: "nic", short: "Network interface of the addresses", shape: true,
		long:    "The interface that the addresses are added to, on every node. Left out, it is the one that has a route to the address's network.",
		example: "eth0", read: readNIC,
	},
	{
		name: "containers", short: "Containers of the service", uniqueGroup: "containers", shape: true, workload: true,
		long: "The names of the service's containers, separated by commas or spaces, in the order in which they are started; they are stopped in reverse. " +
			"They exist on the node where the service is set up first; their definitions, images, networks, volumes and secrets are carried to the others. " +
			"At least one of containers, pods, quadlet and kube has to be set.",
		example: "registry",
		read:    readNames("container", func(s *api.Spec) *[]string { return &s.Containers }),
	},
	{
		name: "pods", short: "Pods of the service", uniqueGroup: "pods", shape: true, workload: true,
		long: "The names of the service's pods, made by podman pod create, separated by commas or spaces. " +
			"All their containers are the service's; they are started after those named in containers, in the order in which they were made.",
		example: "shop",
		read:    readNames("pod", func(s *api.Spec) *[]string { return &s.Pods }),
	},
	{
		name: "quadlet", short: "Quadlet units of the service", uniqueGroup: "quadlet", shape: true, workload: true,
		long: "The file names of Quadlet units (.container, .pod, .kube), separated by commas or spaces, in the order in which their containers are started; " +
			"a pod's comes with those of its containers. They are on the node where the service is set up first. Understudy stops and masks the services that " +
			"systemd has of them, wherever it finds them, and makes their containers itself; the units of their volumes and networks stay systemd's.",
		example: "shop.pod",
		read:    readUnits(func(s *api.Spec) *[]string { return &s.Quadlet }),
	},
	{
		name: "kube", short: "Kubernetes YAML of the service", uniqueGroup: "kube", shape: true, workload: true,
		long: "The absolute paths of Kubernetes YAML, separated by commas or spaces, on the node where the service is set up first and its pods were made: " +
			"podman kube play --start=false FILE. It is played again on the other nodes, where the file need not be. " +
			"Flags other than --network, --publish and --log-driver are not known to Podman afterwards, and cannot be carried.",
		example: "/etc/shop/shop.yaml",
		read:    readPaths("file", func(s *api.Spec) *[]string { return &s.Kube }),
	},
	{
		name: "volumes", short: "Volumes to replicate", shape: true,
		long:    "The names of the volumes that are replicated, separated by commas or spaces. Left out: all that the containers mount.",
		example: "registry-data",
		read:    readNames("volume", func(s *api.Spec) *[]string { return &s.Volumes }),
	},
	{
		name: "bind-mounts", short: "What becomes of bind mounts", shape: true,
		long: "What becomes of the content of the node's own directories that containers mount, also by way of a volume with the option o=bind. " +
			"list: it is not replicated; status and ready name them, and they have to be alike on every node by other means. " +
			"replicate: it is replicated like that of a volume; directories of the system are refused.",
		def: api.BindsList, example: api.BindsReplicate,
		read: readChoice(func(s *api.Spec) *string { return &s.BindMounts }, api.BindsList, api.BindsReplicate),
	},
	{
		name: "interval", short: "Time between captures", reloadable: true,
		long: "How often the active node's data is captured and shipped. What is lost in an unplanned takeover is what was written since the last one that was committed.",
		def:  api.DefaultInterval.String(), example: "5s",
		read: readDuration(time.Millisecond, func(s *api.Spec) *api.Duration { return &s.Interval }),
	},
	{
		name: "max-rpo", short: "Age at which a replica is no candidate", reloadable: true,
		long: "A standby whose replica is older than this is not promoted: it has no promotion score. " +
			"An operator who takes the loss raises it: pcs resource update SERVICE max-rpo=24h.",
		def: "5m", example: "10m",
		read: readDuration(time.Millisecond, func(s *api.Spec) *api.Duration { return &s.MaxRPO }),
	},
	{
		name: "freeze-max", short: "Longest freeze for a capture", reloadable: true,
		long: "The containers are paused while the state of their volumes is taken. Past this time they are thawed and the capture is dropped.",
		def:  api.DefaultFreezeMax.String(), example: "250ms",
		read: readDuration(time.Millisecond, func(s *api.Spec) *api.Duration { return &s.FreezeMax }),
	},
	{
		name: "consistency", short: "How the data is taken", reloadable: true,
		long: "frozen: all containers are paused for the instant in which the state of all volumes is taken. " +
			"hooks: before that, before-capture runs in a container, and after-capture when the pause is over; every interval, also when no file has changed: an application may hold in memory what has. " +
			"none: nothing is paused; files that change while they are read are read again, and a generation is not of one instant: only for data that bears that.",
		def: api.ConsistencyFrozen, example: api.ConsistencyHooks,
		read: readChoice(func(s *api.Spec) *string { return &s.Consistency }, api.ConsistencyFrozen, api.ConsistencyHooks, api.ConsistencyNone),
	},
	{
		name: "before-capture", short: "Command before a capture", reloadable: true,
		long: "For consistency=hooks: a container of the service, then a command to run in it, in words separated by spaces, without a shell. " +
			"When it fails or takes longer than hook-timeout, nothing is captured in that cycle.",
		example: "db psql -U postgres -c CHECKPOINT", read: readHook(func(s *api.Spec) *[]string { return &s.BeforeCapture }),
	},
	{
		name: "after-capture", short: "Command after a capture", reloadable: true,
		long: "For consistency=hooks: as before-capture, run when the containers go on, whether or not the capture succeeded. " +
			"While it fails it is run again every few seconds, and nothing is captured; so it is when the agent had ended between the two commands and is there again. " +
			"It must succeed, and do no harm, also where there is nothing to undo: when it runs once more, or in a container that was restarted meanwhile.",
		example: "db /usr/local/bin/resume", read: readHook(func(s *api.Spec) *[]string { return &s.AfterCapture }),
	},
	{
		name: "hook-timeout", short: "Time for before-capture and after-capture", reloadable: true,
		long: "How long each of the two may take before it is ended.",
		def:  api.DefaultHookTimeout.String(), example: "20s",
		read: readDuration(time.Millisecond, func(s *api.Spec) *api.Duration { return &s.HookTimeout }),
	},
	{
		name: "stop-timeout", short: "Time for a container to shut down", reloadable: true,
		long: "How long a container may take to shut down by itself before it is killed. It always ends in time for the kill within the operation's own timeout.",
		def:  api.DefaultStopTimeout.String(), example: "20s",
		read: readDuration(0, func(s *api.Spec) *api.Duration { return &s.StopTimeout }),
	},
	{
		name: "on-unhealthy", short: "What a failing HEALTHCHECK does", reloadable: true,
		long: "What to make of a container whose process runs and whose HEALTHCHECK fails. " +
			"degraded: show it in the cluster's status, move nothing. fail: report a failure, so that Pacemaker recovers the service. ignore: report it as running.",
		def: api.OnUnhealthyDegraded, example: api.OnUnhealthyFail,
		read: readChoice(func(s *api.Spec) *string { return &s.OnUnhealthy }, api.OnUnhealthyDegraded, api.OnUnhealthyFail, api.OnUnhealthyIgnore),
	},
	{
		name: "vip-conflict", short: "What an address that is in use does", reloadable: true,
		long: "What to do when another machine on the network answers for a virtual IP at a promotion. " +
			"refuse: the promotion fails, and names the other's hardware address. take: announce over it, for networks where a stale holder cannot be reached.",
		def: api.ConflictRefuse, example: api.ConflictTake,
		read: readChoice(func(s *api.Spec) *string { return &s.VIPConflict }, api.ConflictRefuse, api.ConflictTake),
	},
	{
		name: "on-suspect", short: "What data that looks attacked does", reloadable: true,
		long: "What to do when what a standby receives looks like an attack on the data: most files have become noise, have other names, or are gone. " +
			"The generation before it is pinned in any case. alarm: say so in status and log. " +
			"hold: besides, the standby goes on receiving, and applies nothing from there on until a person says understudy release; a takeover meanwhile goes on from the generation before it.",
		def: api.OnSuspectAlarm, example: api.OnSuspectHold,
		read: readChoice(func(s *api.Spec) *string { return &s.OnSuspect }, api.OnSuspectAlarm, api.OnSuspectHold),
	},
	{
		name: socketParam, short: "Control socket of the agent (advanced)", reloadable: true,
		long: "Where understudy's agent listens on every node. It is only needed when agent.toml moves the socket.",
		def:  api.DefaultSocket, example: "/run/understudy/other.sock",
	},
}

const socketParam = "socket"
