package ocf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// The actions of the resource agent.
const (
	ActionStart    = "start"
	ActionStop     = "stop"
	ActionMonitor  = "monitor"
	ActionPromote  = "promote"
	ActionDemote   = "demote"
	ActionReload   = "reload-agent"
	ActionValidate = "validate-all"
	ActionMetaData = "meta-data"
)

const usage = `usage: service ACTION

The resource agent ocf:understudy:service, run by Pacemaker with the service's
parameters in the environment (OCF resource agent API 1.1). ACTION is one of
start, stop, monitor, promote, demote, reload-agent, validate-all, meta-data, help.
`

// Agent is what is asked of the agent on this node. Do does not outlive its
// context; a refusal is an *api.Error.
type Agent interface {
	Do(ctx context.Context, service, action string, req api.ActionRequest) (api.ActionResult, error)
}

// Options are what an action works with. The zero value is right on a node.
type Options struct {
	Dial   func(socket string) Agent // nil: api.NewClient
	Stdout io.Writer                 // meta-data and usage; nil: os.Stdout
	Stderr io.Writer                 // problems and the exit reason; nil: os.Stderr

	// Evict stops a service without the agent; --timeout=DURATION and the service's
	// name are appended. Exit code 0 says that nothing is left.
	Evict []string // nil: /usr/bin/understudy evict
	// ClearScore takes back this node's promotion score.
	ClearScore []string // nil: crm_attribute --promotion -D

	RunDir     string // nil: api.RunDir
	ConfigPath string // "": api.ConfigPath; where it is missing, no agent will ever answer
	Proc       string // "": /proc
	Cgroup     string // "": /sys/fs/cgroup
	Addresses  func() ([]net.Addr, error)
}

func (o Options) withDefaults() Options {
	if o.Dial == nil {
		o.Dial = func(socket string) Agent { return api.NewClient(socket) }
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.Evict == nil {
		o.Evict = []string{"/usr/bin/understudy", "evict"}
	}
	if o.ClearScore == nil {
		o.ClearScore = []string{"/usr/sbin/crm_attribute", "--promotion", "-D"}
	}
	if o.Addresses == nil {
		o.Addresses = net.InterfaceAddrs
	}
	o.ConfigPath = or(o.ConfigPath, api.ConfigPath)
	o.Proc = or(o.Proc, "/proc")
	o.Cgroup = or(o.Cgroup, "/sys/fs/cgroup")
	return o
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// Run does one action and returns the exit code of the process. It ends before
// the operation's timeout does.
func Run(ctx context.Context, env Env, action string, opts Options) int {
	opts = opts.withDefaults()
	a := &act{
		env: env, action: action, Options: opts,
		agent:  opts.Dial(env.Param(socketParam)),
		kernel: kernel{proc: opts.Proc, cgroup: opts.Cgroup, addresses: opts.Addresses},
	}
	a.spec, a.problems = env.Spec()
	ctx, cancel := context.WithTimeout(ctx, env.Timeout-margin(env.Timeout))
	defer cancel()
	return int(a.run(ctx))
}

// margin is what is left of a timeout for saying that time is up.
func margin(timeout time.Duration) time.Duration {
	return min(timeout/10, time.Second)
}

// act is one action under way.
type act struct {
	Options
	env      Env
	action   string
	agent    Agent
	kernel   kernel
	spec     api.Spec
	problems []*api.Error // of the parameters
}

func (a *act) run(ctx context.Context) Code {
	switch a.action {
	case ActionMonitor:
		return a.monitor(ctx)
	case ActionStart:
		return a.start(ctx)
	case ActionPromote, ActionDemote:
		return a.change(ctx)
	case ActionStop:
		return a.stop(ctx)
	case ActionReload:
		return a.reload(ctx)
	case ActionValidate:
		return a.validate(ctx)
	case ActionMetaData:
		if err := writeMetaData(a.Stdout); err != nil {
			return a.fail(err)
		}
		return Success
	case "usage", "help", "-h", "--help":
		fmt.Fprint(a.Stdout, usage)
		return Success
	case "":
		fmt.Fprint(a.Stderr, usage)
		return ErrArgs
	default:
		a.reason("action %q is not implemented", a.action)
		return ErrUnimplemented
	}
}

// reason is what Pacemaker shows beside a failure: the last such line counts,
// and of it the first 128 characters or so.
func (a *act) reason(format string, args ...any) {
	fmt.Fprintf(a.Stderr, "ocf-exit-reason:%s\n", oneLine(fmt.Sprintf(format, args...)))
}

// warn goes to the cluster's log.
func (a *act) warn(format string, args ...any) {
	fmt.Fprintf(a.Stderr, "WARNING: %s: %s\n", a.env.Service, oneLine(fmt.Sprintf(format, args...)))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// fail gives an error as exit reason and the code for it.
func (a *act) fail(err error) Code {
	a.reason("%v", err)
	return codeOf(err, a.action)
}

// failAll names every problem, the gravest one last: it becomes the exit reason.
func (a *act) failAll(problems []*api.Error) Code {
	code := worst(problems, a.action)
	gravest := slices.IndexFunc(problems, func(p *api.Error) bool { return codeOf(p, a.action) == code })
	for i, p := range problems {
		if i != gravest {
			fmt.Fprintf(a.Stderr, "ERROR: %s: %s\n", a.env.Service, oneLine(p.Error()))
		}
	}
	if gravest >= 0 {
		a.reason("%v", problems[gravest])
	}
	return code
}

// notSetUp says that this node will not have an agent until somebody configures one.
func (a *act) notSetUp() *api.Error {
	if _, err := os.Stat(a.ConfigPath); errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.KindInstalled, "write it (see "+api.ConfigPath+".example) and: systemctl enable --now understudy",
			"understudy is not set up on this node: %s is missing", a.ConfigPath)
	}
	return nil
}
