package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-ha/understudy/agent/api"
)

// repairImages makes images anew that a power cut has damaged. Until they are there again
// the node is no candidate; broken are those that could not even be removed.
func (s *Service) repairImages(ctx context.Context) (broken []string, err error) {
	m, err := s.Replica.HeadManifest()
	if err != nil || m == nil {
		return nil, err
	}
	var errs []error
	for _, id := range s.Runtime.DamagedImages(m.Images) {
		s.mu.Lock()
		s.missing, s.prepared = append(s.missing, id), ""
		s.mu.Unlock()
		s.assertScore(ctx)
		reloaded, err := s.Runtime.RepairImage(ctx, id, m.Images)
		if err != nil {
			broken = append(broken, id)
			errs = append(errs, fmt.Errorf("image %s is damaged in Podman's storage: %w", id, err))
			continue
		}
		how := "it is loaded anew from what was kept when it arrived"
		if !reloaded {
			how = "it is sent again"
		}
		s.decide(api.EventRecover, 0, "image %s was damaged in Podman's storage, as by a power cut: %s", id, how)
	}
	return broken, errors.Join(errs...)
}
