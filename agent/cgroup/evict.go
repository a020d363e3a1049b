package cgroup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// EvictRequest names a service's containers. Names find what runs now; ids that
// were recorded earlier find what is left of a container whose monitor is dead.
type EvictRequest struct {
	Names []string
	IDs   []string
	Grace time.Duration // after SIGTERM to the first process; 0: SIGKILL at once
}

// Evidence is what was looked at, and what was ended, before it could be said
// that no container of the service is here.
type Evidence struct {
	Containers []string  `json:"containers,omitempty"` // "name id" of those that something was found of
	Killed     []string  `json:"killed,omitempty"`     // "pid name"
	At         time.Time `json:"at"`                   // nothing was there then
}

// String is one line for the journal.
func (e Evidence) String() string {
	if len(e.Killed) == 0 {
		return "no monitor and no process of the containers was found in /proc and the cgroups"
	}
	return fmt.Sprintf("ended %s of %s; afterwards no monitor and no process of the containers was found in /proc and the cgroups",
		strings.Join(e.Killed, ", "), strings.Join(e.Containers, ", "))
}

// conmonGrace is how long a monitor may take to note its container's end, so
// that Podman knows of it, before it is killed too.
const conmonGrace = 500 * time.Millisecond

// Evict proves that no container of the request is on this node, and ends what
// is. It does not ask Podman. Called again it does nothing and proves it again.
// An error says what is left; the evidence is then what was done so far.
func (h *Host) Evict(ctx context.Context, req EvictRequest) (Evidence, error) {
	e := &eviction{host: h, req: req, ids: slices.Clone(req.IDs)}
	for round := 0; ; round++ {
		left, err := e.round(ctx, round)
		if err != nil {
			return e.evidence, err
		}
		if left == 0 {
			e.evidence.At = time.Now()
			return e.evidence, nil
		}
		select {
		case <-ctx.Done():
			return e.evidence, fmt.Errorf("end the containers %s: %w", strings.Join(req.Names, ", "), e.leftover())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// eviction is one call's state.
type eviction struct {
	host     *Host
	req      EvictRequest
	ids      []string // grows: an id once seen is looked for until the end
	evidence Evidence
	ended    time.Time // when the containers' own processes were first gone
}

// round looks once and ends what it finds; it returns how much it found.
func (e *eviction) round(ctx context.Context, n int) (int, error) {
	found, monitors, err := e.host.find(e.req.Names, e.ids)
	if err != nil {
		return 0, err
	}
	alive := 0
	for _, c := range found {
		if !slices.Contains(e.ids, c.ID) {
			e.ids = append(e.ids, c.ID)
		}
		pids, err := e.processes(c)
		if err != nil {
			return 0, err
		}
		if len(pids) == 0 {
			continue
		}
		alive += len(pids)
		e.note(c, pids)
		if n == 0 && e.req.Grace > 0 {
			e.terminate(ctx, c)
		}
		if err := e.kill(ctx, c, pids); err != nil {
			return 0, err
		}
	}
	if alive == 0 && e.ended.IsZero() {
		e.ended = time.Now()
	}
	if alive == 0 && (time.Since(e.ended) > conmonGrace || ctx.Err() != nil) {
		if err := e.killMonitors(monitors); err != nil {
			return 0, err
		}
	}
	return alive + len(monitors), nil
}

// processes lists a container's own: those in its cgroups, and its first one
// where it has no cgroup.
func (e *eviction) processes(c Container) ([]int, error) {
	var pids []int
	for _, dir := range c.Cgroups {
		p, err := Procs(dir)
		if err != nil {
			return nil, err
		}
		pids = append(pids, p...)
	}
	if c.Init != 0 {
		pids = append(pids, c.Init)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

func (e *eviction) note(c Container, pids []int) {
	if label := strings.TrimSpace(c.Name + " " + c.ID[:12]); !slices.Contains(e.evidence.Containers, label) {
		e.evidence.Containers = append(e.evidence.Containers, label)
	}
	for _, pid := range pids {
		st, err := readStat(e.host.opts.Proc, pid)
		if err != nil {
			continue
		}
		if s := fmt.Sprintf("%d %s", pid, st.comm); !slices.Contains(e.evidence.Killed, s) {
			e.evidence.Killed = append(e.evidence.Killed, s)
		}
	}
}

// terminate asks the container's first process to end and waits for it. Frozen
// processes cannot hear it, so they are thawed.
func (e *eviction) terminate(ctx context.Context, c Container) {
	if c.Init == 0 {
		return
	}
	for _, dir := range c.Cgroups {
		if err := thaw(dir); err != nil {
			e.host.opts.Log.Debug("thaw before ending", "cgroup", dir, "err", err)
		}
	}
	if err := signal(c.Init, unix.SIGTERM, e.still(c)); err != nil {
		e.host.opts.Log.Warn("SIGTERM to container", "container", c.Name, "pid", c.Init, "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, e.req.Grace)
	defer cancel()
	for ctx.Err() == nil {
		if pids, err := e.processes(e.now(c)); err != nil || len(pids) == 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// now is c with its first process only if that is still the one.
func (e *eviction) now(c Container) Container {
	if !e.still(c)() {
		c.Init = 0
	}
	return c
}

// still says whether the container's first process is what it was when found:
// the monitor's child.
func (e *eviction) still(c Container) func() bool {
	return func() bool {
		st, err := readStat(e.host.opts.Proc, c.Init)
		return err == nil && st.ppid == c.Conmon && st.state != "Z"
	}
}

func (e *eviction) kill(ctx context.Context, c Container, pids []int) error {
	for _, dir := range c.Cgroups {
		if err := Kill(ctx, dir); err != nil {
			return fmt.Errorf("end container %s: %w", c.Name, err)
		}
	}
	if c.Init == 0 {
		return nil
	}
	// The first process of a pid namespace takes the others with it, where the
	// container has no cgroup.
	if err := signal(c.Init, unix.SIGKILL, e.still(c)); err != nil {
		return fmt.Errorf("end process %d of container %s: %w", c.Init, c.Name, err)
	}
	return nil
}

func (e *eviction) killMonitors(monitors []conmon) error {
	for _, m := range monitors {
		if s := fmt.Sprintf("%d conmon", m.pid); !slices.Contains(e.evidence.Killed, s) {
			e.evidence.Killed = append(e.evidence.Killed, s)
		}
		if err := signal(m.pid, unix.SIGKILL, func() bool { return e.host.same(m) }); err != nil {
			return fmt.Errorf("end the monitor of container %s, process %d: %w", m.name, m.pid, err)
		}
	}
	return nil
}

func (e *eviction) leftover() error {
	found, monitors, err := e.host.find(e.req.Names, e.ids)
	if err != nil {
		return err
	}
	var pids []int
	for _, c := range found {
		p, err := e.processes(c)
		if err != nil {
			return err
		}
		pids = append(pids, p...)
	}
	for _, m := range monitors {
		pids = append(pids, m.pid)
	}
	return stuck("this node", pids)
}
