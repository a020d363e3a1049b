package ocf

import (
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// defaultTimeout is Pacemaker's own for an operation that sets none.
const defaultTimeout = 20 * time.Second

// longestTimeout bounds what is read, so that no sum of times overflows.
const longestTimeout = 365 * 24 * time.Hour

const (
	paramPrefix = "OCF_RESKEY_"
	metaPrefix  = "OCF_RESKEY_CRM_meta_"
)

// Env is what Pacemaker says about an operation. Reading it never fails: stop
// and monitor have to do with what there is.
type Env struct {
	Service    string        // the resource's name, without a clone's ":N"
	Node       string        // as Pacemaker has it; may be empty
	Role       string        // the operation's: "Promoted", "Unpromoted" or empty
	Timeout    time.Duration // for the whole operation
	Interval   time.Duration // 0: a probe, or no monitor
	CheckLevel int           // 0, 10, 20: how deep to look

	// PretendAbsent is ocf-tester's order to behave as on a node without the software.
	PretendAbsent bool

	environ []string          // all of it, for child processes
	params  map[string]string // by name as in the environment
}

// ParseEnv reads an environment in the form of os.Environ.
func ParseEnv(environ []string) Env {
	e := Env{Timeout: defaultTimeout, environ: environ, params: map[string]string{}}
	for _, kv := range environ {
		name, value, ok := strings.Cut(kv, "=")
		switch {
		case !ok:
		case name == "OCF_RESOURCE_INSTANCE":
			e.Service = stripInstance(value)
		case name == "OCF_CHECK_LEVEL":
			e.CheckLevel, _ = strconv.Atoi(strings.TrimSpace(value))
		case name == "OCF_TESTER_FAIL_HAVE_BINARY":
			e.PretendAbsent = value != ""
		case strings.HasPrefix(name, metaPrefix):
			e.meta(name[len(metaPrefix):], value)
		case strings.HasPrefix(name, paramPrefix):
			e.params[name[len(paramPrefix):]] = value
		}
	}
	return e
}

func (e *Env) meta(name, value string) {
	switch name {
	case "timeout":
		if d := milliseconds(value); d > 0 {
			e.Timeout = d
		}
	case "interval":
		e.Interval = milliseconds(value)
	case "role":
		e.Role = value
	case "on_node":
		e.Node = value
	}
}

// Probe says that a monitor is a probe: a look at a node where the service need not be.
func (e Env) Probe() bool { return e.Interval == 0 }

// Param is a parameter's value, trimmed; "" where it is not set. Names with
// hyphens are also read with underscores: no shell can export the former.
func (e Env) Param(name string) string {
	if v, ok := e.params[name]; ok {
		return strings.TrimSpace(v)
	}
	return strings.TrimSpace(e.params[strings.ReplaceAll(name, "-", "_")])
}

// Spec is the service that the parameters define, and what is wrong with them.
// Each tunable that is wrong has its default in the Spec.
func (e Env) Spec() (api.Spec, []*api.Error) {
	spec := api.Spec{Service: e.Service}
	problems := nothing(e)
	if !api.ValidServiceName(e.Service) {
		problems = append(problems, api.Errorf(api.KindConfigured,
			"name the resource with letters, digits, '.', '_' and '-'", "%q cannot be a service's name", e.Service))
	}
	for _, p := range parameters {
		if err := p.apply(&spec, e.Param(p.name)); err != nil {
			problems = append(problems, err)
		}
	}
	return spec, append(problems, together(spec)...)
}

// Unknown lists parameters that nobody reads: a misspelt one, most likely.
func (e Env) Unknown() []string {
	var unknown []string
	for name := range e.params {
		if !isParameter(name) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// stripInstance takes the ":N" of a clone's instance off a resource's name.
func stripInstance(name string) string {
	if base, n, ok := strings.Cut(name, ":"); ok && n != "" && strings.Trim(n, "0123456789") == "" {
		return base
	}
	return name
}

// milliseconds reads Pacemaker's times; anything else is 0.
func milliseconds(s string) time.Duration {
	ms, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || ms < 0 {
		return 0
	}
	return min(time.Duration(min(ms, int64(longestTimeout/time.Millisecond)))*time.Millisecond, longestTimeout)
}
