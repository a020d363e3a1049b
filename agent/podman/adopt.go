package podman

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containers/podman/v5/pkg/bindings/containers"
	"github.com/containers/podman/v5/pkg/domain/entities/types"
	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/understudy-ha/understudy/agent/api"
)

// systemd is what is asked of it about units.
type systemd interface {
	// mask makes units such that nobody starts them any more, also after a boot.
	mask(ctx context.Context, units []string) error
	// stop ends a unit and waits for it; one that does not run is fine.
	stop(ctx context.Context, unit string) error
	start(ctx context.Context, unit string) error
	close()
}

// dbusSystemd asks by D-Bus.
type dbusSystemd struct{ conn *dbus.Conn }

func connectSystemd(ctx context.Context) (systemd, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return nil, api.Errorf(api.KindGeneric, "look at systemctl status dbus", "systemd does not answer: %w", err)
	}
	return dbusSystemd{conn}, nil
}

func (s dbusSystemd) close() { s.conn.Close() }

func (s dbusSystemd) mask(ctx context.Context, units []string) error {
	if _, err := s.conn.MaskUnitFilesContext(ctx, units, false, false); err != nil {
		return err
	}
	dir, err := os.Open("/etc/systemd/system") // a power cut must not bring them back
	if err != nil {
		return err
	}
	defer dir.Close()
	return errors.Join(dir.Sync(), s.conn.ReloadContext(ctx))
}

func (s dbusSystemd) stop(ctx context.Context, unit string) error {
	err := s.job(ctx, unit, s.conn.StopUnitContext)
	if err == nil { // many a program fails when it is told to end: that is nobody's worry now
		_ = s.conn.ResetFailedUnitContext(ctx, unit)
	}
	return err
}

func (s dbusSystemd) start(ctx context.Context, unit string) error {
	return s.job(ctx, unit, s.conn.StartUnitContext)
}

func (s dbusSystemd) job(ctx context.Context, unit string, ask func(context.Context, string, string, chan<- string) (int, error)) error {
	done := make(chan string, 1)
	if _, err := ask(ctx, unit, "replace", done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("systemd's job for %s: %s", unit, result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Adopt takes the workload's quadlet units out of systemd's hands: they are stopped and
// masked, for a unit that somebody starts would replace the container that Pacemaker
// has started. make: containers and pods that do not exist are made of them, not started;
// that is for the node which the service begins on. It can be repeated after any interruption.
func (c *Client) Adopt(ctx context.Context, w Workload, make bool) (changes []string, err error) {
	units, _, err := c.quadlets(w.Quadlet)
	if err != nil || len(units) == 0 {
		return nil, err
	}
	s, err := c.systemd(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if changes, err = c.disarm(ctx, s, units); err != nil || !make {
		return changes, err
	}
	for _, u := range units {
		made, err := c.makeUnit(ctx, s, u)
		if err != nil {
			return changes, fmt.Errorf("%s: %w", u.file, err)
		}
		if made {
			changes = append(changes, u.file+": what it describes is made")
		}
	}
	return changes, nil
}

// disarm masks and stops the units, those that start others last.
func (c *Client) disarm(ctx context.Context, s systemd, units []unit) (changes []string, err error) {
	var open []string
	for _, u := range slices.Backward(units) {
		if !masked(c.opts.Root, u.service) {
			open = append(open, u.service)
		}
	}
	if len(open) == 0 {
		return nil, nil
	}
	for _, name := range open {
		if err := s.stop(ctx, name); err != nil {
			return nil, api.Errorf(api.KindGeneric, "stop it: systemctl stop "+name, "unit %s cannot be stopped: %w", name, err)
		}
	}
	if err := s.mask(ctx, open); err != nil {
		return nil, api.Errorf(api.KindGeneric, "mask it: systemctl mask "+open[0], "units %v cannot be masked: %w", open, err)
	}
	for _, name := range open {
		changes = append(changes, "unit "+name+": stopped and masked, Pacemaker is in charge now")
	}
	return changes, nil
}

// masked says whether a unit is one that nobody can start.
func masked(root, unit string) bool {
	for _, dir := range []string{"etc/systemd/system", "run/systemd/system"} {
		if target, err := os.Readlink(filepath.Join(root, dir, unit)); err == nil && target == "/dev/null" {
			return true
		}
	}
	return false
}

// makeUnit makes what the unit describes, and before it the networks, volumes and
// images that it needs by their own units, which stay systemd's: they only make what lacks.
func (c *Client) makeUnit(ctx context.Context, s systemd, u unit) (made bool, err error) {
	var there bool
	switch {
	case u.play != nil:
		there, err = c.played(ctx, u.play)
	case u.pod():
		_, err = c.inspectPod(ctx, u.name())
		there = err == nil
	default:
		_, err = c.inspect(ctx, u.name())
		there = err == nil
	}
	if there || ignoreNotFound(err) != nil {
		return false, ignoreNotFound(err)
	}
	for _, name := range u.needs {
		if err := s.start(ctx, name); err != nil {
			return false, fmt.Errorf("unit %s, which it needs: %w", name, err)
		}
	}
	switch {
	case u.play != nil:
		return true, c.makePlayed(ctx, u.play)
	case u.pod():
		return true, c.makePod(ctx, u)
	}
	return true, c.makeContainer(ctx, u)
}

// played says whether the pods of the YAML are there, all of them and whole: what a kill
// has left of a play is removed.
func (c *Client) played(ctx context.Context, def *KubeDef) (bool, error) {
	s, err := c.fileOf(def)
	if err != nil {
		return false, err
	}
	there := 0
	for _, name := range s.pods {
		d, err := c.inspectPod(ctx, name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		known, ours, err := c.record.pod(name)
		if err != nil {
			return false, err
		}
		if ours && known.ID == "" {
			if err := c.removePod(ctx, d.ID); err != nil {
				return false, err
			}
			continue
		}
		there++
	}
	if there > 0 && there < len(s.pods) {
		return false, api.Errorf(api.KindInstalled, "remove them: podman kube down "+def.Path, "some of the pods of %s are there and others are not", def.Path)
	}
	return there > 0, nil
}

// fileOf reads the YAML that a unit plays.
func (c *Client) fileOf(def *KubeDef) (*kubeSource, error) {
	raw, err := os.ReadFile(filepath.Join(c.opts.Root, def.Path))
	if err != nil {
		return nil, err
	}
	s, err := readKube(def.Path, raw)
	if err != nil {
		return nil, err
	}
	return s, asError(s.check())
}

// makePlayed makes the pods of the YAML. Until all are there each of them counts as
// one that was not made yet.
func (c *Client) makePlayed(ctx context.Context, def *KubeDef) error {
	s, err := c.fileOf(def)
	if err != nil {
		return err
	}
	for _, name := range s.pods {
		if err := c.record.setPod(name, entry{}); err != nil {
			return err
		}
	}
	d := *def
	d.YAML = s.yaml
	if err := c.play(ctx, d, nil); err != nil {
		return err
	}
	for _, name := range s.pods {
		pod, err := c.inspectPod(ctx, name)
		if err != nil {
			return err
		}
		if err := c.record.setPod(name, entry{ID: pod.ID}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) makePod(ctx context.Context, u unit) error {
	p, problems := parsePodCommand(u.command)
	if p == nil || fatal(problems) {
		return asError(ofPod(u.name(), problems))
	}
	spec, err := p.spec()
	if err != nil {
		return err
	}
	spec.PodCreateCommand = u.command
	if err := c.record.setPod(u.name(), entry{}); err != nil {
		return err
	}
	_, err = c.postPod(ctx, spec)
	return err
}

func (c *Client) makeContainer(ctx context.Context, u unit) error {
	p, problems := parseCommand(u.command)
	if p == nil || fatal(problems) {
		return asError(named(u.name(), problems))
	}
	spec, err := p.spec()
	if err != nil {
		return err
	}
	spec.Name, spec.Pod, spec.ContainerCreateCommand = u.name(), p.options.Pod, u.command
	if _, err := c.Image(ctx, spec.Image); errors.Is(err, ErrNotFound) { // Podman's API does not pull
		return api.Errorf(api.KindInstalled, "podman pull "+spec.Image, "image %s is not on this node", spec.Image)
	}
	if err := c.record.setContainer(u.name(), entry{}); err != nil {
		return err
	}
	_, err = call(ctx, c, "create container "+u.name(), func(ctx context.Context) (types.ContainerCreateResponse, error) {
		return containers.CreateWithSpec(ctx, spec, nil)
	})
	return err
}
