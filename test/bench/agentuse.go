package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
)

// unit is the agents' cgroup, on the nodes.
const unit = "/sys/fs/cgroup/system.slice/understudy.service"

// agentCPU is the processor time that a node's agent has used so far, with its children.
func agentCPU(n *lab.Node) (time.Duration, error) { return cpuOf(n, unit) }

// bothCPU is the processor time that everything on both nodes has used so far: what a
// busy machine does not change.
func (s *site) bothCPU() (time.Duration, error) {
	one, err1 := cpuOf(s.n1, "/sys/fs/cgroup")
	two, err2 := cpuOf(s.n2, "/sys/fs/cgroup")
	return one + two, errors.Join(err1, err2)
}

// cpuOf is what a node's cgroup and those below it have used.
func cpuOf(n *lab.Node, cgroup string) (time.Duration, error) {
	b, err := os.ReadFile(n.HostPath(cgroup + "/cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var us int64
		if k, _ := fmt.Sscanf(line, "usage_usec %d", &us); k == 1 {
			return time.Duration(us) * time.Microsecond, nil
		}
	}
	return 0, fmt.Errorf("%s/cpu.stat has no usage_usec", cgroup)
}

// memory is what a node's agent has in memory, bytes.
type memory struct {
	now  int64 // its processes' share (PSS) added up
	peak int64 // most that the largest process ever had resident
}

func agentMemory(n *lab.Node) (m memory, err error) {
	b, err := os.ReadFile(n.HostPath(unit + "/cgroup.procs"))
	if err != nil {
		return m, err
	}
	for _, pid := range strings.Fields(string(b)) { // as this machine numbers them
		pss, err := kilobytes(filepath.Join("/proc", pid, "smaps_rollup"), "Pss:")
		if err != nil {
			return m, err
		}
		high, err := kilobytes(filepath.Join("/proc", pid, "status"), "VmHWM:")
		if err != nil {
			return m, err
		}
		m.now += pss
		m.peak = max(m.peak, high)
	}
	return m, nil
}

// kilobytes reads a line such as "VmHWM:  1234 kB"; the answer is in bytes.
func kilobytes(path, key string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		if f := strings.Fields(sc.Text()); len(f) > 1 && f[0] == key {
			var v int64
			_, err := fmt.Sscan(f[1], &v)
			return v << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, key)
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }
