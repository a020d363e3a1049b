package api

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// LocalRecord is what an agent leaves in [RunDir] about one service on this
// node, for those who must know while no agent answers: the resource agent's
// monitor and stop, and the agent's own successor.
//
// The agent writes it (atomically: temporary file, rename) before a role change
// begins, with Target set, and again when the change is complete, with Target
// empty. So everything of the service that can be on this node is listed at
// every moment. The record is removed when the service is stopped. It lives on
// a tmpfs: a reboot removes it together with the processes it names.
type LocalRecord struct {
	Version    int              `json:"version"` // [Version] of the writer
	Service    string           `json:"service"`
	Role       Role             `json:"role"`
	Target     Role             `json:"target,omitempty"` // a change to this role is under way; what is listed may or may not be there
	Term       uint64           `json:"term,omitempty"`
	At         time.Time        `json:"at"`
	Containers []LocalContainer `json:"containers,omitempty"`
	Addresses  []string         `json:"addresses,omitempty"` // with prefix, as in Spec.VIPs
}

// LocalContainer names a container by what the kernel knows of it, so that it
// can be looked for without Podman.
type LocalContainer struct {
	Name      string `json:"name"`
	ID        string `json:"id"`
	Cgroup    string `json:"cgroup,omitempty"`     // path below the cgroup2 mount, as in /proc/PID/cgroup
	PID       int    `json:"pid,omitempty"`        // of its init process; 0: not started
	StartTime uint64 `json:"start_time,omitempty"` // field 22 of /proc/PID/stat: tells the process from a later one with its PID
}

// ValidServiceName says whether the name can be a service's: what Pacemaker
// allows for a resource's id and a path can bear.
func ValidServiceName(name string) bool {
	for i, r := range name {
		word := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
		if !word && (i == 0 || (r != '.' && r != '-')) {
			return false
		}
	}
	return name != "" && len(name) <= 128
}

// RecordPath is where the record of a service is; runDir "" means [RunDir].
func RecordPath(runDir, service string) string {
	if runDir == "" {
		runDir = RunDir
	}
	return filepath.Join(runDir, "services", service+".json")
}

// ReadRecord reads the record of a service; an error that is fs.ErrNotExist
// says that the service is stopped on this node.
func ReadRecord(runDir, service string) (LocalRecord, error) {
	var rec LocalRecord
	if !ValidServiceName(service) {
		return rec, Errorf(KindConfigured, "name the resource with letters, digits, '.', '_' and '-'", "%q cannot be a service's name", service)
	}
	path := RecordPath(runDir, service)
	b, err := os.ReadFile(path)
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("reading %s: %w", path, err)
	}
	if rec.Service != service {
		return rec, fmt.Errorf("reading %s: it is about service %q", path, rec.Service)
	}
	return rec, nil
}
