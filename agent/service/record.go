package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication/durable"
)

// step is what an operation was about to do when the record was written; empty
// when none is under way.
type step string

const (
	stepNone      step = ""
	stepStarting  step = "starting"
	stepPromoting step = "promoting"
	stepDemoting  step = "demoting"
	stepStopping  step = "stopping"
	stepRestoring step = "restoring" // active: between the end of the containers and their start
)

// record is what a service's state machine must know after a kill.
type record struct {
	Spec     api.Spec `json:"spec"`
	Role     api.Role `json:"role"`
	Step     step     `json:"step,omitempty"`
	BootID   string   `json:"boot_id"`            // of the boot in which Role was true
	Term     uint64   `json:"term"`               // of the promotion that is or was last carried out here
	Reserved uint64   `json:"reserved"`           // reserved in the CIB for the next promotion
	Dirty    bool     `json:"dirty"`              // containers may have written since the last sealed generation
	Origin   bool     `json:"origin"`             // the node has data of its own and no history: it may be the first active
	Clean    bool     `json:"clean"`              // what was sealed last here is on another node
	Adopted  bool     `json:"adopted"`            // the volumes' data is the service's own: nothing foreign is left to archive
	Newest   bool     `json:"newest"`             // this node was active last, and its last generation reached nobody
	Base     string   `json:"base"`               // generation that Term started from
	Restore  string   `json:"restore,omitempty"`  // generation that the next promotion here goes back to
	Quiesced []string `json:"quiesced,omitempty"` // active: the after-capture that is owed since a before-capture (consistency.go)
	Astray   []string `json:"astray,omitempty"`   // dirty: trees of which what is at the path is not sealed; they become rootOther when dirty ends (settleAstray)
	// Roots say in which directory each tree was when it was last captured or applied here, or rootToFill or rootOther (roots.go).
	Roots   map[string]string `json:"directories,omitempty"`
	FreshAt int64             `json:"fresh_at"` // Unix ns, our clock: the head was current until then at least
	HeardAt int64             `json:"heard_at"` // Unix ns, our clock: an active peer was last heard of
}

func recordPath(dir, service string) string { return filepath.Join(dir, service+".json") }

// load reads a service's record; a service never seen is a stopped one.
func load(dir, service string) (record, error) {
	var r record
	b, err := durable.ReadSummed(recordPath(dir, service))
	if errors.Is(err, fs.ErrNotExist) {
		return record{Role: api.RoleStopped, BootID: bootID(), Spec: api.Spec{Service: service}}, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	} else if !errors.Is(err, durable.ErrSum) {
		return r, err
	}
	if err != nil {
		return r, fmt.Errorf("the record %s of service %s cannot be read: %w; if the node's disk was damaged, move the file away: the service then starts here as on a new node", recordPath(dir, service), service, err)
	}
	return r, nil
}

// save makes the record durable before it returns.
func (r record) save(dir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return durable.WriteSummed(recordPath(dir, r.Spec.Service), b, 0o600, nil)
}

// Known lists the services that have a record in dir.
func Known(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// bootID tells one boot of the node from the next: after a reboot no role holds.
// In a lab node the machine's own boot id does not change, so the start time of
// the node's init is part of it.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	stat, _ := os.ReadFile("/proc/1/stat")
	start := ""
	if _, rest, ok := strings.Cut(string(stat), ") "); ok {
		if f := strings.Fields(rest); len(f) > 19 {
			start = f[19] // starttime, field 22 of proc(5)'s stat
		}
	}
	return strings.TrimSpace(string(id)) + "-" + start
}

// Remembered is the last known definition of a service on this node, read
// without an agent; empty for a service never seen.
func Remembered(dir, service string) (api.Spec, error) {
	if !api.ValidServiceName(service) {
		return api.Spec{}, api.Errorf(api.KindConfigured, "name the resource with letters, digits, '.', '_' and '-'", "%q cannot be a service's name", service)
	}
	r, err := load(dir, service)
	return r.Spec, err
}

// MarkStopped records that an offline stop took the service off this node. Dirty
// stays: what was written is sealed at the next start.
func MarkStopped(dir, service string) error {
	defer lockRecord(dir, service)()
	r, err := load(dir, service)
	if err != nil || r.Role == api.RoleStopped && r.Step == stepNone {
		return err
	}
	r.Role, r.Step, r.Quiesced = api.RoleStopped, stepNone, nil
	return r.save(dir)
}

// heedEviction takes over what an offline stop recorded while this agent lived but
// did not answer in time (see MarkStopped). It does nothing during an operation.
func (s *Service) heedEviction() {
	if s.op.TryLock() {
		defer s.op.Unlock()
		s.heedEvictionLocked()
	}
}

// heedEvictionLocked is heedEviction with s.op held.
func (s *Service) heedEvictionLocked() {
	rec := s.snapshot()
	if rec.Role == api.RoleStopped && rec.Step == stepNone {
		return
	}
	disk, evicted := s.onDisk()
	if !evicted {
		return
	}
	s.loop.stop()
	s.mu.Lock()
	s.rec = disk
	clear(s.seen)
	s.prepared = ""
	s.mu.Unlock()
	s.decide(api.EventStop, rec.Term, "the service was taken off this node by an offline stop (understudy evict) while it was %s here", orStep(rec))
}

// onDisk is the record as it was written last, and whether that was by an offline stop.
func (s *Service) onDisk() (r record, evicted bool) {
	r, err := load(s.Dir, s.name)
	return r, err == nil && r.Role == api.RoleStopped && r.Step == stepNone
}

// takesBack says whether to write next would take back what an offline stop recorded and nobody has heeded yet: what
// background work learns must not. An operation has heeded it before it began. The record is locked.
func (s *Service) takesBack(now, next record) bool {
	if now.Role == api.RoleStopped || next.Role == api.RoleStopped || now.Step != stepNone || next.Step != stepNone || isGone(recordPath(s.Dir, s.name)) {
		return false
	}
	_, evicted := s.onDisk()
	return evicted
}

// lockWait is how long a record waits for another process that writes it: that may hang, and a stop must not.
const lockWait = time.Second

// lockRecord keeps another process from writing the record meanwhile, as far as that can be had in time.
func lockRecord(dir, service string) (unlock func()) {
	f, err := os.OpenFile(filepath.Join(dir, service+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return func() {}
	}
	for end := time.Now().Add(lockWait); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return func() { _ = f.Close() } // which unlocks
}
