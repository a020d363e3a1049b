package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

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
	guard   *cgroup.Keeper // of the process that ends freezes when the agent cannot

	mu      sync.Mutex                    // guards members
	members map[string][]cgroup.Container // by names: where their processes were when they were looked for last
}

var _ service.Processes = (*processes)(nil)

// newProcesses makes the freezer with its guard: a process of this same program
// that is started at the first need and anew when it dies. Without one, nothing
// is frozen.
func newProcesses(freezeDir string, log *slog.Logger) (*processes, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("this program's own path, for the freeze guard: %w", err)
	}
	p := &processes{members: map[string][]cgroup.Container{}, host: cgroup.NewHost(cgroup.Options{Log: log}), guard: cgroup.KeepGuard([]string{self, GuardCommand}, log), log: log}
	p.freezer = cgroup.NewFreezer(cgroup.FreezerOptions{Dir: freezeDir, Guard: p.guard.Guard, Log: log, Host: p.host})
	return p, nil
}

func (p *processes) Close() error {
	return p.guard.Close()
}

// Running asks /proc alone: the process is the one that was seen, and it runs
// the container's program. A process that we froze runs.
func (p *processes) Running(c service.Container) bool {
	return c.PID > 0 && (c.StartTime == 0 || cgroup.StartTime(c.PID) == c.StartTime) && p.host.Started(c.PID)
}

// Ended also looks at the container's cgroup, where processes of a container with
// --pid=host outlive its first one.
func (p *processes) Ended(c service.Container) bool {
	if p.Running(c) {
		return false
	}
	if c.Cgroup == "" {
		return c.PID == 0
	}
	dir := filepath.Join("/sys/fs/cgroup", c.Cgroup)
	alive, err := cgroup.Alive(dir)
	if err != nil || !alive {
		return err == nil || errors.Is(err, fs.ErrNotExist)
	}
	return onlyMonitors(dir)
}

// onlyMonitors says whether all that is left in a cgroup are Podman's monitors: that of
// an exec session stays a while after its process, and writes nothing.
func onlyMonitors(dir string) bool {
	pids, err := cgroup.Procs(dir)
	if err != nil || len(pids) == 0 {
		return false // they are further below, or cannot be seen
	}
	for _, pid := range pids {
		comm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err == nil && strings.TrimSpace(string(comm)) != "conmon" {
			return false
		}
	}
	return true
}

// Elsewhere compares what is mounted in the container's first process with what is at the path now.
func (p *processes) Elsewhere(c service.Container, roots map[string]string) map[string]bool {
	if c.PID <= 0 || c.StartTime != 0 && cgroup.StartTime(c.PID) != c.StartTime {
		return nil
	}
	root := filepath.Join("/proc", strconv.Itoa(c.PID), "root")
	if at, err := os.Readlink(root); err != nil || at != "/" {
		return nil // it has changed its root
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	out := map[string]bool{}
	for tree, at := range c.Trees {
		if path, ok := roots[tree]; ok {
			if another, known := isAnother(c.PID, fd, at, path); known {
				out[tree] = another
			}
		}
	}
	return out
}

// isAnother says whether what a process has mounted at a path below its root, which fd is of, is
// another directory than what is at the path here; known is false where that cannot be told.
func isAnother(pid, fd int, at, path string) (another, known bool) {
	// Links are the container's own, and lead nowhere out of it.
	in, err := unix.Openat2(fd, at, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return false, false
	}
	defer func() { _ = unix.Close(in) }()
	var inside, outside unix.Stat_t
	if err := unix.Stat(path, &outside); err != nil {
		return true, errors.Is(err, unix.ENOENT)
	}
	if err := unix.Fstat(in, &inside); err != nil {
		return false, false
	}
	if inside.Dev == outside.Dev && inside.Ino == outside.Ino {
		return false, true
	}
	m := mountOf(pid, in)
	if m == nil || m.FSType == "overlay" && inside.Dev != outside.Dev { // :O
		return false, false
	}
	return true, !within(m, path)
}

// mountOf is the mount that an open directory of a process is the root of; nil where it is none, or not
// the only one there: the container has mounted something over it by itself.
func mountOf(pid, fd int) *mountinfo.Info {
	at, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)) // in the process' own tree of mounts
	if err != nil {
		return nil
	}
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	was := strings.TrimSuffix(at, " (deleted)") // the directory is, not what it is mounted on
	mounts, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != at && m.Mountpoint != was, false })
	if err != nil || len(mounts) != 1 {
		return nil
	}
	return mounts[0]
}

// within says whether a mount is of a directory below the path: a part of a volume. Podman
// before 5.4 does not tell these.
func within(m *mountinfo.Info, path string) bool {
	here, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil || len(here) == 0 {
		return false
	}
	holds := slices.MaxFunc(here, func(a, b *mountinfo.Info) int { return cmp.Compare(len(a.Mountpoint), len(b.Mountpoint)) })
	rel, err := filepath.Rel(holds.Mountpoint, path)
	whole := filepath.Join(holds.Root, rel)
	return err == nil && holds.Major == m.Major && holds.Minor == m.Minor && !strings.HasSuffix(m.Root, "//deleted") && strings.HasPrefix(m.Root, whole+"/")
}

// AskToEnd spares the time that Podman takes to send the signal.
func (p *processes) AskToEnd(c service.Container) error {
	if !p.Running(c) {
		return nil
	}
	return cgroup.Signal(c.PID, c.StartTime, c.StopSignal)
}

// Members lists the processes of the containers, each capture anew; where these
// are is looked for only when a container has come or gone.
func (p *processes) Members(names []string) ([]int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := strings.Join(names, " ")
	if pids, err := membersOf(names, p.members[key], false); err == nil {
		return pids, nil
	}
	var found []cgroup.Container
	for _, name := range names {
		cs, err := p.host.Find(name)
		if err != nil {
			return nil, err
		}
		found = append(found, cs...)
	}
	p.members[key] = found
	pids, err := membersOf(names, found, true)
	if errors.Is(err, errNotAll) {
		err = nil
	}
	return pids, err
}

// errNotAll: there may be a container that is not among those known.
var errNotAll = errors.New("not each of the containers has a process")

// membersOf lists what is in the containers' cgroups. One without a cgroup of its own has a
// pid only as long as it was just looked for: later that may be another's.
func membersOf(names []string, cs []cgroup.Container, justFound bool) ([]int, error) {
	var pids []int
	alive := map[string]bool{}
	for _, c := range cs {
		before := len(pids)
		for _, dir := range c.Cgroups {
			in, err := cgroup.Procs(dir)
			if err != nil {
				return nil, err
			}
			pids = append(pids, in...)
		}
		if len(c.Cgroups) == 0 && c.Init != 0 && justFound {
			pids = append(pids, c.Init)
		}
		alive[c.Name] = alive[c.Name] || len(pids) > before
	}
	for _, name := range names {
		if !alive[name] {
			return pids, errNotAll
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
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
