package ocf

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// kernel is where what the kernel says is read. Neither Podman nor the agent is asked.
type kernel struct {
	proc, cgroup string
	addresses    func() ([]net.Addr, error)
}

// presence is what of a service's record is on this node.
type presence struct {
	there, gone []string // containers and addresses, in words
}

// look compares a record with what the kernel says.
func (k kernel) look(rec api.LocalRecord) (presence, error) {
	var p presence
	for _, c := range rec.Containers {
		if c.ID == "" && c.PID == 0 && c.Cgroup == "" {
			continue // the agent had not seen it yet: nothing can be said of it
		}
		p.note("container "+c.Name, k.runs(c))
	}
	if len(rec.Addresses) == 0 {
		return p, nil
	}
	held, err := k.held()
	if err != nil {
		return p, fmt.Errorf("listing this node's addresses: %w", err)
	}
	for _, a := range rec.Addresses {
		prefix, err := netip.ParsePrefix(a)
		p.note("address "+a, err == nil && held[prefix.Addr().Unmap()])
	}
	return p, nil
}

func (p *presence) note(what string, there bool) {
	if there {
		p.there = append(p.there, what)
	} else {
		p.gone = append(p.gone, what)
	}
}

func (k kernel) held() (map[netip.Addr]bool, error) {
	list, err := k.addresses()
	if err != nil {
		return nil, err
	}
	held := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				held[ip.Unmap()] = true
			}
		}
	}
	return held, nil
}

// runs says that the container's own process is alive. A container frozen for a
// capture is. Where no process is recorded, any process in its cgroup counts.
func (k kernel) runs(c api.LocalContainer) bool {
	if c.PID > 0 {
		return k.alive(c.PID, c.StartTime)
	}
	return k.populated(c.Cgroup)
}

// alive says that the process exists, is no zombie and started when it should
// have: process ids are used again.
func (k kernel) alive(pid int, start uint64) bool {
	stat, err := os.ReadFile(filepath.Join(k.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	state, started, ok := parseStat(stat)
	return ok && state != 'Z' && state != 'X' && (start == 0 || start == started)
}

// parseStat reads state and start time (fields 3 and 22) from /proc/PID/stat.
// The command's name, field 2, may hold anything, also ") ".
func parseStat(stat []byte) (state byte, start uint64, ok bool) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, false
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], start, err == nil
}

// populated says that the cgroup or one below it has a process.
func (k kernel) populated(cgroup string) bool {
	if cgroup == "" {
		return false
	}
	dir := filepath.Join(k.cgroup, filepath.Clean("/"+cgroup))
	if events, err := os.ReadFile(filepath.Join(dir, "cgroup.events")); err == nil {
		return bytes.Contains(events, []byte("populated 1"))
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	return err == nil && len(bytes.TrimSpace(procs)) > 0
}

// leftovers is everything of a record that a stop must not leave: running
// containers, and also processes that outlived their container's first one.
func (k kernel) leftovers(rec api.LocalRecord) ([]string, error) {
	p, err := k.look(rec)
	left := p.there
	for _, c := range rec.Containers {
		if !k.runs(c) && k.populated(c.Cgroup) {
			left = append(left, "processes of container "+c.Name)
		}
	}
	return left, err
}
