package ocf

import (
	"context"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// How often an agent that is away is looked for: systemd restarts it in a
// fraction of a second.
const (
	retryFirst = 10 * time.Millisecond
	retryMost  = 200 * time.Millisecond
)

// start makes this node a standby. Nothing of the service runs yet, so a wrong
// parameter costs nothing here.
func (a *act) start(ctx context.Context) Code {
	if len(a.problems) > 0 {
		return a.failAll(a.problems)
	}
	return a.change(ctx)
}

// change asks the agent for a change of role. A tunable with a wrong value has
// its default: it must not stop a takeover.
func (a *act) change(ctx context.Context) Code {
	if worst(a.problems, a.action) == ErrConfigured {
		return a.failAll(a.problems)
	}
	for _, p := range a.problems {
		a.warn("%v; going on with the default", p)
	}
	res, err := a.insist(ctx, a.action, remaining(ctx))
	if err != nil {
		return a.fail(err)
	}
	if res.Message != "" {
		a.warn("%s", res.Message)
	}
	return Success
}

// reload takes up changed parameters. A failure here would make Pacemaker restart
// the service, so what cannot be taken up is left as it was: monitor reports it,
// and brings the parameters to an agent that was away.
func (a *act) reload(ctx context.Context) Code {
	if len(a.problems) > 0 {
		for _, p := range a.problems {
			a.warn("not taken up: %v", p)
		}
		return Success
	}
	_, err := a.insist(ctx, api.ActionReload, remaining(ctx))
	switch api.KindOf(err) {
	case api.KindNotFound, api.KindInstalled, api.KindPermission: // there is nothing to disturb
		return a.fail(err)
	}
	if err != nil {
		a.warn("not taken up yet: %v", err)
	}
	return Success
}

// insist asks until the agent answers: it may be restarting, or busy with an
// order that Pacemaker has given up. Actions are idempotent. An agent that is
// away is waited for no longer than patience; nobody waits past the context.
func (a *act) insist(ctx context.Context, action string, patience time.Duration) (api.ActionResult, error) {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var away error
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		res, err := a.ask(ctx, action)
		waiting := ctx
		switch kind := api.KindOf(err); {
		case err == nil:
			return res, nil
		case kind == api.KindUnavailable:
			if missing := a.notSetUp(); missing != nil {
				return res, missing
			}
			away, waiting = err, patient
		case away != nil && kind == api.KindDeadline:
			return res, away // says more than that time ran out while connecting
		case kind != api.KindBusy:
			return res, err
		}
		select {
		case <-waiting.Done():
			return res, err
		case <-time.After(pause):
		}
	}
}

func (a *act) ask(ctx context.Context, action string) (api.ActionResult, error) {
	if a.env.PretendAbsent {
		return api.ActionResult{}, api.Errorf(api.KindUnavailable, "", "pretending that understudy is not installed")
	}
	return a.agent.Do(ctx, a.spec.Service, action, api.ActionRequest{Spec: a.spec, Probe: action == api.ActionMonitor && a.env.Probe()})
}
