package service

import (
	"context"
	"errors"
	"slices"

	"github.com/understudy-ha/understudy/agent/api"
)

// What an operator names need not be containers: a pod, a unit or a YAML file comes to
// some, and a container's pod comes to one more. Everything here works with containers:
// Spec.Containers of the record is all of them, by names that are the same on every node.
// They are found out on the node that has them, at the start and whenever the definition
// is read; a standby takes them from the definition that its replica carries.

// Resolve fills in what the workload of an order comes to. validate, and the start of a
// service that is stopped here, look at this node; every other order, also a start of what
// has started, goes on with what is known: Podman may hang.
func (s *Service) Resolve(ctx context.Context, action string, spec api.Spec) (api.Spec, error) {
	if spec.Empty() {
		return spec, nil
	}
	spec.Named, spec.Absent = spec.Containers, nil
	rec := s.snapshot()
	same := rec.Spec.SameWorkload(spec)
	fresh := action == api.ActionStart && (!same || rec.Role == api.RoleStopped)
	if action != api.ActionValidate && !fresh {
		if same {
			spec = spec.WithWorkload(rec.Spec)
		}
		return spec, nil
	}
	if problems, err := s.Runtime.UnitProblems(spec); err != nil || len(problems) > 0 {
		return spec, errors.Join(err, s.invalid(problems))
	}
	if action == api.ActionStart {
		if err := s.adoptUnits(ctx, spec); err != nil {
			return spec, err
		}
	}
	names, absent, err := s.Runtime.Members(ctx, spec)
	if err != nil {
		return spec, err
	}
	spec.Containers, spec.Absent = names, absent
	if len(absent) == 0 || s.Replica == nil {
		return spec, nil
	}
	def, head, err := s.headDefinition()
	if err == nil && !head.IsZero() {
		spec.Containers, spec.Absent = members(spec, def), nil
	}
	return spec, err
}

// adoptUnits takes the workload's units out of systemd's hands. Where there is no history
// yet, or this node is active, it has what they describe made.
func (s *Service) adoptUnits(ctx context.Context, spec api.Spec) error {
	if len(spec.Quadlet) == 0 {
		return nil
	}
	head, err := s.Replica.Head()
	if err != nil {
		return err
	}
	changes, err := s.Runtime.Adopt(ctx, spec, head.IsZero() || s.Role() == api.RoleActive)
	for _, c := range changes {
		s.decide(api.EventStart, s.snapshot().Term, "%s", c)
	}
	return err
}

// members are the containers that the workload comes to, by a definition of it.
func members(spec api.Spec, def Definition) []string {
	if spec.Indirect() {
		return def.Names
	}
	if spec.Named == nil { // recorded before there were pods
		return spec.Containers
	}
	var out []string
	for _, name := range spec.Named {
		if infra := def.Infra[name]; infra != "" && !slices.Contains(out, infra) {
			out = append(out, infra)
		}
		out = append(out, name)
	}
	return out
}

// membersAnew looks what the workload comes to now: a pod that was made again, in
// maintenance, has a namespace container of another name, and the next cycle, which would see
// that, may come after Pacemaker's question. It says whether it is anything else.
func (s *Service) membersAnew(ctx context.Context, spec api.Spec) (names []string, changed bool) {
	if !spec.Indirect() {
		return nil, false
	}
	names, absent, err := s.Runtime.Members(ctx, spec)
	if err != nil || len(absent) > 0 || slices.Equal(names, spec.Containers) {
		return nil, false
	}
	if err := s.takeMembers(Definition{Names: names}); err != nil {
		s.log.Warn("it cannot be noted which containers the service has now", "error", err)
		return nil, false
	}
	return names, true
}

// takeMembers makes durable which containers the definition comes to.
func (s *Service) takeMembers(def Definition) error {
	rec := s.snapshot()
	names := members(rec.Spec, def)
	if slices.Equal(names, rec.Spec.Containers) && len(rec.Spec.Absent) == 0 || len(names) == 0 {
		return nil
	}
	return s.persist(func(r *record) { r.Spec.Containers, r.Spec.Absent = names, nil })
}
