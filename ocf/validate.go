package ocf

import (
	"context"
	"sort"

	"github.com/understudy-ha/understudy/agent/api"
)

// deepCheck is the check level from which validate-all looks at this node too,
// and not only at the parameters (OCF 1.1).
const deepCheck = 10

// validate names every problem that the parameters alone show, and then asks the
// agent what this node lacks. The gravest decides the exit code.
func (a *act) validate(ctx context.Context) Code {
	unknown := a.env.Unknown()
	sort.Strings(unknown)
	for _, name := range unknown {
		a.warn("nobody reads the parameter %s; is it misspelt?", name)
	}
	problems := a.problems
	if worst(problems, a.action) != ErrConfigured { // else there is nothing to ask about
		if err := a.validateHere(ctx); err != nil {
			problems = append(problems, err)
		}
	}
	return a.failAll(problems)
}

func (a *act) validateHere(ctx context.Context) *api.Error {
	res, err := a.ask(ctx, api.ActionValidate)
	kind := api.KindOf(err)
	switch {
	case err == nil:
		if res.Message != "" {
			a.warn("%s", res.Message)
		}
		return nil
	case kind != api.KindUnavailable:
		return api.Errorf(kind, "", "%w", err)
	}
	if missing := a.notSetUp(); missing != nil {
		return missing
	}
	if a.env.CheckLevel < deepCheck {
		a.warn("only the parameters were checked: %v", err)
		return nil
	}
	return api.Errorf(kind, "", "%w", err)
}
