package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

// service is one container under Pacemaker and Understudy, with one volume.
type service struct {
	name  string
	image string // "": the tool's
	args  string // of the container's program
	mount string // of the volume in the container; "": /data
	// interval between captures. "1h" for a service whose cycles are asked for one by
	// one: nothing else happens while one is timed.
	interval string
	fill     func(ctx context.Context, dir string) error // makes the volume's first content on n1; may be nil
}

// sized names a service that is another one at each size.
func sized(name string, sh shape) string { return fmt.Sprintf("%s-%d", name, sh.size) }

func (v service) volume() string { return v.name + "-data" }

// dir is where the volume's tree is, on both nodes.
func (v service) dir() string { return "/var/lib/containers/storage/volumes/" + v.volume() + "/_data" }

// serve makes a service on n1 and waits until n2 could take over. Another one that
// was there is removed first; the same one is kept.
func (s *site) serve(ctx context.Context, v service) error {
	if s.current.name == v.name {
		return nil
	}
	if err := s.remove(ctx); err != nil {
		return err
	}
	if v.image == "" {
		v.image = image
	}
	if v.mount == "" {
		v.mount = "/data"
	}
	if _, err := s.n1.Exec(ctx, "podman", "volume", "create", v.volume()); err != nil {
		return err
	}
	s.current, s.files = v, 0
	if v.fill != nil {
		if err := v.fill(ctx, v.dir()); err != nil {
			return err
		}
	}
	_, err := s.n1.Shell(ctx, fmt.Sprintf(`podman create --name %[1]s -v %[2]s:%[3]s %[4]s %[5]s >/dev/null
pcs resource create %[1]s ocf:understudy:service containers=%[1]s interval=%[6]s max-rpo=24h \
    op monitor interval=10s role=Promoted op monitor interval=11s role=Unpromoted promotable`,
		v.name, v.volume(), v.mount, v.image, v.args, v.interval))
	if err != nil {
		return err
	}
	return s.ready(ctx)
}

// ready returns when n1 is active and n2 holds what n1 has sealed, applied.
func (s *site) ready(ctx context.Context) error {
	err := until(ctx, 5*time.Minute, s.current.name+" to be ready for a takeover", func() error {
		active, err := s.status(ctx, s.n1)
		if err == nil && active.Role != api.RoleActive {
			err = fmt.Errorf("n1 is %s", active.Role)
		}
		if err != nil {
			return err
		}
		r, err := s.Agent(s.n1).Ready(ctx, s.current.name)
		if err == nil && !r.Ready {
			err = fmt.Errorf("%v", r.Blockers)
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		seen, _ := s.n1.Exec(ctx, "crm_mon", "-1", "--inactive", "--failcounts")
		err = fmt.Errorf("%w; Pacemaker says: %s", err, seen)
	}
	return err
}

// remove removes the service that there is, with all that the agents keep of it, and
// starts the agents anew: each service begins with agents that know nothing.
func (s *site) remove(ctx context.Context) error {
	v := s.current
	if v.name == "" {
		return nil
	}
	// Without --force: that would leave it running, as an orphan.
	if _, err := s.n1.Exec(ctx, "pcs", "resource", "delete", v.name); err != nil {
		return err
	}
	err := until(ctx, time.Minute, v.name+" to be stopped", func() error {
		for _, n := range s.Nodes() {
			st, err := s.status(ctx, n)
			if err == nil && st.Role != api.RoleStopped {
				err = fmt.Errorf("on %s it is %s", n.Name(), st.Role)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = s.EachNode(func(n *lab.Node) error {
		_, err := n.Shell(ctx, fmt.Sprintf(`systemctl stop understudy
podman rm -f -i -t 0 %[1]s >/dev/null
podman volume rm -f %[2]s >/dev/null
rm -rf %[3]s/services/%[1]s %[3]s/live/%[1]s %[3]s/state/%[1]s* /run/understudy/services/%[1]s*
systemctl start understudy
understudy status >/dev/null`, v.name, v.volume(), store))
		return err
	})
	if err == nil {
		s.current, s.files = service{}, 0
	}
	return err
}

// status is what the node's agent says of the service.
func (s *site) status(ctx context.Context, n *lab.Node) (api.ServiceStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	st, err := s.Agent(n).Status(ctx)
	if err != nil {
		return api.ServiceStatus{}, err
	}
	for _, sv := range st.Nodes[0].Services { // the node itself comes first
		if sv.Service == s.current.name {
			return sv, nil
		}
	}
	return api.ServiceStatus{Role: api.RoleStopped}, nil
}

// cycleTries is how often a cycle that was dropped is asked for again before it has failed.
const cycleTries = 5

// cycle asks the active node's agent to replicate now, until it says that the
// generation is committed on the standby. The time of captures that it had to drop counts.
func (s *site) cycle(ctx context.Context) (took time.Duration, dropped int, err error) {
	agent := s.Agent(s.n1)
	for began := time.Now(); ; dropped++ {
		_, err = agent.Replicate(ctx, s.current.name)
		if err == nil || ctx.Err() != nil || dropped == cycleTries {
			return time.Since(began), dropped, err
		}
	}
}

// settle replicates until nothing is left to, and waits until the standby has applied it.
func (s *site) settle(ctx context.Context) error {
	var last string
	err := until(ctx, 20*time.Minute, "the service to be replicated", func() error {
		res, err := s.Agent(s.n1).Replicate(ctx, s.current.name)
		if err == nil && res.Generation != last {
			last = res.Generation
			err = errors.New("there was something new")
		}
		return err
	})
	if err != nil {
		return err
	}
	return s.applied(ctx, last)
}

// applied waits until n2's live tree is at the generation; "" is n1's newest.
func (s *site) applied(ctx context.Context, generation string) error {
	if generation == "" {
		st, err := s.status(ctx, s.n1)
		if err != nil {
			return err
		}
		generation = st.Committed
	}
	return until(ctx, 20*time.Minute, "n2 to apply "+generation, func() error {
		st, err := s.status(ctx, s.n2)
		if err == nil && st.Applied != generation {
			err = fmt.Errorf("it is at %s", st.Applied)
		}
		return err
	})
}

// interval changes how often the service is captured, and waits until the active
// node's agent has heard of it.
func (s *site) interval(ctx context.Context, every string) error {
	_, err := s.n1.Exec(ctx, "crm_resource", "--quiet", "--resource", s.current.name, "--set-parameter", "interval", "--parameter-value", every)
	if err != nil {
		return err
	}
	// The agent hears of it by Pacemaker's reload.
	return sleep(ctx, 1500*time.Millisecond)
}

// head is n2's head, as its store has it on disk.
func (s *site) head() (string, error) {
	b, err := os.ReadFile(s.n2.HostPath(store + "/services/" + s.current.name + "/head"))
	id, _, _ := strings.Cut(string(b), "-") // its checksum
	return id, err
}
