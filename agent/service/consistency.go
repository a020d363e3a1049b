package service

import (
	"context"
	"errors"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// consistently fills in what makes a capture of running containers be of one
// instant, as the service's parameters want it.
func (s *Service) consistently(q *replication.SealRequest, spec api.Spec) {
	switch spec.Consistency {
	case api.ConsistencyNone:
		q.Loose = true
		return
	case api.ConsistencyHooks:
		q.Quiesce = func(ctx context.Context) (func() error, error) {
			if err := s.hook(ctx, "before-capture", spec.BeforeCapture, spec); err != nil {
				// It may have got half of its way: what undoes it runs too.
				return nil, errors.Join(err, s.hook(context.WithoutCancel(ctx), "after-capture", spec.AfterCapture, spec))
			}
			// Also when the agent is being stopped: nobody else would do it.
			return func() error {
				return s.hook(context.WithoutCancel(ctx), "after-capture", spec.AfterCapture, spec)
			}, nil
		}
	}
	q.Freezer = s.Procs.Freezer(s.name, spec.Containers, q.FreezeMax)
}

// hook runs one of the two commands, in its time.
func (s *Service) hook(ctx context.Context, name string, command []string, spec api.Spec) error {
	if len(command) == 0 {
		return nil
	}
	limit := spec.HookTimeout
	if limit <= 0 {
		limit = api.DefaultHookTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(limit))
	defer cancel()
	if err := s.Runtime.Exec(ctx, command[0], command[1:]); err != nil {
		return api.Errorf(api.KindGeneric, "run it by hand with podman exec, or write consistency=frozen", "%s of service %s: %w", name, s.name, err)
	}
	return nil
}
