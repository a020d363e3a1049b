package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// monitor says what is true on this node. It is asked every few seconds and
// costs no call to Podman while all is well.
func (s *Service) monitor(ctx context.Context, req api.ActionRequest) (api.ActionResult, error) {
	s.heedEviction()
	rec := s.snapshot()
	if rec.Role == api.RoleStopped && rec.Step == stepNone {
		return s.result(""), nil
	}
	problem := ""
	if req.Probe {
		// Pacemaker that probes may have restarted and lost the score.
		if err := s.offerScore(ctx); err != nil {
			s.log.Warn("the promotion score cannot be restored", "error", err)
		}
	} else if !req.Spec.Empty() && !specEqual(rec.Spec, req.Spec) {
		// A reload that came while no agent was there, or could not be carried out. The
		// service runs as it did before: that is no failure.
		if _, err := s.reload(ctx, req.Spec); err != nil && api.KindOf(err) != api.KindBusy {
			problem = "changed parameters are not taken up: " + err.Error()
		}
	}
	health, message := s.look(ctx)
	s.mu.Lock()
	s.health = health
	s.mu.Unlock()
	res := s.result(message)
	res.Problem = problem
	return res, nil
}

// look judges the service on this node: processes and addresses by the kernel,
// HEALTHCHECKs by what Podman said last.
func (s *Service) look(ctx context.Context) (api.Health, string) {
	rec := s.snapshot()
	if rec.Step == stepPromoting || rec.Step == stepDemoting || rec.Step == stepRestoring {
		if s.op.TryLock() { // nobody is at it: it was interrupted
			s.op.Unlock()
			return api.HealthFailed, "the agent was interrupted while " + string(rec.Step)
		}
		return api.HealthHealthy, string(rec.Step)
	}
	if rec.Role == api.RoleStandby {
		return s.lookStandby()
	}
	health, wrong := s.lookContainers(ctx, rec.Spec.Containers)
	if health == api.HealthFailed {
		if names, changed := s.membersAnew(ctx, rec.Spec); changed {
			health, wrong = s.lookContainers(ctx, names)
		}
	}
	if _, missing, err := s.VIP.Held(rec.Spec); err != nil || len(missing) > 0 {
		health = api.HealthFailed
		if err != nil {
			wrong = append(wrong, err.Error())
		} else {
			wrong = append(wrong, "address "+strings.Join(missing, ", ")+" is gone")
		}
	}
	return health, strings.Join(wrong, "; ")
}

func (s *Service) lookContainers(ctx context.Context, names []string) (health api.Health, wrong []string) {
	health = api.HealthHealthy
	for _, name := range names {
		h, why := s.lookContainer(ctx, name)
		if why != "" {
			wrong = append(wrong, why)
		}
		health = worse(health, h)
	}
	return health, wrong
}

func (s *Service) lookStandby() (api.Health, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range s.seen {
		if c.Running && !c.Infra && s.Procs.Running(c) {
			return api.HealthFailed, fmt.Sprintf("container %s runs on a standby: somebody started it behind Pacemaker's back", name)
		}
	}
	return api.HealthHealthy, ""
}

// lookContainer judges one container of the active service.
func (s *Service) lookContainer(ctx context.Context, name string) (api.Health, string) {
	s.mu.Lock()
	c, ok := s.seen[name]
	s.mu.Unlock()
	if !ok || !s.Procs.Running(c) {
		// It may have been started anew by hand, or this agent may be new: ask.
		fresh, err := s.inspect(ctx, name)
		switch {
		case errors.Is(err, ErrNoContainer):
			return api.HealthFailed, "container " + name + " does not exist"
		case err != nil && !ok:
			return api.HealthUnknown, "Podman does not say whether container " + name + " runs: " + err.Error()
		case err != nil:
			return api.HealthFailed, "the process of container " + name + " is gone"
		case !fresh.Running:
			return api.HealthFailed, "container " + name + " is not running"
		}
		c = fresh
	}
	if c.Health == api.HealthUnhealthy {
		return c.Health, "the HEALTHCHECK of container " + name + " fails"
	}
	return c.Health, ""
}

// worse gives the one that matters more.
func worse(a, b api.Health) api.Health {
	order := map[api.Health]int{"": 0, api.HealthHealthy: 0, api.HealthStarting: 1, api.HealthUnknown: 2, api.HealthUnhealthy: 3, api.HealthFailed: 4}
	if order[b] > order[a] {
		return b
	}
	return a
}

// inspect asks Podman and keeps the answer.
func (s *Service) inspect(ctx context.Context, name string) (Container, error) {
	c, err := s.Runtime.Inspect(ctx, name)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.seen[name] = c
	case errors.Is(err, ErrNoContainer):
		delete(s.seen, name)
	}
	return c, err
}

// refreshTime bounds asking about all containers: a Podman that hangs must not
// hold up replication.
const refreshTime = 2 * time.Second

// refresh asks Podman about every container; what it does not answer stays as it was.
func (s *Service) refresh(ctx context.Context) error {
	ictx, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	for _, name := range s.snapshot().Spec.Containers {
		if _, err := s.inspect(ictx, name); err != nil && !errors.Is(err, ErrNoContainer) {
			if ctx.Err() == nil {
				s.log.Warn("Podman does not answer about a container", "container", name, "error", err)
			}
			return err
		}
	}
	if rec := s.snapshot(); rec.Role == api.RoleActive && rec.Step == stepNone {
		s.saveLocal()
	}
	return nil
}
