package service

import (
	"context"
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

// takeMembers makes durable which containers the definition comes to.
func (s *Service) takeMembers(def Definition) error {
	rec := s.snapshot()
	names := members(rec.Spec, def)
	if slices.Equal(names, rec.Spec.Containers) && len(rec.Spec.Absent) == 0 || len(names) == 0 {
		return nil
	}
	return s.persist(func(r *record) { r.Spec.Containers, r.Spec.Absent = names, nil })
}
