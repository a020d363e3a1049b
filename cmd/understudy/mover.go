package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/drill"
	"github.com/understudy-ha/understudy/agent/drill/pacemaker"
	"github.com/understudy-ha/understudy/agent/probe"
)

// mover moves a service in good order. The only thing it leaves in the cluster while
// it works is a ban that ends by itself.
type mover struct {
	*app
	service string
	to      string
	limit   time.Duration
	probe   probeFlags

	from, clone string
	vips        []string
	arrived     bool
	local       string // this node's name
	begun       time.Time
	last        time.Time
	steps       []moveStep
	notes       []string
	session     *probe.Run
	measured    *probe.Result
}

const (
	banLifetime = 5 * time.Minute
	clearTime   = 20 * time.Second // to lift the ban, also when interrupted
	lateTime    = 5 * time.Second  // for Pacemaker to say where a service is that did not arrive
	shipGoal    = 250 * time.Millisecond
	shipRounds  = 5
	stayTime    = time.Second // the service must stay where it went for so long
)

// plan finds out from where to where, and refuses what would not succeed. It changes nothing.
func (m *mover) plan(ctx context.Context) error {
	view, err := m.pacemaker.View(ctx)
	if err != nil {
		return err
	}
	clone, active, standbys, err := view.Service(m.service)
	if err != nil {
		return err
	}
	m.clone, m.from = clone, active
	if active == "" {
		return fmt.Errorf("%s is active nowhere, so there is nothing to move; see pcs status and understudy log %s", m.service, m.service)
	}
	if m.to == active {
		return nil
	}
	if view.Maintenance {
		return refusef("the cluster is in maintenance mode and moves nothing; end it with: pcs property set maintenance-mode=false")
	}
	ready, err := ask(ctx, func(ctx context.Context) (api.Readiness, error) { return m.client().Ready(ctx, m.service) })
	if err != nil {
		return err
	}
	if _, _, err := drill.Pair(ready); err != nil {
		return err
	}
	if m.to == "" {
		m.to = ready.Standby
	}
	if m.to != ready.Standby || !slices.Contains(standbys, m.to) {
		return refusef("%s cannot go to %s: the standby that would take over is %s; see understudy status %s", m.service, m.to, ready.Standby, m.service)
	}
	if err := checkBans(view, clone, m.to); err != nil {
		return err
	}
	return m.learn(ctx)
}

// checkBans finds what would keep the service from where it shall go.
func checkBans(view pacemaker.View, clone, to string) error {
	for _, b := range view.Bans {
		if b.Resource == clone && b.Node == to && !b.IsOurs() {
			return refusef("the constraint %s keeps %s off %s; see pcs constraint location (crm_resource --clear --resource %s removes what a move or a ban has left)", b.ID, clone, to, clone)
		}
	}
	return nil
}

func refusef(format string, args ...any) error {
	return withCode(exitRefused, fmt.Errorf(format, args...))
}

// learn asks the agent what makes the move better, and whether it would lose something.
func (m *mover) learn(ctx context.Context) error {
	st, err := ask(ctx, m.client().Status)
	if err != nil {
		return err
	}
	for _, n := range st.Nodes {
		if n.Self {
			m.local = n.Node
		}
		for _, s := range n.Services {
			if s.Service == m.service && n.Node == m.from {
				m.vips = s.VIPs
			}
			if s.Service == m.service && n.Node == m.to && s.Held != "" {
				return refusef("%s is held at generation %s, as what followed looks like an attack on the data: %s would go on from there and leave behind what was written since. Look with understudy history %[3]s on %[1]s; then either understudy release %[3]s there, or understudy restore %[3]s --generation %[2]s --in-place on %[4]s", m.to, s.Held, m.service, m.from)
			}
		}
	}
	return nil
}

// move does it. Whatever happens, the ban is lifted at the end.
func (m *mover) move(ctx context.Context) (err error) {
	m.begun = m.now()
	m.last = m.begun
	if err := m.startProbe(ctx); err != nil {
		return err
	}
	defer m.stopProbe(ctx)
	if err := m.shipAhead(ctx); err != nil {
		return err
	}
	lifetime := max(banLifetime, m.limit+time.Minute)
	// Lifted also when placing it seems to have failed: the answer may be what was lost.
	defer func() { err = errors.Join(err, m.lift(ctx)) }()
	if err := m.pacemaker.KeepOff(ctx, m.clone, m.from, m.now().Add(lifetime)); err != nil {
		return fmt.Errorf("the active role cannot be kept off %s: %w", m.from, err)
	}
	m.step("the active role is kept off " + m.from)
	if err := m.await(ctx); err != nil {
		return err
	}
	m.arrived = true
	m.step(m.to + " is active")
	return nil
}

func (m *mover) step(name string) {
	now := m.now()
	m.steps = append(m.steps, moveStep{Name: name, At: now, MS: float64(now.Sub(m.last).Microseconds()) / 1000})
	m.say("%+9.3fs  %s", now.Sub(m.begun).Seconds(), name)
	m.last = now
}

// shipAhead leaves little to send for the time in which the service is down.
func (m *mover) shipAhead(ctx context.Context) error {
	if m.local != m.from {
		m.notes = append(m.notes, fmt.Sprintf("not shipped ahead: that is asked of the agent on %s, and this is %s", m.from, m.local))
		return nil
	}
	for range shipRounds {
		ctx, cancel := context.WithTimeout(ctx, m.limit)
		res, err := m.client().Replicate(ctx, m.service)
		cancel()
		if err != nil {
			return fmt.Errorf("%s could not be shipped to %s, and nothing was moved: %w", m.service, m.to, err)
		}
		m.step(fmt.Sprintf("generation %s is on %s", res.Generation, m.to))
		if time.Duration(res.Took) <= shipGoal {
			break
		}
	}
	return nil
}

// How often the agents are asked (they answer from memory), and Pacemaker, whose
// tools are processes that would compete with the move itself.
const (
	askEvery       = 20 * time.Millisecond
	pacemakerEvery = time.Second
)

// await waits until the other node has the role: its agent says so first, and
// Pacemaker, asked then, confirms it.
func (m *mover) await(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	asked := time.Now()
	for {
		if m.agentSaysActive(limited) || time.Since(asked) > pacemakerEvery {
			asked = time.Now()
			if active, err := m.active(limited); err == nil && active == m.to {
				return nil
			}
		}
		select {
		case <-limited.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return m.late(ctx)
		case <-time.After(askEvery):
		}
	}
}

// active asks Pacemaker which node has the role; "" is none.
func (m *mover) active(ctx context.Context) (string, error) {
	view, err := m.pacemaker.View(ctx)
	if err != nil {
		return "", err
	}
	_, active, _, err := view.Service(m.service)
	return active, err
}

// late asks Pacemaker once more when the time is over: it may have arrived just
// now, and an error is to say where the service is.
func (m *mover) late(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lateTime)
	defer cancel()
	active, err := m.active(ctx)
	seen := "it is active on " + active
	switch {
	case err != nil:
		seen = "Pacemaker does not say where it is: " + err.Error()
	case active == m.to:
		return nil
	case active == "":
		seen = "it is active nowhere"
	}
	return fmt.Errorf("%s is not active on %s after %s: %s; see pcs status and understudy log %s", m.service, m.to, m.limit, seen, m.service)
}

// agentSaysActive asks this node's agent what it has heard of the other.
func (m *mover) agentSaysActive(ctx context.Context) bool {
	st, err := ask(ctx, m.client().Status)
	if err != nil {
		return false
	}
	for _, n := range st.Nodes {
		for _, s := range n.Services {
			if n.Node == m.to && s.Service == m.service && s.Role == api.RoleActive {
				return true
			}
		}
	}
	return false
}

// lift takes the ban away and sees that the service stays where it went. It works also
// after an interrupt.
func (m *mover) lift(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTime)
	defer cancel()
	if err := m.pacemaker.Lift(cctx, m.clone); err != nil {
		return fmt.Errorf("the ban on %s could not be lifted: %w; it ends by itself, or lift it with: %s", m.from, err, pacemaker.LiftCommand(m.clone))
	}
	m.step("the ban on " + m.from + " is lifted")
	if !m.arrived {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(stayTime):
	}
	active, err := m.active(cctx)
	if err != nil {
		return err
	}
	if active != m.to {
		return fmt.Errorf("%s did not stay on %s after the ban was lifted: it is on %q; see location constraints and resource-stickiness (pcs constraint)", m.service, m.to, active)
	}
	return nil
}

// startProbe measures against --probe, or else against the address alone.
func (m *mover) startProbe(ctx context.Context) error {
	f := m.probe
	if f.url == "" {
		if f.url = m.addressURL(); f.url == "" {
			return nil
		}
		m.notes = append(m.notes, "without --probe only the address is measured, from "+m.local+": not the service")
	}
	o, err := f.options()
	if err != nil {
		return usageError{err}
	}
	// It outlives an interrupt by the time it takes to lift the ban.
	m.session, err = probe.Start(context.WithoutCancel(ctx), o)
	return err
}

func (m *mover) addressURL() string {
	for _, v := range m.vips {
		if p, err := netip.ParsePrefix(v); err == nil {
			host := p.Addr().String()
			if p.Addr().Is6() {
				host = "[" + host + "]"
			}
			return "addr://" + host
		}
	}
	return ""
}

// stopProbe lets the probe see the service answer again, if it does soon.
func (m *mover) stopProbe(ctx context.Context) {
	if m.session == nil {
		return
	}
	for deadline := time.Now().Add(5 * time.Second); ctx.Err() == nil && time.Now().Before(deadline) && !m.session.Snapshot().Answering; {
		time.Sleep(20 * time.Millisecond)
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if res, err := m.session.Stop(sctx); err == nil {
		m.measured = &res
	}
}
