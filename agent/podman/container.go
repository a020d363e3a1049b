package podman

import (
	"context"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/bindings/containers"
)

// State of a container, in Podman's words as `podman inspect` shows them.
type State string

// The states. "initialized" is what `podman init` makes of "created": everything
// is set up, only the process does not run yet.
const (
	StateCreated     State = "created"
	StateInitialized State = "initialized"
	StateRunning     State = "running"
	StatePaused      State = "paused"
	StateStopping    State = "stopping"
	StateStopped     State = "stopped"
	StateExited      State = "exited"
	StateRemoving    State = "removing"
)

// Alive says whether processes of the service may exist in this state.
func (s State) Alive() bool {
	return s == StateRunning || s == StatePaused || s == StateStopping
}

// HealthStatus is the result of a container's HEALTHCHECK.
type HealthStatus string

// The results; HealthNone: there is no HEALTHCHECK.
const (
	HealthNone      HealthStatus = "none"
	HealthStarting  HealthStatus = "starting"
	HealthHealthy   HealthStatus = "healthy"
	HealthUnhealthy HealthStatus = "unhealthy"
)

// Mount is one mount of a container. Volume is the volume's name, empty for others.
type Mount struct {
	Type        string // volume, bind, tmpfs, …
	Volume      string
	Source      string // on the host
	Destination string
	SubPath     string // of the volume, when only that is mounted
	Driver      string
	RW          bool
}

// Port is a published port.
type Port struct {
	HostIP        string // empty: all
	HostPort      string
	ContainerPort string // "5000/tcp"
}

// Container is what is known of one container; nothing in it makes Podman run a health check.
type Container struct {
	ID            string
	Name          string
	State         State
	PID           int // of the first process; 0 when there is none
	ConmonPID     int
	CgroupPath    string // below the cgroup2 mount
	Health        HealthStatus
	FailingStreak int
	ExitCode      int
	StartedAt     time.Time
	FinishedAt    time.Time
	ImageID       string
	ImageName     string
	RestartPolicy string // no, always, on-failure, unless-stopped
	AutoRemove    bool
	Pod           string // ID, empty without
	Infra         bool   // it holds the namespaces of its pod
	StopSignal    string // name or number, as Podman sends it in a stop
	CreateCommand []string
	Labels        map[string]string
	Mounts        []Mount
	Networks      []string // names, sorted
	Ports         []Port
}

// Volumes are the names of the volumes the container mounts, sorted.
func (c Container) Volumes() []string {
	var names []string
	for _, m := range c.Mounts {
		if m.Volume != "" {
			names = append(names, m.Volume)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// mountedAt is where the container has the volume, the first place of several.
func (c Container) mountedAt(volume string) string {
	for _, m := range c.Mounts {
		if m.Volume == volume {
			return m.Destination
		}
	}
	return ""
}

// Inspect describes a container by name or ID; ErrNotFound if there is none.
func (c *Client) Inspect(ctx context.Context, name string) (Container, error) {
	data, err := c.inspect(ctx, name)
	if err != nil {
		return Container{}, err
	}
	return fromInspect(data), nil
}

func (c *Client) inspect(ctx context.Context, name string) (*define.InspectContainerData, error) {
	return call(ctx, c, "inspect container "+name, func(ctx context.Context) (*define.InspectContainerData, error) {
		return containers.Inspect(ctx, name, nil)
	})
}

func fromInspect(d *define.InspectContainerData) Container {
	out := Container{
		ID: d.ID, Name: d.Name, ImageID: d.Image, ImageName: d.ImageName, Pod: d.Pod, Infra: d.IsInfra,
		Health: HealthNone, RestartPolicy: "no",
	}
	if s := d.State; s != nil {
		out.State = State(s.Status)
		out.PID, out.ConmonPID, out.CgroupPath = s.Pid, s.ConmonPid, s.CgroupPath
		out.ExitCode, out.StartedAt, out.FinishedAt = int(s.ExitCode), s.StartedAt, s.FinishedAt
		if h := s.Health; h != nil && h.Status != "" {
			out.Health, out.FailingStreak = HealthStatus(h.Status), h.FailingStreak
		}
	}
	if cfg := d.Config; cfg != nil {
		out.CreateCommand, out.Labels, out.StopSignal = cfg.CreateCommand, cfg.Labels, cfg.StopSignal
	}
	if h := d.HostConfig; h != nil {
		out.AutoRemove = h.AutoRemove
		if h.RestartPolicy != nil && h.RestartPolicy.Name != "" {
			out.RestartPolicy = h.RestartPolicy.Name
		}
	}
	for _, m := range d.Mounts {
		out.Mounts = append(out.Mounts, Mount{
			Type: m.Type, Volume: m.Name, Source: m.Source, Destination: m.Destination, SubPath: m.SubPath, Driver: m.Driver, RW: m.RW,
		})
	}
	out.Networks, out.Ports = networksOf(d), portsOf(d)
	return out
}

func networksOf(d *define.InspectContainerData) []string {
	var names []string
	if d.NetworkSettings == nil {
		return nil
	}
	for name := range d.NetworkSettings.Networks {
		if name != "host" && name != "none" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func portsOf(d *define.InspectContainerData) []Port {
	var ports []Port
	if d.HostConfig == nil {
		return nil
	}
	for inside, outside := range d.HostConfig.PortBindings {
		for _, o := range outside {
			ports = append(ports, Port{HostIP: o.HostIP, HostPort: o.HostPort, ContainerPort: inside})
		}
	}
	sort.Slice(ports, func(i, j int) bool {
		a, b := ports[i], ports[j]
		an, _ := strconv.Atoi(a.HostPort)
		bn, _ := strconv.Atoi(b.HostPort)
		if an != bn {
			return an < bn
		}
		return strings.Compare(a.HostIP+a.ContainerPort, b.HostIP+b.ContainerPort) < 0
	})
	return ports
}
