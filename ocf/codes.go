package ocf

import "github.com/understudy-ha/understudy/agent/api"

// Code is an exit code of the OCF resource agent API 1.1.
type Code int

// The codes, with what Pacemaker makes of them.
const (
	Success          Code = 0
	ErrGeneric       Code = 1 // soft: recover here or elsewhere
	ErrArgs          Code = 2 // hard: not on this node
	ErrUnimplemented Code = 3
	ErrPermission    Code = 4   // hard: not on this node
	ErrInstalled     Code = 5   // hard: not on this node
	ErrConfigured    Code = 6   // fatal: not in this cluster
	NotRunning       Code = 7   // monitor only: cleanly stopped
	RunningPromoted  Code = 8   // monitor only
	FailedPromoted   Code = 9   // active and broken
	Degraded         Code = 190 // monitor only: standby, works, look after it
	DegradedPromoted Code = 191 // monitor only: active, works, look after it
)

// codes is the one table from kinds of errors to exit codes.
var codes = map[api.Kind]Code{
	api.KindGeneric:      ErrGeneric,
	api.KindArgs:         ErrArgs,
	api.KindConfigured:   ErrConfigured,
	api.KindInstalled:    ErrInstalled,
	api.KindPermission:   ErrPermission,
	api.KindNotRunning:   NotRunning,
	api.KindNotFound:     NotRunning,
	api.KindRefused:      ErrGeneric,
	api.KindBusy:         ErrGeneric,
	api.KindDeadline:     ErrGeneric,
	api.KindUnavailable:  ErrGeneric,
	api.KindIncompatible: ErrGeneric, // soft: a node in the middle of an upgrade must not be banned
	api.KindFailedActive: FailedPromoted,
}

// codeOf is the exit code for an error of an action. "Not running" is an answer
// to monitor only: where something should have been done, it has failed.
func codeOf(err error, action string) Code {
	if err == nil {
		return Success
	}
	code, ok := codes[api.KindOf(err)]
	if !ok || (code == NotRunning && action != ActionMonitor) {
		return ErrGeneric
	}
	return code
}

// severity orders codes by what they make Pacemaker do: the whole cluster, this
// node, this try.
func (c Code) severity() int {
	switch c {
	case ErrConfigured:
		return 5
	case ErrInstalled:
		return 4
	case ErrPermission:
		return 3
	case ErrArgs:
		return 2
	case Success:
		return 0
	default:
		return 1
	}
}

// worst is the gravest code of several problems.
func worst(problems []*api.Error, action string) Code {
	code := Success
	for _, p := range problems {
		if c := codeOf(p, action); c.severity() > code.severity() {
			code = c
		}
	}
	return code
}
