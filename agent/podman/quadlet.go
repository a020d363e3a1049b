package podman

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containers/podman/v5/pkg/systemd/parser"
	"github.com/spf13/pflag"
)

// generatorDir is where systemd finds what Podman's generator makes of quadlet files.
const generatorDir = "run/systemd/generator"

// unit is a quadlet file, as the generator of this node has translated it.
type unit struct {
	file     string   // "web.container"
	service  string   // "web.service"
	command  []string // that makes it: podman run … or podman pod create …
	podID    string   // of a pod, and of a container that is in one: the file with the pod's ID, or its name
	requires []string // other services
	needs    []string // those of them that make its volumes, networks and images
	play     *KubeDef // of a .kube file: what it plays, without the YAML itself
	problems []Problem
}

// makes says whether the unit makes a volume, a network or an image: those stay systemd's.
func (u unit) makes() bool {
	return slices.Contains([]string{".volume", ".network", ".image", ".build"}, filepath.Ext(u.file))
}

// name is that of the container or pod.
func (u unit) name() string {
	for i, arg := range u.command {
		if value, ok := strings.CutPrefix(arg, "--name="); ok {
			return value
		}
		if arg == "--name" && i+1 < len(u.command) {
			return u.command[i+1]
		}
	}
	return ""
}

func (u unit) pod() bool { return strings.HasSuffix(u.file, ".pod") }

// in says whether the unit is of a container in the pod. Older generators tell it where
// the pod's ID will be, newer ones the pod's name.
func (u unit) in(pod unit) bool {
	return pod.pod() && !u.pod() && u.podID != "" && (u.podID == pod.podID || u.podID == pod.name())
}

// readUnits reads all units that the generator made on this node. What cannot be read of
// one stands against that one alone: others need not be anybody's concern.
func readUnits(root string) ([]unit, error) {
	files, err := filepath.Glob(filepath.Join(root, generatorDir, "*.service"))
	if err != nil {
		return nil, err
	}
	var out []unit
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a reload of systemd's
		}
		if err != nil {
			return nil, err
		}
		if u := readUnit(filepath.Base(path), string(raw)); u != nil {
			out = append(out, *u)
		}
	}
	return out, nil
}

// readUnit reads one; nil where it is of another generator.
func readUnit(service, text string) *unit {
	f := parser.NewUnitFile()
	if err := f.Parse(text); err != nil {
		return nil
	}
	source, _ := f.Lookup("Unit", "SourcePath")
	u := &unit{file: filepath.Base(source), service: service}
	key := "ExecStart"
	ext := filepath.Ext(source)
	switch {
	case u.makes():
		return u
	case ext == ".pod":
		key = "ExecStartPre"
	case ext != ".container" && ext != ".kube":
		return nil
	}
	for _, name := range f.LookupAllStrv("Unit", "Requires") {
		if strings.HasSuffix(name, ".service") {
			u.requires = append(u.requires, name)
		}
	}
	u.problems = besides(f, key)
	if kind, _ := f.Lookup("Service", "Type"); kind == "oneshot" && ext == ".container" {
		u.problems = append(u.problems, Problem{What: "its Type=oneshot says that it ends by itself: it is no service", Next: "leave it to systemd"})
	}
	args, ok, err := f.LookupLastArgs("Service", key)
	if !ok || len(args) == 0 {
		err = errors.Join(fmt.Errorf("it has no %s that can be read", key), err)
	}
	for i := 0; err == nil && i < len(args); i++ {
		args[i], err = specifiers(args[i], service)
	}
	if err == nil && ext == ".kube" {
		u.play, err = playCommand(args)
	}
	if err != nil {
		u.problems = append(u.problems, Problem{What: err.Error(), Next: "change the unit, or make the container with podman create and name it in containers="})
		return u
	}
	if u.play != nil {
		return u
	}
	u.command, u.podID = plainCommand(args)
	if p := u.podName(); p != "" {
		u.podID = p
	}
	return u
}

// besides finds what systemd would do for the unit beside what the generator wrote: nobody
// does it where Pacemaker starts the container.
func besides(f *parser.UnitFile, own string) []Problem {
	var out []Problem
	for _, key := range []string{"ExecStartPre", "ExecStart", "ExecStartPost", "ExecStop", "ExecStopPost", "ExecCondition"} {
		lines := f.LookupAll("Service", key)
		if key == own && len(lines) > 0 {
			lines = lines[:len(lines)-1]
		}
		for _, line := range lines {
			words := strings.Fields(line)
			if len(words) == 0 {
				continue // takes back those before it
			}
			program := filepath.Base(strings.TrimLeft(words[0], "@-:+!|"))
			if program == "podman" && slices.ContainsFunc(words, func(w string) bool { return w == "rm" || w == "pod" || w == "kube" }) {
				continue // the generator's
			}
			if program == "rm" && strings.Contains(line, "%N.") {
				continue // an older generator's
			}
			out = append(out, Problem{What: "its " + key + "=" + line + " is not carried", Next: "do it in the image, or with a resource of its own"})
		}
	}
	return out
}

func (u unit) podName() string {
	if u.pod() {
		return ""
	}
	p, _ := parseCommand(u.command)
	if p == nil {
		return ""
	}
	return p.options.Pod
}

// specifiers does what systemd does to a word of a command.
func specifiers(word, service string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(word); i++ {
		if c := word[i]; (c != '%' && c != '$') || i+1 == len(word) {
			b.WriteByte(c)
			continue
		}
		switch two := word[i : i+2]; two {
		case "%%", "$$":
			b.WriteByte(two[0])
		case "%t":
			b.WriteString("/run")
		case "%n":
			b.WriteString(service)
		case "%N", "%p":
			b.WriteString(strings.TrimSuffix(service, ".service"))
		default:
			return "", fmt.Errorf("%q in %q means something that only systemd knows when it starts the unit: write out what it stands for", two, word)
		}
		i++
	}
	return b.String(), nil
}

// plainCommand is the command without what ties it to systemd, and where systemd keeps
// the pod's ID. Removing itself and being replaced come from quadlet, not from the operator.
func plainCommand(args []string) (command []string, podID string) {
	verb := slices.IndexFunc(args, func(a string) bool { return a == "run" || a == "pod" })
	if verb < 1 {
		return args, ""
	}
	end := len(args)
	if args[verb] == "run" {
		end -= operands(args[verb+1:])
	}
	command = append([]string{"podman"}, args[1:verb]...) // global flags: refused by name
	for i := verb; i < end; i++ {
		flag, value, joined := strings.Cut(args[i], "=")
		switch flag {
		case "run":
			command = append(command, "create")
		case "--cidfile", "--replace", "--rm", "--sdnotify", "-d", "--detach", "--infra-conmon-pidfile":
		case "--cgroups":
			if !joined && i+1 < end && args[i+1] == "split" {
				i++
			} else if value != "split" {
				command = append(command, args[i])
			}
		case "--pod-id-file":
			if !joined && i+1 < end {
				i++
				value = args[i]
			}
			podID = value
		default:
			command = append(command, args[i])
		}
	}
	return append(command, args[end:]...), podID
}

// operands counts the image and what follows it: words that look like flags there are
// the container's own.
func operands(args []string) int {
	p := &parsed{}
	fs := newFlags(&p.options, &p.plain, func(fs *pflag.FlagSet) {
		fs.StringVar(&p.options.Name, "name", "", "")
		fs.StringVar(&p.options.Pod, "pod", "", "")
	})
	if err := fs.Parse(args); err != nil {
		return 0
	}
	return len(fs.Args())
}

// playCommand reads `podman kube play …`.
func playCommand(args []string) (*KubeDef, error) {
	i := slices.Index(args, "play")
	if i < 0 {
		return nil, errors.New("it does not run podman kube play")
	}
	def := &KubeDef{}
	fs := pflag.NewFlagSet("podman kube play", pflag.ContinueOnError)
	fs.Usage = func() {}
	fs.StringArrayVar(&def.Networks, "network", nil, "")
	fs.StringSliceVar(&def.Publish, "publish", nil, "")
	fs.StringVar(&def.LogDriver, "log-driver", "", "")
	fs.Bool("replace", false, "")
	fs.Bool("service-container", false, "")
	fs.String("service-exit-code-propagation", "", "")
	if err := fs.Parse(args[i+1:]); err != nil {
		return nil, fmt.Errorf("podman kube play: %w: it is not carried", err)
	}
	if len(fs.Args()) != 1 || !filepath.IsAbs(fs.Arg(0)) {
		return nil, fmt.Errorf("it plays %q, not one file by its absolute path", fs.Args())
	}
	def.Path = fs.Arg(0)
	return def, nil
}

// quadlets are the units that a workload names, with the pods of containers that are in
// one and the containers of pods, in the order in which they are made; missing are files
// that this node's generator does not know.
func (c *Client) quadlets(files []string) (units []unit, missing []string, err error) {
	if len(files) == 0 {
		return nil, nil, nil
	}
	all, err := readUnits(c.opts.Root)
	if err != nil {
		return nil, nil, err
	}
	add := func(list ...unit) {
		for _, u := range list {
			if !slices.ContainsFunc(units, func(o unit) bool { return o.service == u.service }) {
				units = append(units, u)
			}
		}
	}
	for _, file := range files {
		i := slices.IndexFunc(all, func(u unit) bool { return u.file == file })
		if i < 0 {
			missing = append(missing, file)
			continue
		}
		for _, u := range all {
			if all[i].in(u) {
				add(u)
			}
		}
		add(all[i])
		for _, u := range all {
			if u.in(all[i]) {
				add(u)
			}
		}
	}
	complete(units, all)
	return units, missing, nil
}

// complete puts into units what only others tell: the pods' names, and what is needed.
func complete(units, all []unit) {
	for i, u := range units {
		for _, pod := range units {
			if u.in(pod) && u.podName() == "" {
				at := slices.Index(u.command, "create") + 1
				units[i].command = slices.Insert(slices.Clone(u.command), at, "--pod", pod.name())
			}
		}
		for _, name := range u.requires {
			at := slices.IndexFunc(all, func(o unit) bool { return o.service == name })
			switch {
			case at < 0: // no quadlet
			case all[at].makes():
				units[i].needs = append(units[i].needs, name)
			case !slices.ContainsFunc(units, func(o unit) bool { return o.service == name }):
				units[i].problems = append(units[i].problems, Problem{
					What: "it requires " + all[at].file + ", which would not be on the other node",
					Next: "name that in quadlet= too",
				})
			}
		}
	}
}

// CheckUnits says what of the workload's units cannot be carried, whether anything was
// made of them yet or not.
func (c *Client) CheckUnits(w Workload) ([]Problem, error) {
	units, _, err := c.quadlets(w.Quadlet)
	var out []Problem
	for _, u := range units {
		for _, p := range append(slices.Clone(u.problems), u.check()...) {
			p.What = u.file + ": " + p.What
			out = append(out, p)
		}
	}
	return out, err
}

// check looks at the command.
func (u unit) check() []Problem {
	switch {
	case u.play != nil, len(u.command) == 0: // see kube, or its problems say why
		return nil
	case u.pod():
		_, problems := parsePodCommand(u.command)
		return problems
	}
	p, problems := parseCommand(u.command)
	if p != nil && !fatal(problems) {
		if _, err := p.spec(); err != nil {
			problems = append(problems, Problem{What: err.Error(), Next: "correct the unit"})
		}
	}
	return problems
}
