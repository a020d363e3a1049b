package ocf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// answerWithin is how long monitor waits for the agent before it looks itself.
// The agent answers from what it knows, in a millisecond.
const answerWithin = 5 * time.Second

// monitor says what is true on this node.
func (a *act) monitor(ctx context.Context) Code {
	if !api.ValidServiceName(a.spec.Service) {
		return a.failAll(a.problems)
	}
	if worst(a.problems, a.action) == ErrConfigured {
		// A wrong address is not a changed one: the agent goes by what it was told last.
		a.spec = api.Spec{Service: a.spec.Service, OnUnhealthy: a.spec.OnUnhealthy}
	}
	asking, cancel := context.WithTimeout(ctx, min(answerWithin, remaining(ctx)/2))
	defer cancel()
	res, err := a.ask(asking, api.ActionMonitor)
	switch kind := api.KindOf(err); {
	case err == nil:
		return a.conclude(res)
	case agentCannotSay(err):
		return a.monitorLocal(err)
	case kind == api.KindNotRunning, kind == api.KindNotFound:
		return NotRunning
	}
	return a.fail(err)
}

// agentCannotSay tells an agent that is away, hung or of another version from
// one that has an answer.
func agentCannotSay(err error) bool {
	switch api.KindOf(err) {
	case api.KindUnavailable, api.KindDeadline, api.KindIncompatible:
		return true
	}
	return false
}

// conclude turns what the agent says into Pacemaker's codes.
func (a *act) conclude(res api.ActionResult) Code {
	code := stateCode(res, a.spec.OnUnhealthy)
	message := res.Message
	if code == Success || code == RunningPromoted {
		if len(a.problems) > 0 {
			// It runs, with a default or a former value in place of what was asked for.
			res.Problem = a.problems[0].Error()
		}
		if res.Problem == "" {
			return code
		}
		code, message = degraded(code), res.Problem
	}
	if code != NotRunning {
		a.reason("%s", or(message, fmt.Sprintf("%s is %s, and its health is %s", a.spec.Service, res.Role, res.Health)))
	}
	return code
}

// stateCode is the table from role and health to monitor's codes. Unknown health
// is no failure: Podman does not answer, but the processes are there.
func stateCode(res api.ActionResult, onUnhealthy string) Code {
	switch res.Role {
	case api.RoleStopped:
		return NotRunning
	case api.RoleStandby:
		switch {
		case res.Health == api.HealthFailed:
			return ErrGeneric
		case res.Health == api.HealthUnhealthy && onUnhealthy != api.OnUnhealthyIgnore:
			return Degraded
		}
		return Success
	case api.RoleActive:
		switch {
		case res.Health == api.HealthFailed:
			return FailedPromoted
		case res.Health == api.HealthUnhealthy && onUnhealthy == api.OnUnhealthyFail:
			return FailedPromoted
		case res.Health == api.HealthUnhealthy && onUnhealthy != api.OnUnhealthyIgnore:
			return DegradedPromoted
		}
		return RunningPromoted
	}
	return ErrGeneric
}

func degraded(code Code) Code {
	if code == RunningPromoted {
		return DegradedPromoted
	}
	return Degraded
}

// monitorLocal answers for an agent that cannot: what it recorded last, held
// against what the kernel says. The service may well be fine.
func (a *act) monitorLocal(cause error) Code {
	rec, err := api.ReadRecord(a.RunDir, a.spec.Service)
	if errors.Is(err, fs.ErrNotExist) {
		return NotRunning
	}
	if err != nil {
		return a.fail(fmt.Errorf("%w, and what it left cannot be read: %w", cause, err))
	}
	here, err := a.kernel.look(rec)
	if err != nil {
		return a.fail(fmt.Errorf("%w, and this node cannot be looked at: %w", cause, err))
	}
	code := localCode(rec, here)
	if code == FailedPromoted {
		a.reason("%s is %s%s; gone: %s; there: %s; and %v", a.spec.Service, rec.Role, underWay(rec), list(here.gone), list(here.there), cause)
		return code
	}
	a.warn("%v; going by what is on this node: %s%s", cause, rec.Role, underWay(rec))
	return code
}

// localCode: an active service is there as a whole or has failed. In the middle
// of a change, anything of it that is there makes it one that has failed active.
func localCode(rec api.LocalRecord, here presence) Code {
	changing := rec.Target != "" && rec.Target != rec.Role
	involvesActive := rec.Role == api.RoleActive || rec.Target == api.RoleActive
	switch {
	case changing && involvesActive && len(here.there) > 0:
		return FailedPromoted
	case changing:
		return Success // neither stopped nor active: Pacemaker's next order settles it
	case rec.Role == api.RoleActive && len(here.gone) > 0:
		return FailedPromoted
	case rec.Role == api.RoleActive:
		return RunningPromoted
	case rec.Role == api.RoleStandby:
		return Success
	}
	return NotRunning
}

func underWay(rec api.LocalRecord) string {
	if rec.Target == "" || rec.Target == rec.Role {
		return ""
	}
	return ", on its way to " + string(rec.Target)
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// remaining is the time until the context ends.
func remaining(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return defaultTimeout
	}
	return max(0, time.Until(deadline))
}
