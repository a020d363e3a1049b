package cgroup

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// GuardMain is the guard process. It reads orders until its input ends, which
// is when the agent has ended, and thaws each freeze at its bound or at the end
// of the input, whichever is first. It does nothing else, so that nothing else
// can hold it up.
func GuardMain(in io.Reader, out io.Writer) error {
	ignoreSignals()
	g := &guardian{pending: map[uint64]*promise{}}
	defer g.all()
	if _, err := fmt.Fprintln(out, "{}"); err != nil { // see Guard.hello
		return fmt.Errorf("freeze guard: answer: %w", err)
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return fmt.Errorf("freeze guard: order %q: %w", lines.Text(), err)
		}
		switch o.Op {
		case "freeze":
			g.promise(o)
			if _, err := fmt.Fprintf(out, "{\"token\":%d}\n", o.Token); err != nil {
				return fmt.Errorf("freeze guard: answer: %w", err)
			}
		case "thawed":
			g.release(o.Token)
		default:
			return fmt.Errorf("freeze guard: unknown order %q", o.Op)
		}
	}
	return lines.Err()
}

type promise struct {
	order order
	timer *time.Timer
}

// keepInterval is how often a promise is kept again.
const keepInterval = 50 * time.Millisecond

// guardian is the guard process's state.
type guardian struct {
	mu      sync.Mutex
	pending map[uint64]*promise
}

func (g *guardian) promise(o order) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &promise{order: o}
	p.timer = time.AfterFunc(time.Duration(o.MaxUS)*time.Microsecond, func() { g.keep(p) })
	g.pending[o.Token] = p
}

// keep thaws, and goes on doing so until the agent says that its freeze has
// ended: an agent that was stopped between the promise and the freeze would
// freeze after it was kept.
func (g *guardian) keep(p *promise) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pending[p.order.Token] != p {
		return
	}
	report(thawAll(p.order.Cgroups))
	p.timer.Reset(keepInterval)
}

func (g *guardian) release(token uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.pending[token]; p != nil {
		p.timer.Stop()
		delete(g.pending, token)
	}
}

// all keeps every promise at once: the agent is gone.
func (g *guardian) all() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.pending {
		p.timer.Stop()
		err := thawAll(p.order.Cgroups)
		if err == nil && p.order.Record != "" {
			err = os.Remove(p.order.Record)
		}
		if !errors.Is(err, os.ErrNotExist) {
			report(err)
		}
	}
}

func report(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "understudy freeze guard:", err)
	}
}
