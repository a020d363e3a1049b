package cgroup

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// order is a line to the guard. It answers {"token":N} to an arming, once the
// freeze is sure to end.
type order struct {
	Token   uint64   `json:"token"`
	Op      string   `json:"op"` // "freeze" or "thawed"
	Cgroups []string `json:"cgroups,omitempty"`
	MaxUS   int64    `json:"max_us,omitempty"`
	Record  string   `json:"record,omitempty"`
}

// ackTimeout is how long the guard may take to answer. It has nothing to do but
// to set a timer; one that takes longer could not be relied on either.
const ackTimeout = 250 * time.Millisecond

// Guard is the agent's end of the guard process.
type Guard struct {
	cmd  *exec.Cmd
	in   *os.File
	out  *os.File
	log  *slog.Logger
	done chan struct{} // the process is gone

	mu    sync.Mutex // one order at a time
	reply *bufio.Reader
	token uint64
}

// StartGuard starts the guard process: command is this program with its hidden
// command, which calls [GuardMain]. It runs in its own session, so that no
// signal meant for the agent's reaches it.
func StartGuard(command []string, log *slog.Logger) (*Guard, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	in, ourIn, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the freeze guard: %w", err)
	}
	ourOut, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the freeze guard: %w", err), in.Close(), ourIn.Close())
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	in.Close()
	out.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the freeze guard: %w", err), ourIn.Close(), ourOut.Close())
	}
	g := &Guard{cmd: cmd, in: ourIn, out: ourOut, log: log, done: make(chan struct{}), reply: bufio.NewReader(ourOut)}
	if err := g.hello(); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()), ourIn.Close(), ourOut.Close())
	}
	go func() { // ends with the process, which ends with its input: see Close
		defer close(g.done)
		if err := cmd.Wait(); err != nil {
			log.Warn("freeze guard ended", "err", err)
		}
	}()
	return g, nil
}

// startTimeout is how long the guard may take to start, on a node under load.
const startTimeout = 5 * time.Second

// hello waits until the guard is there.
func (g *Guard) hello() error {
	err := g.out.SetReadDeadline(time.Now().Add(startTimeout))
	if err == nil {
		_, err = g.reply.ReadBytes('\n')
	}
	if err != nil {
		return fmt.Errorf("the freeze guard (%s) does not come up: %w", g.cmd, err)
	}
	return nil
}

func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// Done is closed when the guard process is gone.
func (g *Guard) Done() <-chan struct{} { return g.done }

// Close ends the guard and waits for it. What is still frozen is thawed by it.
func (g *Guard) Close() error {
	err := g.in.Close()
	select {
	case <-g.done:
	case <-time.After(5 * time.Second):
		err = errors.Join(err, g.cmd.Process.Kill())
		<-g.done
	}
	return errors.Join(ignoreClosed(err), ignoreClosed(g.out.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// arm has the guard promise that the cgroups are thawed within max.
func (g *Guard) arm(cgroups []string, max time.Duration, record string) (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.token++
	o := order{Token: g.token, Op: "freeze", Cgroups: cgroups, MaxUS: max.Microseconds(), Record: record}
	deadline := time.Now().Add(ackTimeout)
	err := g.send(o, deadline)
	if err == nil {
		err = g.out.SetReadDeadline(deadline)
	}
	var line []byte
	if err == nil {
		line, err = g.reply.ReadBytes('\n')
	}
	var ack order
	if err == nil {
		err = json.Unmarshal(line, &ack)
	}
	if err == nil && ack.Token != o.Token {
		err = fmt.Errorf("it answered %d to %d", ack.Token, o.Token)
	}
	if err != nil {
		// Out of step or out of order: end it, for its promise is worth nothing now.
		killErr := g.cmd.Process.Kill()
		if errors.Is(killErr, os.ErrProcessDone) {
			killErr = nil
		}
		return 0, errors.Join(fmt.Errorf("the freeze guard does not answer, so nothing is frozen: %w", err), killErr)
	}
	return o.Token, nil
}

// disarm tells the guard that a freeze has ended. A guard that cannot be told
// is ended: it would go on to thaw what somebody else may freeze later.
func (g *Guard) disarm(token uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.send(order{Token: token, Op: "thawed"}, time.Now().Add(ackTimeout)); err != nil {
		g.log.Warn("freeze guard cannot be told of the thaw: it is ended", "err", err)
		if err := g.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			g.log.Error("end freeze guard", "err", err)
		}
	}
}

func (g *Guard) send(o order, deadline time.Time) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := g.in.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, err = g.in.Write(append(b, '\n'))
	return err
}

// Keeper keeps a guard running: one that has died is replaced before the next freeze.
type Keeper struct {
	command []string
	log     *slog.Logger
	mu      sync.Mutex
	guard   *Guard
	closed  bool
}

// KeepGuard makes a Keeper for [StartGuard]'s command. Call Guard once to start it.
func KeepGuard(command []string, log *slog.Logger) *Keeper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{command: command, log: log}
}

// Guard is the running guard; nil when it cannot be started.
func (k *Keeper) Guard() *Guard {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.guard != nil {
		select {
		case <-k.guard.Done():
			k.log.Warn("freeze guard is gone: starting another")
			if err := k.guard.Close(); err != nil {
				k.log.Warn("close freeze guard", "err", err)
			}
			k.guard = nil
		default:
			return k.guard
		}
	}
	if k.closed {
		return nil
	}
	g, err := StartGuard(k.command, k.log)
	if err != nil {
		k.log.Error("freeze guard", "err", err)
		return nil
	}
	k.guard = g
	return g
}

// Close ends the guard and waits for it.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.guard == nil {
		return nil
	}
	return k.guard.Close()
}
