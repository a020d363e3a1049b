package cgroup

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Options say where to look. The zero value is this machine.
type Options struct {
	Proc    string   // "/proc"
	Root    string   // "/sys/fs/cgroup"
	Storage []string // lists of containers that the storage library keeps; nil: the default places
	Log     *slog.Logger
}

// Host looks at and ends the containers of this node. Its methods may be called
// concurrently; it keeps nothing between calls.
type Host struct{ opts Options }

// NewHost makes a Host.
func NewHost(o Options) *Host {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Root == "" {
		o.Root = "/sys/fs/cgroup"
	}
	if o.Storage == nil {
		o.Storage = []string{
			"/var/lib/containers/storage/overlay-containers/containers.json",
			"/run/containers/storage/overlay-containers/volatile-containers.json",
			"/var/lib/containers/storage/overlay-containers/volatile-containers.json",
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Host{opts: o}
}

// Container is what of a container is on this node, as the kernel has it.
type Container struct {
	Name    string
	ID      string
	Conmon  int      // pid of its monitor, 0: none
	Init    int      // pid of its first process, 0: none, or not known because the monitor is dead
	Cgroups []string // its directories; on v1 one per hierarchy
}

// Find finds every container of a name that has something on this node: a
// monitor or a cgroup. There can be several, when Podman lost sight of one.
func (h *Host) Find(name string) ([]Container, error) {
	found, _, err := h.find([]string{name}, nil)
	return found, err
}

// find looks names and ids up in all three places. The monitors include those
// of exec sessions.
func (h *Host) find(names, ids []string) ([]Container, []conmon, error) {
	known := map[string]*Container{}
	for _, id := range ids {
		if isID(id) {
			known[id] = &Container{ID: id}
		}
	}
	for id, name := range h.stored(names) {
		known[id] = &Container{ID: id, Name: name}
	}
	all, err := h.conmons()
	if err != nil {
		return nil, nil, err
	}
	var monitors []conmon
	pidfiles := map[string]string{}
	for _, c := range all {
		if known[c.id] == nil && !slices.Contains(names, c.name) {
			continue
		}
		monitors = append(monitors, c)
		if known[c.id] == nil {
			known[c.id] = &Container{ID: c.id}
		}
		known[c.id].Name = c.name
		if c.own() {
			known[c.id].Conmon = c.pid
			pidfiles[c.id] = c.pidfile
		}
	}
	if err := h.cgroups(known); err != nil {
		return nil, nil, err
	}
	var out []Container
	for _, c := range known {
		if c.Conmon == 0 && len(c.Cgroups) == 0 {
			continue
		}
		c.Init = h.initOf(c, pidfiles[c.ID])
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Container) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	return out, monitors, nil
}

// cgroups finds the directories that Podman named after the containers.
func (h *Host) cgroups(known map[string]*Container) error {
	if len(known) == 0 {
		return nil
	}
	err := filepath.WalkDir(h.opts.Root, func(path string, d fs.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		c := known[idOf(d.Name())]
		if c == nil {
			return nil
		}
		c.Cgroups = append(c.Cgroups, path)
		return fs.SkipDir // what is below belongs to it
	})
	if err != nil {
		return fmt.Errorf("look for containers' cgroups: %w", err)
	}
	return nil
}

// idOf finds the container id in the name of a container's cgroup, "" in any
// other. The monitor's own (libpod-conmon-ID) is not the container's.
func idOf(dir string) string {
	id, ok := strings.CutPrefix(dir, "libpod-")
	if !ok {
		return ""
	}
	id = strings.TrimPrefix(strings.TrimSuffix(id, ".scope"), "payload-")
	if !isID(id) {
		return ""
	}
	return id
}

// initOf finds a container's first process: the one that its monitor started.
func (h *Host) initOf(c *Container, pidfile string) int {
	if c.Conmon == 0 {
		return 0
	}
	var candidates []int
	if b, err := os.ReadFile(pidfile); pidfile != "" && err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			candidates = append(candidates, pid)
		}
	}
	for _, dir := range c.Cgroups {
		pids, err := Procs(dir)
		if err == nil {
			candidates = append(candidates, pids...)
		}
	}
	for _, pid := range candidates {
		if st, err := readStat(h.opts.Proc, pid); err == nil && st.ppid == c.Conmon && st.state != "Z" {
			return pid
		}
	}
	return 0
}

// stored finds containers' ids by name in the storage library's lists. They are
// a help where conmon is dead; one that cannot be read is passed over.
func (h *Host) stored(names []string) map[string]string {
	out := map[string]string{}
	for _, path := range h.opts.Storage {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var list []struct {
			ID    string   `json:"id"`
			Names []string `json:"names"`
		}
		if err := json.Unmarshal(b, &list); err != nil {
			h.opts.Log.Warn("the list of containers cannot be read", "file", path, "err", err)
			continue
		}
		for _, c := range list {
			for _, n := range c.Names {
				if isID(c.ID) && slices.Contains(names, n) {
					out[c.ID] = n
				}
			}
		}
	}
	return out
}

// Started says whether a container's first process runs the container's own
// program. A container that is initialised and not started has a process as
// well: the OCI runtime's, which waits.
func (h *Host) Started(pid int) bool {
	if pid <= 0 {
		return false
	}
	st, err := readStat(h.opts.Proc, pid)
	if err != nil || st.state == "Z" || st.state == "X" {
		return false
	}
	if strings.HasPrefix(st.comm, "runc:[") {
		return false
	}
	exe, err := os.Readlink(filepath.Join(h.opts.Proc, strconv.Itoa(pid), "exe"))
	if err != nil {
		return true
	}
	// The runtimes run from a sealed copy of themselves: "/memfd:runc_cloned:…", "/memfd:crun…".
	program := strings.TrimPrefix(filepath.Base(strings.TrimSuffix(exe, " (deleted)")), "memfd:")
	return program != "crun" && program != "runc" && !strings.HasPrefix(program, "runc_cloned") && !strings.HasPrefix(program, "crun_")
}
