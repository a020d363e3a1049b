package podman

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/specgen"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	nettypes "go.podman.io/common/libnetwork/types"
)

// defaultNetwork is what a container is connected to when nobody says otherwise.
const defaultNetwork = "podman"

// buildSpec makes the specification to create a container like d again, in the pod of
// that name if it is in one. Problems that stop it come with a nil specification.
func buildSpec(d *define.InspectContainerData, pod string) (*specgen.SpecGenerator, []Problem) {
	if d.Config == nil || d.HostConfig == nil {
		return nil, []Problem{{What: "Podman does not describe it fully", Next: "upgrade Podman"}}
	}
	p, problems := parseCommand(d.Config.CreateCommand)
	if p == nil || fatal(problems) {
		return nil, named(d.Name, problems)
	}
	problems = append(problems, p.check(d)...)
	if fatal(problems) {
		return nil, named(d.Name, problems)
	}
	s, err := p.spec()
	if err != nil {
		return nil, named(d.Name, append(problems, Problem{
			What: "its create command cannot be read: " + err.Error(), Next: "make the container again",
		}))
	}
	p.annotations(s, d)
	problems = append(problems, adopt(s, d)...)
	s.Pod = pod
	canonical(s)
	problems = append(problems, checkSpec(s, d)...)
	if fatal(problems) {
		return nil, named(d.Name, problems)
	}
	return s, named(d.Name, problems)
}

// adopt puts into s what d knows better than its create command: the name, the
// node's own defaults at the time, and the networks it is connected to by now.
func adopt(s *specgen.SpecGenerator, d *define.InspectContainerData) []Problem {
	s.Name = d.Name
	s.ContainerCreateCommand = d.Config.CreateCommand
	s.RestartPolicy, s.RestartRetries = "", nil
	if restarts(d) != "no" || d.HostConfig.RestartPolicy != nil && d.HostConfig.RestartPolicy.Name == "no" {
		s.RestartPolicy = define.RestartPolicyNo
	}
	timeout := d.Config.StopTimeout
	s.StopTimeout = &timeout
	if s.Umask == "" {
		s.Umask = d.Config.Umask
	}
	if l := d.HostConfig.LogConfig; l != nil && s.LogConfiguration != nil && s.LogConfiguration.Driver == "" {
		s.LogConfiguration.Driver = l.Type
	}
	adoptAnonymous(s, d)
	return adoptNetworks(s, d)
}

// adoptAnonymous gives anonymous volumes the names that Podman made up: on every node
// the container has the same ones. Those that the image asks for are in no create command.
func adoptAnonymous(s *specgen.SpecGenerator, d *define.InspectContainerData) {
	for _, m := range d.Mounts {
		if m.Type != define.TypeVolume || !anonymousName.MatchString(m.Name) {
			continue
		}
		i := slices.IndexFunc(s.Volumes, func(v *specgen.NamedVolume) bool { return v.Dest == m.Destination })
		if i < 0 {
			i = len(s.Volumes)
			s.Volumes = append(s.Volumes, &specgen.NamedVolume{Dest: m.Destination, Options: slices.Clone(imageVolumeOptions)})
		}
		if v := s.Volumes[i]; v.Name == "" {
			v.Name, v.IsAnonymous = m.Name, true
		}
	}
}

// imageVolumeOptions are what Podman gives to a volume that an image asks for.
var imageVolumeOptions = []string{"rprivate", "rw", "nodev", "exec"}

// annotations that Podman's parser adds by itself depend on its version: kept are
// the operator's and those that the container has.
func (p *parsed) annotations(s *specgen.SpecGenerator, d *define.InspectContainerData) {
	maps.DeleteFunc(s.Annotations, func(key, _ string) bool {
		if _, has := d.Config.Annotations[key]; has {
			return false
		}
		return !slices.ContainsFunc(p.options.Annotation, func(a string) bool { return strings.HasPrefix(a, key+"=") })
	})
}

// canonical puts what the parsers keep in maps into one order.
func canonical(s *specgen.SpecGenerator) {
	slices.SortFunc(s.Mounts, func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) })
	slices.SortFunc(s.Volumes, func(a, b *specgen.NamedVolume) int { return strings.Compare(a.Dest, b.Dest) })
}

// adoptNetworks: the networks are those the container is in, their options those
// of the create command. A network that was connected later has no more than its
// aliases to show: whether its address was asked for cannot be told.
func adoptNetworks(s *specgen.SpecGenerator, d *define.InspectContainerData) []Problem {
	if !s.NetNS.IsDefault() && !s.NetNS.IsBridge() || sharesNetwork(d) {
		return nil
	}
	live := networksOf(d)
	if len(s.Networks) == 0 && (len(live) == 0 || slices.Equal(live, []string{defaultNetwork})) {
		return nil
	}
	var problems []Problem
	networks := make(map[string]nettypes.PerNetworkOptions, len(live))
	for _, name := range live {
		o, ok := s.Networks[name]
		if !ok && name == defaultNetwork {
			o, ok = s.Networks["default"]
		}
		if !ok && !(name == defaultNetwork && len(s.Networks) == 0) {
			o.Aliases = aliases(d, name)
			problems = append(problems, Problem{
				What:    fmt.Sprintf("it was connected to network %s after it was made: its address there may be another on the other node", name),
				Next:    "if the address matters, make the container again with --network " + name + ":ip=ADDRESS",
				Warning: true,
			})
		}
		networks[name] = o
	}
	s.Networks = networks
	if len(networks) == 0 {
		s.NetNS, s.Networks = specgen.Namespace{NSMode: specgen.NoNetwork}, nil
	}
	return problems
}

// sharesNetwork: the networks that the container shows are its pod's.
func sharesNetwork(d *define.InspectContainerData) bool {
	return strings.HasPrefix(d.HostConfig.NetworkMode, "container:")
}

// shortID is how much of an ID Podman gives a container as an alias, digits.
const shortID = 12

// aliases of the container in a network, without those that Podman adds itself.
func aliases(d *define.InspectContainerData, network string) []string {
	var out []string
	n := d.NetworkSettings.Networks[network]
	for _, a := range n.Aliases {
		if a != d.ID[:min(shortID, len(d.ID))] && a != d.Name {
			out = append(out, a)
		}
	}
	slices.Sort(out)
	return out
}

// restarts is the container's restart policy, "no" for none.
func restarts(d *define.InspectContainerData) string {
	if r := d.HostConfig.RestartPolicy; r != nil && r.Name != "" {
		return r.Name
	}
	return define.RestartPolicyNo
}

// encodeSpec and decodeSpec are the way of a specification through a Definition;
// encoding/json sorts maps, so that equal specifications have equal bytes.
func encodeSpec(s *specgen.SpecGenerator) (json.RawMessage, error) { return json.Marshal(s) }

func decodeSpec(raw json.RawMessage) (*specgen.SpecGenerator, error) {
	s := new(specgen.SpecGenerator)
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("the container's specification cannot be read: %w", err)
	}
	return s, nil
}
