package service

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// Promotion scores. Pacemaker promotes the highest; a node without one is not promoted.
const (
	scoreActive  = 1000 // stay
	scoreNewest  = 200  // was active, and what it wrote last did not reach any other node
	scoreReplica = 100  // complete, fresh, prepared
	scoreOrigin  = 10   // data of its own, and no other node has any
)

// recentGossip is how old a peer's own words may be to decline on them.
const recentGossip = 1500 * time.Millisecond

// activePeer is what the node that is active says of the service.
func (s *Service) activePeer() (api.ServiceStatus, bool) {
	st, _, ok := s.activeNode()
	return st, ok
}

func (s *Service) activeNode() (api.ServiceStatus, api.NodeStatus, bool) {
	for _, n := range s.Gossip.Peers() {
		if !n.Alive {
			continue
		}
		if st, ok := find(n, s.name); ok && st.Role == api.RoleActive {
			return st, n, true
		}
	}
	return api.ServiceStatus{}, api.NodeStatus{}, false
}

func find(n api.NodeStatus, service string) (api.ServiceStatus, bool) {
	for _, st := range n.Services {
		if st.Service == service {
			return st, true
		}
	}
	return api.ServiceStatus{}, false
}

// blockers are the reasons, in words, why this node must not be promoted now.
// None: a promotion would succeed, as far as can be known ahead.
func (s *Service) blockers() []string {
	rec := s.snapshot()
	if rec.Role != api.RoleStandby || rec.Step != stepNone {
		return []string{fmt.Sprintf("it is %s, not a standby at rest", orStep(rec))}
	}
	head, err := s.Replica.Head()
	if err != nil {
		return []string{"the store cannot be read: " + err.Error()}
	}
	why := s.newerElsewhere(head)
	if head.IsZero() {
		if !rec.Origin {
			why = append(why, s.noReplica())
		}
		return why
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.missing {
		why = append(why, "image "+id+" is not here yet")
	}
	why = append(why, s.blocked...)
	for _, about := range slices.Sorted(maps.Keys(s.unready)) {
		if g := s.unready[about]; time.Since(g.since) > patience {
			why = append(why, about+": "+g.what)
		}
	}
	if lag, known := s.lagLocked(); known && rec.Spec.MaxRPO > 0 && lag > time.Duration(rec.Spec.MaxRPO) {
		why = append(why, fmt.Sprintf("the replica is %s behind, more than max-rpo=%s", lag.Round(time.Second), rec.Spec.MaxRPO))
	}
	return why
}

// unreadiness is the blockers, and where there is none, whether it is known that none
// is to come: what the first generation names has to be made once, and what was made
// is looked at again after the agent was restarted. It is no reason to refuse an order:
// that finds out by itself.
func (s *Service) unreadiness() []string {
	why := s.blockers()
	rec := s.snapshot()
	if len(why) > 0 || rec.Role != api.RoleStandby {
		return why
	}
	if head, err := s.Replica.Head(); err != nil || head.IsZero() {
		return why
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.complete {
		return nil
	}
	text := "its data and containers are not complete yet"
	if g, ok := s.unready["the live tree"]; ok {
		text += ": " + g.what
	}
	return []string{text}
}

func orStep(r record) string {
	if r.Step != stepNone {
		return string(r.Step)
	}
	return string(r.Role)
}

// lagLocked is how far the replica was behind when the active was last heard:
// an active that is gone for a day does not make the replica a day old. s.mu is held.
func (s *Service) lagLocked() (time.Duration, bool) {
	if s.freshAt.IsZero() || s.heardAt.IsZero() {
		return 0, false
	}
	return max(0, s.heardAt.Sub(s.freshAt)), true
}

// newerElsewhere names live peers that are not active and have what we lack.
// Its use is only to decline: their data comes here, or they are promoted.
func (s *Service) newerElsewhere(head replication.ID) []string {
	var why []string
	for _, n := range s.Gossip.Peers() {
		st, ok := find(n, s.name)
		if !ok || !n.Alive || st.Role == api.RoleActive || time.Duration(n.SeenAgo) > recentGossip {
			continue
		}
		theirs, err := replication.ParseID(st.Committed)
		if err == nil && theirs.Compare(head) > 0 {
			why = append(why, fmt.Sprintf("%s has the newer generation %s", n.Node, theirs))
		}
	}
	if active, node, ok := s.activeNode(); ok && head.IsZero() {
		why = append(why, fmt.Sprintf("%s is active with generation %s", node.Node, active.Committed))
	}
	return why
}

// wantScore is the score that this node's state deserves.
func (s *Service) wantScore() int {
	rec := s.snapshot()
	switch {
	case rec.Role == api.RoleActive:
		return scoreActive
	case rec.Role != api.RoleStandby || len(s.unreadiness()) > 0:
		return 0
	}
	if head, err := s.Replica.Head(); err != nil || head.IsZero() {
		return scoreOrigin
	}
	if rec.Newest || rec.Restore != "" { // an operator wants it here
		return scoreNewest
	}
	return scoreReplica
}

// assertScore tells Pacemaker the score where it changed.
func (s *Service) assertScore(ctx context.Context) {
	want := s.wantScore()
	s.mu.Lock()
	same := s.scoreSet && s.score == want
	s.mu.Unlock()
	if same {
		return
	}
	if err := s.writeScore(ctx, want); err != nil && ctx.Err() == nil {
		s.log.Warn("the promotion score cannot be written", "error", err)
	}
}

// offerScore writes the score whether it changed or not: after a start or a
// probe, when Pacemaker may have lost it.
func (s *Service) offerScore(ctx context.Context) error {
	return s.writeScore(ctx, s.wantScore())
}

func (s *Service) clearScore(ctx context.Context) error { return s.writeScore(ctx, 0) }

func (s *Service) writeScore(ctx context.Context, score int) error {
	var err error
	if score == 0 {
		err = s.Cluster.ClearScore(ctx, s.name)
	} else {
		err = s.Cluster.SetScore(ctx, s.name, score)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.score, s.scoreSet = score, err == nil
	return err
}

// noReplica says why there is nothing to promote here.
func (s *Service) noReplica() string {
	if _, ok := s.activePeer(); ok {
		return "no replica: the first synchronisation has not finished"
	}
	spec := s.snapshot().Spec
	if len(spec.Absent) > 0 {
		return fmt.Sprintf("no replica, and not all of the service exists here: there is no %s", strings.Join(spec.Absent, ", no "))
	}
	return fmt.Sprintf("no replica, and not all of the containers %s exist here: make them on one node, or correct containers=", strings.Join(spec.Containers, ", "))
}
