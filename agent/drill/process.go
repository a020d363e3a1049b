package drill

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/probe"
)

// ProcessProber measures in a child process, `understudy probe --events --until-eof …`, which may run
// in a client's network namespace or, through ssh, on another machine. Its clock
// must be the drill's own, or near it: outages are matched with the harm by time.
type ProcessProber struct {
	// Command makes the child for a round; give FirstWrite(round) to --write-from. The
	// child's stdin and stdout are the prober's; stderr too unless it is set.
	Command func(ctx context.Context, round int) *exec.Cmd
}

// Start starts the child and waits until it says that it measures.
func (p ProcessProber) Start(ctx context.Context, round int) (Session, error) {
	// The child outlives an interrupt of the drill by the time it takes to end in good order.
	cmd := p.Command(context.WithoutCancel(ctx), round)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s := &processSession{cmd: cmd, stdin: stdin, done: make(chan struct{}), started: make(chan struct{})}
	if cmd.Stderr == nil {
		cmd.Stderr = &s.stderr
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go s.read(stdout)
	select {
	case <-s.started:
		return s, nil
	case <-s.done:
		_, err := s.Stop(ctx)
		return nil, err
	case <-ctx.Done():
		s.kill()
		return nil, ctx.Err()
	}
}

type processSession struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	stderr  bytes.Buffer // the child's; read after done
	done    chan struct{}
	started chan struct{}

	mu       sync.Mutex // guards what follows
	snapshot probe.Snapshot
	result   *probe.Result
	err      error // of the child or of its output; valid once done is closed
}

// Done is closed when the child has ended.
func (s *processSession) Done() <-chan struct{} { return s.done }

// Snapshot is the child's last word. One that is long past answers for nothing.
func (s *processSession) Snapshot() probe.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.snapshot
	if time.Since(snap.At) > time.Second {
		snap.Answering = false
	}
	return snap
}

// Stop closes the child's stdin, which ends it, and returns its result; where ctx
// ends first, the child is killed.
func (s *processSession) Stop(ctx context.Context) (probe.Result, error) {
	_ = s.stdin.Close()
	select {
	case <-s.done:
	case <-ctx.Done():
		s.kill()
		return probe.Result{}, fmt.Errorf("the probe did not end: %w", ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.result == nil {
		return probe.Result{}, fmt.Errorf("the probe gave no result: %w%s", s.err, s.said())
	}
	return *s.result, nil
}

func (s *processSession) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

func (s *processSession) said() string {
	if text := strings.TrimSpace(s.stderr.String()); text != "" {
		return ": " + text
	}
	return ""
}

// maxEvent bounds a line: a result with many outages is long.
const maxEvent = 16 << 20

// read owns the child until it has ended.
func (s *processSession) read(stdout io.Reader) {
	defer close(s.done)
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, maxEvent)
	var bad error
	for lines.Scan() {
		var e probe.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			bad = fmt.Errorf("its output is not events: %w", err)
			continue
		}
		s.take(e)
	}
	_, _ = io.Copy(io.Discard, stdout)
	err := s.cmd.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = errors.Join(bad, lines.Err(), err); s.err == nil {
		s.err = errors.New("it ended without one")
	}
}

func (s *processSession) take(e probe.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Event {
	case probe.EventStarted:
		select {
		case <-s.started:
		default:
			close(s.started)
		}
	case probe.EventTick:
		if e.Snapshot != nil {
			s.snapshot = *e.Snapshot
		}
	case probe.EventResult:
		s.result = e.Result
	}
}
