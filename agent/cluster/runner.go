package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// Runner runs a program and returns what it wrote to its standard output. It
// ends the program when ctx ends. A program that fails is an [*ExitError]. It
// is called concurrently.
type Runner interface {
	Run(ctx context.Context, name string, args ...string) ([]byte, error)
}

// ExitError is a program that ran and failed.
type ExitError struct {
	Command string
	Code    int
	Stderr  string // trimmed
}

// Error shows the command as it was run and what it said.
func (e *ExitError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("%s: exit code %d", e.Command, e.Code)
	}
	return fmt.Sprintf("%s: exit code %d: %s", e.Command, e.Code, e.Stderr)
}

// Exit codes of Pacemaker's tools (crm_exit_e).
const (
	exitDisconnect  = 102 // the daemon is not there, or the connection was lost
	exitNoSuch      = 105
	exitUnavailable = 69
	exitNoHost      = 68
)

// ErrDown is in the chain of errors that mean: Pacemaker does not run on this node.
var ErrDown = errors.New("pacemaker does not run on this node")

// Exec is the Runner that starts real programs.
type Exec struct{}

// Run implements [Runner].
func (Exec) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // a grandchild may hold the pipes
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &exit):
		return nil, &ExitError{
			Command: strings.Join(append([]string{name}, args...), " "), Code: exit.ExitCode(),
			Stderr: strings.Join(strings.Fields(stderr.String()), " "),
		}
	case err != nil:
		return nil, err
	}
	return stdout.Bytes(), nil
}

// run bounds a command and words its failure for an operator; what is the
// sentence "cannot …" about.
func (c *Cluster) run(ctx context.Context, what, name string, args ...string) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	out, err := c.opts.Runner.Run(bounded, name, args...)
	if err == nil {
		return out, nil
	}
	var exit *ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, api.Errorf(api.KindInstalled, "install Pacemaker's command line tools (Debian: pacemaker-cli-utils)", "cannot %s: %w", what, err)
	case errors.As(err, &exit) && (exit.Code == exitDisconnect || exit.Code == exitUnavailable):
		return nil, &downError{err: api.Errorf(api.KindUnavailable, "start the cluster on this node with `pcs cluster start`", "cannot %s: %w (%w)", what, ErrDown, err)}
	case errors.Is(err, context.DeadlineExceeded):
		return nil, api.Errorf(api.KindDeadline, "look at `crm_mon` and at Pacemaker's log on this node", "cannot %s: %s did not answer in time: %w", what, name, err)
	}
	return nil, fmt.Errorf("cannot %s: %w", what, err)
}

// downError is an api.Error that ErrDown can be found in.
type downError struct{ err *api.Error }

func (e *downError) Error() string   { return e.err.Error() }
func (e *downError) Unwrap() []error { return []error{e.err, ErrDown} }
