package podman

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containers/podman/v5/pkg/domain/entities"
	"github.com/containers/podman/v5/pkg/specgen"
	"github.com/containers/podman/v5/pkg/specgenutil"
	"github.com/spf13/pflag"
	nettypes "go.podman.io/common/libnetwork/types"
)

// parsed is a create command taken apart.
type parsed struct {
	options entities.ContainerCreateOptions
	plain   plain
	changed map[string]bool // flags given
	args    []string        // image, command and its arguments
}

// parseCommand reads a container's create command (`podman run …`, `podman
// create …`, also `podman container …`). It collects what is refused rather
// than stop at the first; nil is returned where the command cannot be read at all.
func parseCommand(command []string) (*parsed, []Problem) {
	rest, problem := cutProgram(command)
	if problem != nil {
		return nil, []Problem{*problem}
	}
	p := &parsed{changed: map[string]bool{}}
	fs := newFlags(&p.options, &p.plain, func(fs *pflag.FlagSet) {
		fs.StringVar(&p.options.Name, "name", "", "")
		fs.StringVar(&p.options.Pod, "pod", "", "")
	})
	if err := fs.Parse(rest); err != nil {
		return nil, []Problem{{
			What: "its create command cannot be read: " + strings.TrimSpace(err.Error()),
			Next: "make the container without that flag",
		}}
	}
	fs.Visit(func(f *pflag.Flag) { p.changed[f.Name] = true })
	p.options.Expose, _ = fs.GetStringSlice("expose")
	p.options.PublishAll, _ = fs.GetBool("publish-all")
	p.args = fs.Args()
	problems := refusedBy(fs)
	if len(p.args) == 0 {
		problems = append(problems, Problem{What: "its create command names no image", Next: "make the container again with `podman create`"})
	}
	return p, problems
}

// cutProgram removes the program, its global flags and the verb.
func cutProgram(command []string) ([]string, *Problem) {
	if len(command) == 0 {
		return nil, &Problem{
			What: "it has no create command: it was made through the API, by compose or by kube play",
			Next: "make it with `podman create` or `podman run`, or name its YAML in kube=",
		}
	}
	rest, problem := globalFlags(command)
	if problem != nil {
		return nil, problem
	}
	if len(rest) > 0 && rest[0] == "container" {
		rest = rest[1:]
	}
	if len(rest) == 0 || (rest[0] != "run" && rest[0] != "create") {
		return nil, &Problem{
			What: fmt.Sprintf("it was made by `%s`, not by podman run or podman create", strings.Join(command[:min(len(command), 3)], " ")),
			Next: "make it with `podman create` or `podman run`",
		}
	}
	return rest[1:], nil
}

// globalFlags removes the program and its global flags, those that change nothing.
func globalFlags(command []string) ([]string, *Problem) {
	rest := command[1:]
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		name, _, joined := strings.Cut(rest[0], "=")
		switch name {
		case "--log-level":
			if !joined && len(rest) > 1 {
				rest = rest[1:]
			}
		case "--syslog":
		default:
			return nil, &Problem{
				What: fmt.Sprintf("it was made with the global flag %s of %s, which is not carried", name, filepath.Base(command[0])),
				Next: "make it without that flag",
			}
		}
		rest = rest[1:]
	}
	return rest, nil
}

// refusedBy lists the flags given that are in the list of refused ones. A bool
// that was given as false is as good as not given.
// What is in but means something else there.
func refusedBy(fs *pflag.FlagSet, but ...string) []Problem {
	var out []Problem
	for _, r := range flagsRefused {
		f := fs.Lookup(r.name)
		if f == nil || !f.Changed || slices.Contains(but, r.name) || (r.bool && f.Value.String() == "false") {
			continue
		}
		out = append(out, Problem{What: "it was made with --" + r.name + ": " + r.why, Next: r.next})
	}
	return out
}

// network makes of the network flags what Podman's commands make of them.
func (p *parsed) network() (*entities.NetOptions, error) {
	n := &entities.NetOptions{
		AddHosts: p.plain.addHosts, DNSOptions: p.plain.dnsOptions, DNSSearch: p.plain.dnsSearch,
		NoHosts: p.plain.noHosts, NoHostname: p.plain.noHostname,
	}
	for _, d := range p.plain.dns {
		if d == "none" {
			n.UseImageResolvConf = true
			continue
		}
		ip := net.ParseIP(d)
		if ip == nil {
			return nil, fmt.Errorf("--dns %s is not an IP address", d)
		}
		n.DNSServers = append(n.DNSServers, ip)
	}
	var err error
	if len(p.plain.publish) > 0 {
		if n.PublishPorts, err = specgenutil.CreatePortBindings(p.plain.publish); err != nil {
			return nil, fmt.Errorf("--publish: %w", err)
		}
	}
	if p.changed["network"] {
		if n.Network, n.Networks, n.NetworkOptions, err = specgen.ParseNetworkFlag(p.plain.networks); err != nil {
			return nil, fmt.Errorf("--network: %w", err)
		}
	}
	return n, p.addresses(n)
}

// addresses applies the flags that speak of a container's place in its networks.
func (p *parsed) addresses(n *entities.NetOptions) error {
	var ips []net.IP
	for _, text := range []string{p.plain.ip, p.plain.ip6} {
		if text == "" {
			continue
		}
		ip := net.ParseIP(text)
		if ip == nil {
			return fmt.Errorf("--ip %s is not an IP address", text)
		}
		ips = append(ips, ip)
	}
	var mac net.HardwareAddr
	if p.plain.mac != "" {
		var err error
		if mac, err = net.ParseMAC(p.plain.mac); err != nil {
			return fmt.Errorf("--mac-address: %w", err)
		}
	}
	if len(ips) == 0 && mac == nil && len(p.plain.aliases) == 0 {
		return nil
	}
	if len(n.Networks) == 0 {
		n.Networks = map[string]nettypes.PerNetworkOptions{"default": {}}
	}
	if len(n.Networks) > 1 && (len(ips) > 0 || mac != nil) {
		return fmt.Errorf("--ip and --mac-address go with one network only")
	}
	for name, o := range n.Networks {
		o.StaticIPs = append(o.StaticIPs, ips...)
		if mac != nil {
			o.StaticMAC = nettypes.HardwareAddr(mac)
		}
		if len(p.plain.aliases) > 0 {
			o.Aliases = slices.Clone(p.plain.aliases)
		}
		n.Networks[name] = o
	}
	return nil
}

// spec makes Podman's own specification of the command.
func (p *parsed) spec() (*specgen.SpecGenerator, error) {
	o := p.options
	net, err := p.network()
	if err != nil {
		return nil, err
	}
	o.Net, o.Env = net, p.plain.env
	o.ImageVolume = p.plain.imageVolume
	if p.changed["entrypoint"] {
		o.Entrypoint = &p.plain.entrypoint
	}
	if p.changed["oom-score-adj"] {
		o.OOMScoreAdj = &p.plain.oomScoreAdj
	}
	if p.changed["pids-limit"] {
		o.PIDsLimit = &p.plain.pidsLimit
	}
	s := specgen.NewSpecGenerator(p.args[0], false)
	if err := specgenutil.FillOutSpecGen(s, &o, p.args); err != nil {
		return nil, err
	}
	s.RawImageName = p.args[0]
	s.Passwd = &p.plain.passwd
	return s, nil
}
