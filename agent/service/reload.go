package service

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// reload takes up parameters that can change while the service runs. What cannot
// be taken up leaves everything as it was.
func (s *Service) reload(ctx context.Context, spec api.Spec) (api.ActionResult, error) {
	if err := s.VIP.Check(spec); err != nil {
		return s.result(""), err
	}
	// Not beside an operation: a demotion must not miss an address that is added meanwhile.
	if err := s.acquire(ctx, false); err != nil {
		return s.result(""), err
	}
	defer s.op.Unlock()
	s.heedEvictionLocked()
	before := s.snapshot()
	if before.Step != stepNone {
		return s.result("the agent was interrupted while " + string(before.Step) + "; the order that takes it up brings the parameters"), nil
	}
	if before.Role != api.RoleStopped {
		// Containers and volumes change with a restart, which Pacemaker orders.
		spec = spec.WithWorkload(before.Spec)
		spec.Volumes, spec.BindMounts = before.Spec.Volumes, before.Spec.BindMounts
	}
	if before.Role == api.RoleActive {
		if err := s.moveAddresses(ctx, before.Spec, spec); err != nil {
			return s.result(""), err
		}
	}
	if err := s.adopt(spec); err != nil {
		return s.result(""), err
	}
	if before.Role == api.RoleActive {
		s.saveLocal()
	}
	s.forgetDefinition()
	s.Poke()
	signal(s.owed)
	return s.result("reloaded"), nil
}

// moveAddresses adds the new addresses before the old ones go. Meanwhile all of
// them are recorded: an agent that is killed here must not leave one behind when it
// is told to demote.
func (s *Service) moveAddresses(ctx context.Context, before, after api.Spec) error {
	_, missing, err := s.VIP.Held(after)
	if err != nil {
		return err
	}
	gone, added := before, after
	gone.VIPs, added.VIPs = without(before.VIPs, after.VIPs), missing
	if len(gone.VIPs)+len(added.VIPs) == 0 {
		return nil
	}
	if err := s.VIP.Probe(ctx, added); err != nil {
		return err
	}
	if err := s.adopt(union(before, after)); err != nil {
		return err
	}
	s.saveLocal()
	s.Crash("reload:recorded")
	// An address is taken away whatever its prefix length: where only that changes, it goes first.
	first := gone
	first.VIPs = slices.DeleteFunc(slices.Clone(gone.VIPs), func(cidr string) bool { return !hasIP(added.VIPs, ip(cidr)) })
	gone.VIPs = without(gone.VIPs, first.VIPs)
	if err := s.VIP.Remove(ctx, first); err != nil {
		return err
	}
	if err := s.VIP.Add(ctx, added); err != nil { // it has added none
		return errors.Join(err, s.adopt(before))
	}
	s.Crash("reload:added")
	if err := s.VIP.Remove(ctx, gone); err != nil {
		return err
	}
	s.Crash("reload:removed")
	s.decide(api.EventReload, s.snapshot().Term, "the parameters say so: addresses added: %s; taken away: %s", listed(added.VIPs), listed(append(first.VIPs, gone.VIPs...)))
	return nil
}

// ip is the address of a CIDR.
func ip(cidr string) string {
	addr, _, _ := strings.Cut(cidr, "/")
	return addr
}

func hasIP(cidrs []string, addr string) bool {
	return slices.ContainsFunc(cidrs, func(cidr string) bool { return ip(cidr) == addr })
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
