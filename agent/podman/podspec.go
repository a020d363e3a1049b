package podman

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/domain/entities"
	"github.com/containers/podman/v5/pkg/specgen"
	"github.com/containers/podman/v5/pkg/specgenutil"
	"github.com/spf13/pflag"
)

// podFlags are the flags that `podman pod create` has beside those that it shares
// with `podman create`: for its infra container.
type podFlags struct {
	infra, shareParent                                bool
	infraImage, infraName, infraCommand, share, exits string
}

// parsedPod is a `podman pod create` command taken apart.
type parsedPod struct {
	parsed
	pod podFlags
}

// parsePodCommand reads a pod's create command as parseCommand reads a container's.
func parsePodCommand(command []string) (*parsedPod, []Problem) {
	rest, problem := cutPodProgram(command)
	if problem != nil {
		return nil, []Problem{*problem}
	}
	p := &parsedPod{parsed: parsed{changed: map[string]bool{}}}
	fs := newFlags(&p.options, &p.plain, func(fs *pflag.FlagSet) {
		fs.StringVarP(&p.options.Name, "name", "n", "", "")
		fs.BoolVar(&p.pod.infra, "infra", true, "")
		fs.StringVar(&p.pod.infraImage, "infra-image", "", "")
		fs.StringVar(&p.pod.infraName, "infra-name", "", "")
		fs.StringVar(&p.pod.infraCommand, "infra-command", "", "")
		fs.StringVar(&p.pod.share, "share", specgen.DefaultKernelNamespaces, "")
		fs.BoolVar(&p.pod.shareParent, "share-parent", true, "")
		fs.StringVar(&p.pod.exits, "exit-policy", "", "")
		// Files of the node that tell others of the pod: nobody needs them here.
		fs.String("pod-id-file", "", "")
		fs.String("infra-conmon-pidfile", "", "")
	})
	fs.SetInterspersed(false)
	if err := fs.Parse(rest); err != nil {
		return nil, []Problem{{What: "its create command cannot be read: " + strings.TrimSpace(err.Error()), Next: "make the pod without that flag"}}
	}
	fs.Visit(func(f *pflag.Flag) { p.changed[f.Name] = true })
	p.args = fs.Args()
	problems := refusedBy(fs, "pod-id-file")
	return p, append(problems, p.namespaces()...)
}

func cutPodProgram(command []string) ([]string, *Problem) {
	other := &Problem{What: "it was not made by `podman pod create`", Next: "make it with `podman pod create`, or name the YAML that it was made from in kube="}
	if len(command) == 0 {
		return nil, other
	}
	rest, problem := globalFlags(command)
	if problem != nil {
		return nil, problem
	}
	if len(rest) < 2 || rest[0] != "pod" || rest[1] != "create" {
		return nil, other
	}
	return rest[2:], nil
}

// spec makes Podman's own specification of the command, as its pod create does.
func (p *parsedPod) spec() (*specgen.PodSpecGenerator, error) {
	o := p.options
	net, err := p.network()
	if err != nil {
		return nil, err
	}
	o.Net, o.IsInfra, o.ImageVolume = net, true, p.plain.imageVolume
	var po entities.PodCreateOptions
	if err := copyJSON(&po, &o); err != nil {
		return nil, err
	}
	po.Name, po.InfraName, po.Infra, po.ExitPolicy = o.Name, "", p.pod.infra, p.pod.exits
	po.Cpus, po.CpusetCpus, po.Net = o.CPUS, o.CPUSetCPUs, net
	po.CreateCommand = nil
	if p.pod.share == "" || p.pod.share == "none" {
		po.Infra = po.Infra && p.changed["infra"]
	}
	if po.Infra {
		po.InfraImage, po.InfraName, po.Share, po.ShareParent = p.pod.infraImage, p.pod.infraName, p.shared(), &p.pod.shareParent
		if p.changed["infra-command"] {
			po.InfraCommand = &p.pod.infraCommand
		}
	}
	s, err := entities.ToPodSpecGen(*specgen.NewPodSpecGenerator(), &po)
	if err != nil {
		return nil, err
	}
	infra := specgen.NewSpecGenerator(po.InfraImage, false)
	if err := specgenutil.FillOutSpecGen(infra, &o, []string{}); err != nil {
		return nil, err
	}
	s.Volumes, s.ImageVolumes, s.OverlayVolumes, s.Mounts = infra.Volumes, infra.ImageVolumes, infra.OverlayVolumes, infra.Mounts
	// What has the same name in both is the same, says Podman's own command.
	if err := copyJSON(s, infra); err != nil {
		return nil, err
	}
	// Podman's own command makes the infra container of infra, its API of the pod's namespaces.
	s.Ipc, s.Pid, s.UtsNs = infra.IpcNS, infra.PidNS, infra.UtsNS
	s.Name, s.RestartPolicy, s.RestartRetries = o.Name, "", nil
	return s, nil
}

func (p *parsedPod) shared() []string {
	share, added := strings.CutPrefix(p.pod.share, "+")
	list := strings.Split(share, ",")
	if added {
		list = append(strings.Split(specgen.DefaultKernelNamespaces, ","), list...)
	}
	return list
}

func copyJSON(to, from any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}

// buildPodSpec makes the specification to create a pod like d again; infra is nil for
// one without. Problems that stop it come with a nil specification.
func buildPodSpec(d *define.InspectPodData, infra *define.InspectContainerData) (*specgen.PodSpecGenerator, []Problem) {
	p, problems := parsePodCommand(d.CreateCommand)
	if p == nil || fatal(problems) {
		return nil, ofPod(d.Name, problems)
	}
	s, err := p.spec()
	if err != nil {
		return nil, ofPod(d.Name, append(problems, Problem{What: "its create command cannot be read: " + err.Error(), Next: "make the pod again"}))
	}
	s.Name, s.PodCreateCommand, s.ExitPolicy = d.Name, d.CreateCommand, d.ExitPolicy
	if d.RestartPolicy != "" {
		s.RestartPolicy = define.RestartPolicyNo // Pacemaker restarts
	}
	problems = append(problems, checkPorts(s.PortMappings)...)
	problems = append(problems, checkMounts(s.OverlayVolumes, s.ImageVolumes)...)
	if infra != nil {
		s.InfraName = infra.Name
		tmp := &specgen.SpecGenerator{}
		tmp.NetNS, tmp.Networks = s.NetNS, s.Networks
		problems = append(problems, adoptNetworks(tmp, infra)...)
		s.NetNS, s.Networks = tmp.NetNS, tmp.Networks
	}
	if fatal(problems) {
		return nil, ofPod(d.Name, problems)
	}
	return s, ofPod(d.Name, problems)
}

// ofPod says of what the problems are.
func ofPod(pod string, problems []Problem) []Problem {
	for i := range problems {
		problems[i].Pod = pod
	}
	return problems
}

func decodePodSpec(raw json.RawMessage) (*specgen.PodSpecGenerator, error) {
	s := new(specgen.PodSpecGenerator)
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("the pod's specification cannot be read: %w", err)
	}
	return s, nil
}
