package service

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication/durable"
)

// saveLocal leaves on the node's tmpfs what the resource agent needs to answer
// monitor and stop while no agent does. It lists everything that can be here.
func (s *Service) saveLocal() {
	rec := s.snapshot()
	l := api.LocalRecord{Version: api.Version, Service: s.name, Role: rec.Role, Term: rec.Term, At: s.Now()}
	switch rec.Step {
	case stepPromoting:
		l.Target = api.RoleActive
	case stepDemoting:
		l.Target = api.RoleStandby
	case stepStopping:
		l.Target = api.RoleStopped
	case stepNone, stepStarting:
	}
	if rec.Role == api.RoleActive || l.Target == api.RoleActive {
		l.Addresses = rec.Spec.VIPs
	}
	s.mu.Lock()
	for _, name := range rec.Spec.Containers {
		lc := api.LocalContainer{Name: name}
		if c, ok := s.seen[name]; ok {
			lc.ID = c.ID
			if c.Running {
				lc.PID, lc.StartTime, lc.Cgroup = c.PID, c.StartTime, c.Cgroup
			}
		}
		l.Containers = append(l.Containers, lc)
	}
	s.mu.Unlock()
	b, err := json.Marshal(l)
	if err == nil {
		path := api.RecordPath(s.RunDir, s.name)
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			if old, rerr := os.ReadFile(path); rerr == nil && sameLocal(old, l) {
				return
			}
			err = durable.WriteFile(path, b, 0o600, nil)
		}
	}
	if err != nil {
		s.log.Error("the record for the resource agent cannot be written", "error", err)
	}
}

// sameLocal says whether an old record differs only in its time.
func sameLocal(old []byte, l api.LocalRecord) bool {
	var o api.LocalRecord
	if json.Unmarshal(old, &o) != nil {
		return false
	}
	return o.Version == l.Version && o.Role == l.Role && o.Target == l.Target && o.Term == l.Term &&
		slices.Equal(o.Addresses, l.Addresses) && slices.Equal(o.Containers, l.Containers)
}

func (s *Service) removeLocal() {
	if err := os.Remove(api.RecordPath(s.RunDir, s.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("the record for the resource agent cannot be removed", "error", err)
	}
}
