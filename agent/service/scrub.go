package service

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// Busy says whether an operation is under way: a takeover, a hand-over, a stop. Whatever
// can wait then does.
func (s *Service) Busy() bool { return s.operations.Load() > 0 }

// Roots are where the head's volumes are on this node.
func (s *Service) Roots(ctx context.Context) (map[string]string, error) {
	m, err := s.Replica.HeadManifest()
	if err != nil || m == nil {
		return nil, nil //nolint:nilerr // a head that cannot be read is what a scrub is for
	}
	var names []string
	for _, v := range m.Volumes {
		names = append(names, v.Name)
	}
	return s.Runtime.VolumePaths(ctx, names)
}

// KeepForeign says that somebody has written to a standby's live tree behind the
// cluster's back. The standby's loop archives that before the generation's
// content takes its place.
func (s *Service) KeepForeign() {
	s.foreign.Store(true)
	s.Poke()
}

// keepForeign is for the standby's loop.
func (s *Service) keepForeign(ctx context.Context) error {
	if !s.foreign.Load() {
		return nil
	}
	req, err := s.sealRequest(ctx, s.snapshot().Term)
	if err != nil {
		return err
	}
	archived, err := s.Replica.ArchiveForeign(ctx, req)
	if err != nil {
		return fmt.Errorf("service %s: what was written on %s outside the cluster cannot be kept: %w", s.name, s.Node, err)
	}
	if archived != "" {
		s.decide(api.EventDiverged, req.Term, "what was written here outside the cluster is archived as %[1]s: understudy restore %[2]s %[1]s --to DIR", archived, s.name)
	}
	s.foreign.Store(false)
	return nil
}

// Scrubbed notes what a scrub found, for people.
func (s *Service) Scrubbed(format string, args ...any) {
	s.decide(api.EventScrub, s.snapshot().Term, format, args...)
}

// noteLacks notes when the disk has forgotten something, and when it is here again.
func (s *Service) noteLacks() {
	n := s.Replica.Lacks()
	s.mu.Lock()
	before := s.lacks
	s.lacks = n
	s.mu.Unlock()
	switch {
	case n > 0 && before == 0:
		s.decide(api.EventScrub, s.snapshot().Term, "%d chunks or generations of the store were lost to damage and are asked of the other nodes; understudy scrub %s shows what", n, s.name)
	case n == 0 && before > 0:
		s.decide(api.EventScrub, s.snapshot().Term, "what the store had lost is here again")
	}
}

// mendEvery is how often a node is sent what it has lost, should that not help.
const mendEvery = 30 * time.Second

// mendOthers sends what other nodes say that they have lost. The active does so when
// it ships; a standby, because the active may be the one.
func (s *Service) mendOthers(ctx context.Context) {
	if time.Since(s.mendedAt) < mendEvery {
		return
	}
	for _, n := range s.Gossip.Peers() {
		if st, ok := find(n, s.name); !ok || !n.Alive || st.Lacks == 0 {
			continue
		}
		s.mendedAt = time.Now()
		if err := s.Peers.Mend(ctx, s.name, n.Node); err != nil && ctx.Err() == nil {
			s.log.Warn("what a peer has lost cannot be sent to it", "peer", n.Node, "error", err)
		}
	}
}
