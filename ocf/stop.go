package ocf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// stopPatience is how long stop waits for an agent that is away.
const stopPatience = 2 * time.Second

// clearWithin bounds the attempt to take back the score: the cluster forgets it
// with the node, should it come to that.
const clearWithin = 2 * time.Second

// stop leaves: no container and no address of the service is on this node when
// it succeeds. A failure gets the node fenced, so parameters are not looked at,
// and neither the agent nor Podman has to be alive.
func (a *act) stop(ctx context.Context) Code {
	if !api.ValidServiceName(a.spec.Service) {
		a.warn("no service can have this name, so there is none to stop")
		return Success
	}
	// What is there now has to be gone after: the record may go first.
	rec, err := api.ReadRecord(a.RunDir, a.spec.Service)
	legible := err == nil || errors.Is(err, fs.ErrNotExist)
	if !legible {
		a.warn("what the agent left cannot be read: %v", err)
	}
	err = a.stopByAgent(ctx, rec)
	if err == nil {
		return Success
	}
	a.warn("the agent did not stop it (%v); doing it without", err)
	return a.stopAlone(ctx, rec, legible, err)
}

// stopByAgent takes at most half of the time. An agent that is being restarted
// is worth a short wait: it hands over cleanly, which evict does not.
func (a *act) stopByAgent(ctx context.Context, rec api.LocalRecord) error {
	ctx, cancel := context.WithTimeout(ctx, remaining(ctx)/2)
	defer cancel()
	res, err := a.insist(ctx, api.ActionStop, stopPatience)
	switch kind := api.KindOf(err); {
	case err != nil && kind != api.KindNotFound && kind != api.KindNotRunning:
		return err
	case err == nil && res.Role != "" && res.Role != api.RoleStopped:
		return fmt.Errorf("it says that the service is still %s", res.Role)
	}
	return a.nothingLeft(rec)
}

// stopAlone evicts without the agent, proves it, and takes back the score that
// the agent would have taken back.
func (a *act) stopAlone(ctx context.Context, rec api.LocalRecord, legible bool, cause error) Code {
	evicting, cancel := context.WithTimeout(ctx, remaining(ctx)-min(clearWithin, remaining(ctx)/4))
	err := a.evict(evicting)
	cancel()
	if errors.Is(err, fs.ErrNotExist) && legible {
		err = nil // without the software there is what the record says, and no record is nothing
	}
	if err == nil {
		err = a.nothingLeft(rec)
	}
	if clearErr := a.clearScore(ctx); clearErr != nil {
		a.warn("the promotion score of this node could not be taken back: %v", clearErr)
	}
	if err != nil {
		a.reason("%s could not be stopped: %v; the agent: %v", a.spec.Service, err, cause)
		return ErrGeneric
	}
	// A record that stayed would make the next probe see a failed active service.
	if err := os.Remove(api.RecordPath(a.RunDir, a.spec.Service)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.warn("what the agent left could not be removed: %v", err)
	}
	return Success
}

func (a *act) nothingLeft(rec api.LocalRecord) error {
	left, err := a.kernel.leftovers(rec)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("still on this node: %s", list(left))
	}
	return nil
}

func (a *act) evict(ctx context.Context) error {
	argv := append(slices.Clone(a.Evict), "--timeout="+remaining(ctx).String(), a.spec.Service)
	return a.exec(ctx, argv...)
}

func (a *act) clearScore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clearWithin)
	defer cancel()
	return a.exec(ctx, a.ClearScore...)
}

// exec runs a command with the operation's environment; its last line says what
// went wrong. It is killed at the deadline.
func (a *act) exec(ctx context.Context, argv ...string) error {
	if a.env.PretendAbsent {
		return fs.ErrNotExist
	}
	var out strings.Builder
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(slices.Clone(a.env.environ), "OCF_RESOURCE_INSTANCE="+a.env.Service)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 100 * time.Millisecond // a grandchild may keep the pipe open
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("%s was not done in time", argv[0])
	}
	if err == nil || out.Len() == 0 {
		return wrapExec(argv[0], err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	fmt.Fprintln(a.Stderr, strings.Join(lines, "\n"))
	return wrapExec(argv[0], fmt.Errorf("%w: %s", err, lines[len(lines)-1]))
}

func wrapExec(name string, err error) error {
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}
