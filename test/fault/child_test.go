package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/wire"
)

// job is what a child does, and where it ends.
type job struct {
	Kill  string // the name of a step; empty: it lives
	Nth   int    // time that it comes to it, from 1
	Power string // where the node's file system is mounted, which goes with it; empty: it stays
	Steps string // file that gets the steps it comes to
	// Of a sender.
	Term             uint64
	Addr, Key, Known string // of the peer
	Cgroup           string // of the containers
	Freezes          string // directory of the freezer's records
	Late             int    // which late write the application does while it is captured; 0: none
	Mend             bool   // nothing but what was lost is sent
	// Of a scrubber.
	Rot []string // files that have a bit flipped then
}

// killer is the hook of a child.
type killer struct {
	process replication.Process
	job     job
	steps   *os.File

	mu   sync.Mutex // guards seen
	seen map[string]int
}

func (k *killer) at(told string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := "unknown " + told
	if s, ok := replication.StepOf(k.process, told); ok {
		name = s.Name
	}
	if k.steps != nil {
		if _, err := fmt.Fprintln(k.steps, name); err != nil {
			return err
		}
	}
	if k.seen[name]++; name != k.job.Kill || k.seen[name] != k.job.Nth {
		return nil
	}
	if k.job.Power != "" {
		if err := cutPower(k.job.Power); err != nil {
			return err
		}
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// child is a process of the pipeline.
func child(p replication.Process) error {
	k := &killer{process: p, seen: map[string]int{}}
	if err := json.Unmarshal([]byte(os.Getenv(jobEnv)), &k.job); err != nil {
		return err
	}
	if k.job.Steps != "" {
		f, err := os.OpenFile(k.job.Steps, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		k.steps = f
	}
	n := &node{dir: os.Getenv(dirEnv)}
	switch p {
	case replication.Sender:
		return k.send(n)
	case replication.Receiver:
		return k.receive(n)
	case replication.Applier:
		return n.withEngine(k.at, n.apply)
	case replication.Scrubber:
		return n.withEngine(k.at, func(e *engine.Engine) error {
			if err := e.TidyLacks(); err != nil { // of what was lost before
				return err
			}
			for _, path := range k.job.Rot {
				if err := rot(path); err != nil {
					return err
				}
			}
			return n.scrub(e)
		})
	}
	return fmt.Errorf("no process is called %q", p)
}

// send is what the active's agent does in a cycle, or when a standby has lost something.
func (k *killer) send(n *node) error {
	o := wire.ClientOptions{Addr: k.job.Addr, KeyFile: k.job.Key, KnownHosts: k.job.Known, Timeout: slow, DeadAfter: slow, Hook: k.at}
	if k.job.Mend {
		return n.withEngine(k.at, func(e *engine.Engine) error { return mend(e, o, nil) })
	}
	return n.withEngine(k.at, func(e *engine.Engine) error {
		f, err := newFreezer(k.job, n.tree())
		if err != nil {
			return err
		}
		_, err = n.cycle(e, k.job.Term, f, o)
		return errors.Join(err, f.close())
	})
}

// receive is what `understudy receive` does.
func (k *killer) receive(n *node) error {
	syscall.Umask(0o007)
	signal.Ignore(syscall.SIGPIPE)
	return wire.Serve(context.Background(), stdio{os.Stdin, os.Stdout}, n.serving(k.at))
}

type stdio struct {
	io.Reader
	io.WriteCloser
}

// start starts a child for a node.
func start(p replication.Process, n *node, j job) (*exec.Cmd, error) {
	b, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+string(p), dirEnv+"="+n.dir, jobEnv+"="+string(b))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// run runs a child to its end: whether it was killed, and its own error.
func run(t testing.TB, p replication.Process, n *node, j job) (killed bool) {
	t.Helper()
	cmd, err := start(p, n, j)
	must(t, err)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if !isKill(err) {
		t.Fatalf("the %s: %v\n%s", p, err, out)
	}
	return true
}

func isKill(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}
