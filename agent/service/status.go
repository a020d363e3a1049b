package service

import (
	"fmt"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// Status is this node's view of the service, as gossiped and shown.
func (s *Service) Status() api.ServiceStatus {
	rec := s.snapshot()
	// Before the head: a time that is older than the head it is shown with is safe,
	// a newer one would let a standby claim data that it lacks.
	s.mu.Lock()
	freshAt := s.freshAt
	s.mu.Unlock()
	term, _ := s.Replica.Term()
	head, err := s.Replica.Head()
	st := api.ServiceStatus{
		Service: s.name, Role: rec.Role, Term: max(term, rec.Term), Committed: head.String(), Clean: rec.Clean,
		Applied: s.Replica.Applied().String(), Diverged: s.Replica.Diverged(), Lacks: s.Replica.Lacks(),
	}
	if st.Lacks > 0 {
		st.Warnings = append(st.Warnings, fmt.Sprintf("%d chunks or generations of its store were lost to damage and have not come again from another node; see understudy scrub %s there", st.Lacks, s.name))
	}
	if rec.Role == api.RoleActive {
		st.Term, st.Base, st.Applied, st.Ends = rec.Term, rec.Base, head.String(), s.Replica.Ends()
		st.Loose = rec.Spec.Consistency == api.ConsistencyNone
		held, missing, _ := s.VIP.Held(rec.Spec)
		st.VIPs = held
		for _, m := range missing {
			st.Warnings = append(st.Warnings, "address "+m+" is not on this node")
		}
	}
	if err != nil {
		st.Warnings = append(st.Warnings, "the store cannot be read: "+err.Error())
	}
	if rec.Step != stepNone {
		st.Warnings = append(st.Warnings, "under way: "+string(rec.Step))
	}
	if rec.Restore != "" {
		st.Warnings = append(st.Warnings, fmt.Sprintf("held at generation %s: a promotion of this node goes back to it (understudy restore %s --cancel: it does not)", rec.Restore, s.name))
	}
	s.suspectStatus(&st)
	var room string
	if st.Space, room = s.space(); room != "" {
		st.Warnings = append(st.Warnings, room)
	}
	if rec.Role == api.RoleStandby {
		if what := s.Replica.Unkept(); what != "" {
			st.Warnings = append(st.Warnings, "its data is without what the system here does not take (the store has it): "+what)
		}
		st.Blockers = s.unreadiness()
		var why string
		if st.Health, why = s.lookStandby(); why != "" {
			st.Warnings = append(st.Warnings, why)
		}
	}
	p50, p99, most := s.Replica.Freezes()
	st.FreezeP50, st.FreezeP99, st.FreezeMax = api.Duration(p50), api.Duration(p99), api.Duration(most)
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.Health == "" {
		st.Health = s.health
	}
	st.Score, st.Images, st.Missing = s.score, s.present, s.missing
	if rec.Role == api.RoleActive {
		st.Sockets = s.sockets
	}
	if !freshAt.IsZero() {
		st.FreshAt = freshAt.UnixNano()
	}
	if s.problem != "" {
		st.Warnings = append(st.Warnings, "replication: "+s.problem)
	}
	if why := s.hookWarningLocked(); why != "" {
		st.Warnings = append(st.Warnings, why)
	}
	if s.cut != "" {
		st.Warnings = append(st.Warnings, s.cut)
	}
	st.Warnings = append(st.Warnings, s.caveats...)
	for _, why := range s.lagging {
		st.Warnings = append(st.Warnings, why)
	}
	slices.Sort(st.Warnings)
	return st
}

// Ready says whether a takeover would succeed now, from this node and its gossip.
func (s *Service) Ready() api.Readiness {
	self := api.NodeStatus{Node: s.Node, Alive: true, Services: []api.ServiceStatus{s.Status()}}
	r := api.Readiness{Service: s.name}
	best := -1
	var reasons []string
	s.mu.Lock()
	r.Caveats = slices.Clone(s.caveats)
	s.mu.Unlock()
	for _, n := range append([]api.NodeStatus{self}, s.Gossip.Peers()...) {
		st, ok := find(n, s.name)
		switch {
		case !n.Alive:
			reasons = append(reasons, fmt.Sprintf("%s is not heard of since %s", n.Node, n.SeenAgo))
		case n.Version != 0 && n.Version != api.Version:
			reasons = append(reasons, fmt.Sprintf("%s speaks protocol %d and this node %d: upgrade the older of the two", n.Node, n.Version, api.Version))
		case !ok:
			reasons = append(reasons, fmt.Sprintf("%s does not take part in the service", n.Node))
		case st.Role == api.RoleActive:
			r.Active = n.Node
		case len(st.Blockers) > 0 || st.Role != api.RoleStandby:
			reasons = append(reasons, blockedBy(n.Node, st)...)
		case st.Score > best:
			best, r.Standby = st.Score, n.Node
			r.RPO = api.Duration(Age(st, n, s.Now()))
		}
	}
	if r.Active == "" {
		reasons = append([]string{"no node is active"}, reasons...)
	}
	r.Ready = r.Active != "" && r.Standby != ""
	if !r.Ready {
		r.Blockers = reasons
	}
	return r
}

func blockedBy(node string, st api.ServiceStatus) []string {
	if len(st.Blockers) == 0 {
		return []string{fmt.Sprintf("%s is %s", node, st.Role)}
	}
	var out []string
	for _, b := range st.Blockers {
		out = append(out, node+": "+b)
	}
	return out
}

// Age is how old the node's copy is: what would be lost if the active failed now.
func Age(st api.ServiceStatus, n api.NodeStatus, now time.Time) time.Duration {
	if st.FreshAt == 0 {
		return 0
	}
	return max(0, now.Sub(time.Unix(0, st.FreshAt).Add(-time.Duration(n.ClockOffset))))
}

// replicationProblem keeps the last cycle's error for status, and notes when it changes.
func (s *Service) replicationProblem(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	before := s.problem
	s.problem = text
	s.mu.Unlock()
	switch text {
	case before:
	case "":
		s.decide(api.EventReplication, s.snapshot().Term, "replication works again")
	default:
		s.decide(api.EventReplication, s.snapshot().Term, "replication: %s", text)
	}
}
