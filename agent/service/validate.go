package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// validate names every problem of the parameters on this node. The caveats are what
// the operator has to know of a service that is right.
func (s *Service) validate(ctx context.Context, spec api.Spec) (caveats []string, err error) {
	var wrong []string
	if err := s.VIP.Check(spec); err != nil {
		wrong = append(wrong, err.Error())
	}
	if other := s.otherService(spec); other != "" {
		wrong = append(wrong, other)
	}
	missing, err := s.missingContainers(ctx, spec)
	switch {
	case err != nil:
		return nil, err
	case len(missing) == len(spec.Containers)+len(spec.Absent):
		// A standby before its first synchronisation has none; that is all right.
	case len(missing) > 0 && !s.defines(missing):
		wrong = append(wrong, fmt.Sprintf("%s does not exist on %s while %d others do", named(missing, spec.Absent), s.Node, len(spec.Containers)+len(spec.Absent)-len(missing)))
	case len(missing) > 0:
		// They were removed here, and are made again as the replica's definition says.
	default:
		var problems []string
		if problems, caveats, err = s.Runtime.Problems(ctx, spec); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.caveats = caveats
		s.mu.Unlock()
		wrong = append(wrong, problems...)
	}
	return caveats, s.invalid(wrong)
}

// invalid is the error for what is wrong with a service on this node; nil for nothing.
func (s *Service) invalid(wrong []string) error {
	if len(wrong) == 0 {
		return nil
	}
	return api.Errorf(api.KindInstalled, "correct it and try: pcs resource cleanup", "service %s on %s: %s", s.name, s.Node, strings.Join(wrong, "; "))
}

// otherService says so when the store under this name holds the data of other
// containers: a service that was deleted, and another made under its name.
func (s *Service) otherService(spec api.Spec) string {
	if s.Replica == nil {
		return ""
	}
	def, head, err := s.headDefinition()
	if err != nil || head.IsZero() || len(def.Names) == 0 || len(spec.Containers) == 0 || len(without(spec.Containers, def.Names)) < len(spec.Containers) {
		return ""
	}
	return fmt.Sprintf("the store holds generation %s of other containers (%s) under this name: name the resource differently, or move services/%s, live/%s and state/%s.json in the store's directory away on every node",
		head, strings.Join(def.Names, ", "), s.name, s.name, s.name)
}

func (s *Service) missingContainers(ctx context.Context, spec api.Spec) (missing []string, err error) {
	for _, name := range spec.Containers {
		_, err := s.Runtime.Inspect(ctx, name)
		if errors.Is(err, ErrNoContainer) {
			missing = append(missing, name)
		} else if err != nil {
			return nil, fmt.Errorf("container %s of service %s: %w", name, s.name, err)
		}
	}
	return append(missing, spec.Absent...), nil
}

// named says of what kind the missing are: what is absent says it itself.
func named(missing, absent []string) string {
	var out []string
	for _, m := range missing {
		if !slices.Contains(absent, m) {
			m = "container " + m
		}
		out = append(out, m)
	}
	return strings.Join(out, ", ")
}

// defines says whether the replica's definition can make the containers.
func (s *Service) defines(names []string) bool {
	if s.Replica == nil {
		return false // a service that is only being validated
	}
	def, head, err := s.headDefinition()
	return err == nil && !head.IsZero() && len(without(names, def.Names)) == 0
}

func without(list, drop []string) []string {
	var left []string
	for _, v := range list {
		found := false
		for _, d := range drop {
			found = found || d == v
		}
		if !found {
			left = append(left, v)
		}
	}
	return left
}
