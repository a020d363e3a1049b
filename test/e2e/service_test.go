//go:build lab

package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

// service is one that a test makes beside the cluster's own.
type service struct {
	c    *cluster
	name string
}

// create hands it to Pacemaker.
func (s service) create(t *testing.T, params string) {
	t.Helper()
	s.c.sh(t, s.c.Node("n1"), "pcs resource create "+s.name+" ocf:understudy:service "+params+
		" op monitor interval=10s role=Promoted op monitor interval=11s role=Unpromoted promotable")
}

// role of the service on a node.
func (s service) role(t *testing.T, n *lab.Node) api.Role {
	t.Helper()
	sv, err := s.c.serviceCalled(n, s.name)
	must(t, err)
	return sv.Role
}

// ready waits until a takeover would succeed, and says who is what.
func (s service) ready(t *testing.T) (active, standby *lab.Node) {
	t.Helper()
	eventually(t, 5*time.Minute, s.name+" to be ready for a takeover", func() error {
		active, standby = nil, nil
		for _, n := range s.c.Nodes() {
			sv, err := s.c.serviceCalled(n, s.name)
			if err != nil {
				return err
			}
			if sv.Role == api.RoleActive {
				active = n
			} else {
				standby = n
			}
		}
		if active == nil || standby == nil {
			return errors.New("no node is active")
		}
		r, err := s.c.Agent(active).Ready(limited(t, 5*time.Second), s.name)
		if err == nil && !r.Ready {
			err = errors.New(strings.Join(r.Blockers, "; "))
		}
		return err
	})
	return active, standby
}

// remove takes the service away again, and with the script what it was made of.
func (s service) remove(t *testing.T, script string) {
	if interrupted.Err() != nil {
		return
	}
	must(t, s.c.EachNode(func(n *lab.Node) error { return n.Boot(limited(t, 2*time.Minute)) }))
	s.c.sh(t, s.c.Node("n1"), "pcs resource disable "+s.name+" --wait=60 >/dev/null 2>&1 || true; pcs resource delete "+s.name+" --force >/dev/null 2>&1 || true")
	must(t, s.c.EachNode(func(n *lab.Node) error {
		_, err := n.Shell(limited(t, time.Minute), script)
		return err
	}))
}
