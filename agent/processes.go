package agent

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/cgroup"
	"github.com/understudy-ha/understudy/agent/service"
	"github.com/understudy-ha/understudy/replication"
)

// GuardCommand is the hidden command of the understudy program that guards freezes.
const GuardCommand = "freeze-guard"

// processes is what a service asks of the kernel about its containers.
type processes struct {
	host    *cgroup.Host
	freezer *cgroup.Freezer
	log     *slog.Logger

	mu     sync.Mutex // guards guard and closed
	guard  *cgroup.Guard
	closed bool
}

var _ service.Processes = (*processes)(nil)

func newProcesses(freezeDir string, log *slog.Logger) *processes {
	p := &processes{host: cgroup.NewHost(cgroup.Options{Log: log}), log: log}
	p.freezer = cgroup.NewFreezer(cgroup.FreezerOptions{Dir: freezeDir, Guard: p.current, Log: log, Host: p.host})
	return p
}

// current is the running guard; one that died is started anew. Without one, the
// freezer refuses to freeze.
func (p *processes) current() *cgroup.Guard {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	if p.guard != nil {
		select {
		case <-p.guard.Done():
			p.log.Warn("the freeze guard died and is started anew")
			p.guard = nil
		default:
			return p.guard
		}
	}
	self, err := os.Executable()
	if err != nil {
		p.log.Error("no freeze guard: this program's own path cannot be found", "error", err)
		return nil
	}
	g, err := cgroup.StartGuard([]string{self, GuardCommand}, p.log)
	if err != nil {
		p.log.Error("no freeze guard, so nothing is frozen", "error", err)
		return nil
	}
	p.guard = g
	return g
}

func (p *processes) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.guard == nil {
		return nil
	}
	return p.guard.Close()
}

// Running asks /proc alone: the process is the one that was seen, and it runs
// the container's program. A process that we froze runs.
func (p *processes) Running(c service.Container) bool {
	return c.PID > 0 && (c.StartTime == 0 || cgroup.StartTime(c.PID) == c.StartTime) && p.host.Started(c.PID)
}

// Evict ends the containers' processes and proves that none is left.
func (p *processes) Evict(ctx context.Context, names []string) error {
	evidence, err := p.host.Evict(ctx, cgroup.EvictRequest{Names: names})
	if len(evidence.Killed) > 0 {
		p.log.Warn("processes were ended without Podman", "evidence", evidence.String())
	}
	return err
}

func (p *processes) Freezer(name string, containers []string, limit time.Duration) replication.Freezer {
	return p.freezer.For(name, containers, limit)
}

// Thaw lets run again what a dead agent left frozen (`understudy thaw`).
func Thaw(runDir string) ([]string, error) {
	return cgroup.ThawAll(freezeDir(runDir))
}
