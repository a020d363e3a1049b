package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

func init() {
	register(work{
		id: "rpo-cuts", what: "a service that writes 10 MB/s into its volume loses power: age of what the survivor goes on with", on: both,
		full: shape{size: 2 << 30, pairs: 10}, small: shape{size: 128 << 20, pairs: 2, once: true}, grows: "bytes", dear: true, run: powerCuts,
	})
}

// beat is where a node's last breath is: on the part of its file system that keeps everything.
const beat = "/var/tmp/beat"

// powerCuts cuts the active node's power time after time, at a moment that hangs on
// nothing. The service stamps the time after each batch of writes, and says at its start
// which stamp it found; a beat on the node says until when it lived.
func powerCuts(ctx context.Context, s *site, sh shape) (*row, error) {
	v := service{name: "load", args: "load -dir /data -rate 10000000", interval: "250ms"}
	v.fill = func(ctx context.Context, dir string) error { return s.makeTree(ctx, "noise", dir, sh.size) }
	if err := s.serve(ctx, v); err != nil {
		return nil, err
	}
	defer func() {
		// Roles have turned round; the next work wants both nodes and a service of its own.
		ctx := context.WithoutCancel(ctx)
		_ = s.EachNode(func(n *lab.Node) error { return n.Boot(ctx) })
		_ = s.WaitOnline(ctx, "n1", "n2")
		_ = s.remove(ctx)
	}()
	var ages, outages []float64
	behind := 0
	for i := range sh.pairs {
		active, standby, err := s.roles(ctx)
		if err != nil {
			return nil, err
		}
		if err := s.Settle(ctx); err != nil {
			return nil, err
		}
		if caught, err := s.steady(ctx, active); err != nil {
			return nil, err
		} else if !caught {
			behind++
		}
		breath := active.Command(ctx, tool, "beat", "-to", beat)
		if err := breath.Start(); err != nil {
			return nil, err
		}
		if err := sleep(ctx, 3*time.Second+time.Duration(i*137%1000)*time.Millisecond); err != nil {
			return nil, err
		}
		if err := active.PowerOff(ctx); err != nil {
			return nil, err
		}
		_ = breath.Wait() // killed with its node
		dead, err := lastBeat(s, active)
		if err != nil {
			return nil, err
		}
		found, err := s.takenOver(ctx, standby, v, dead)
		if err != nil {
			return nil, err
		}
		ages = append(ages, dead.Sub(time.Unix(0, found.From)).Seconds())
		outages = append(outages, time.Unix(0, found.To).Sub(dead).Seconds())
		s.say("cut %d: %s went on with data %.0f ms old, after %.1f s", i+1, standby.Name(), 1000*ages[i], outages[i])
		if err := active.Boot(ctx); err != nil {
			return nil, err
		}
	}
	r := newRow(versus("s", ages, "", nil).atMost(1, most, "≤ 1 s always"),
		versus("s", outages, "", nil).named("until the service writes again"))
	r.note("interval %s; blocks of 64 KiB at random places of files of 64 MiB, in %.0f MB", v.interval, mb(sh.size))
	if behind > 0 {
		r.note("%d of the %d cuts hit a standby that had not caught up after the one before", behind, len(ages))
	}
	return r, nil
}

// roles waits until one node is active and the other could take over.
func (s *site) roles(ctx context.Context) (active, standby *lab.Node, err error) {
	err = until(ctx, 3*time.Minute, "both nodes to take part", func() error {
		for _, pair := range [][2]*lab.Node{{s.n1, s.n2}, {s.n2, s.n1}} {
			st, err := s.status(ctx, pair[0])
			if err != nil || st.Role != api.RoleActive {
				continue
			}
			r, err := s.Agent(pair[0]).Ready(ctx, s.current.name)
			if err == nil && !r.Ready {
				err = fmt.Errorf("%v", r.Blockers)
			}
			if err == nil {
				active, standby = pair[0], pair[1]
			}
			return err
		}
		return errors.New("no node is active")
	})
	return active, standby, err
}

// steady waits until the standby has caught up after the last cut, or half a minute:
// one that never does, false, is cut as it is.
func (s *site) steady(ctx context.Context, active *lab.Node) (caught bool, err error) {
	err = until(ctx, 30*time.Second, "the standby to catch up", func() error {
		r, err := s.Agent(active).Ready(ctx, s.current.name)
		if err == nil && (!r.Ready || time.Duration(r.RPO) > 2*time.Second) {
			err = fmt.Errorf("it is %s behind", time.Duration(r.RPO))
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.say("%v", err)
		return false, nil
	}
	return err == nil, err
}

// found is what the service said at a start: the stamp it found and when that was, Unix ns.
type found struct{ From, To int64 }

// takenOver waits until the service was started on the node after the cut.
func (s *site) takenOver(ctx context.Context, n *lab.Node, v service, dead time.Time) (f found, err error) {
	err = until(ctx, 2*time.Minute, "the service on "+n.Name(), func() error {
		b, err := os.ReadFile(n.HostPath(v.dir() + "/starts"))
		if err != nil {
			return err
		}
		for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
			if err := json.Unmarshal(sc.Bytes(), &f); err != nil {
				return err
			}
		}
		if f.To < dead.UnixNano() {
			return errors.New("it has not been started there yet")
		}
		return nil
	})
	return f, err
}

// lastBeat is until when a node that is off had lived.
func lastBeat(s *site, n *lab.Node) (time.Time, error) {
	b, err := os.ReadFile(s.Dir() + "/nodes/" + n.Name() + "/upper" + beat)
	if err != nil {
		return time.Time{}, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return time.Unix(0, ns), err
}
