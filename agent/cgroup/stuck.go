package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// Process is one that outlived SIGKILL.
type Process struct {
	PID   int
	Name  string
	State string // proc(5)'s letter: "D" waits in the kernel and cannot die
	In    string // the kernel function it waits in, where the kernel says
}

// StuckError says what is still alive after SIGKILL.
type StuckError struct {
	Where     string // the cgroup or the container
	Processes []Process
}

// Error names the processes and, for those that wait in the kernel, says so.
func (e *StuckError) Error() string { return e.detail().Error() }

// Unwrap gives the error its kind and what to do.
func (e *StuckError) Unwrap() error { return e.detail() }

func (e *StuckError) detail() *api.Error {
	var names []string
	waits := false
	for _, p := range e.Processes {
		s := fmt.Sprintf("%d (%s, state %s", p.PID, p.Name, p.State)
		if p.In != "" && p.In != "0" {
			s += " in " + p.In
		}
		names = append(names, s+")")
		waits = waits || p.State == "D"
	}
	list := strings.Join(names, ", ")
	if waits {
		return api.Errorf(api.KindDeadline, "its storage or network file system does not answer: repair that, or power the node off",
			"%s still has processes that were killed and cannot die, because they wait in the kernel: %s", e.Where, list)
	}
	return api.Errorf(api.KindDeadline, "they were sent SIGKILL and may be on their way out: try again, or power the node off",
		"%s still has processes: %s", e.Where, list)
}

func stuck(where string, pids []int) *StuckError {
	e := &StuckError{Where: where}
	for _, pid := range pids {
		p := Process{PID: pid, Name: "?", State: "?"}
		if st, err := readStat("/proc", pid); err == nil {
			p.Name, p.State = st.comm, st.state
		}
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid)); err == nil {
			p.In = string(b)
		}
		e.Processes = append(e.Processes, p)
	}
	return e
}

// stat is what is needed of proc(5)'s /proc/PID/stat.
type stat struct {
	comm  string
	state string
	ppid  int
	start string // in clock ticks after boot; with the pid it names one process for ever
}

func readStat(proc string, pid int) (stat, error) {
	b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(b))
}

// parseStat reads the line; comm is in parentheses and may itself contain any.
func parseStat(s string) (stat, error) {
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("unreadable stat %q", s)
	}
	f := strings.Fields(s[end+1:])
	if len(f) < 20 {
		return stat{}, fmt.Errorf("unreadable stat %q", s)
	}
	ppid, err := strconv.Atoi(f[1])
	if err != nil {
		return stat{}, fmt.Errorf("unreadable stat %q", s)
	}
	return stat{comm: s[open+1 : end], state: f[0], ppid: ppid, start: f[19]}, nil
}
