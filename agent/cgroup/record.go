package cgroup

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/replication/durable"
)

// FreezeDir is where the records of freezes are.
const FreezeDir = "/run/understudy/freeze"

// record says what is about to be frozen, for whoever comes after a kill.
type record struct {
	Service  string    `json:"service"`
	Cgroups  []string  `json:"cgroups"`
	Deadline time.Time `json:"deadline"` // for people
}

// recordPath takes any service name: what could leave the directory is escaped.
func recordPath(dir, service string) string {
	return filepath.Join(dir, strings.NewReplacer("%", "%25", "/", "%2F", "\x00", "%00").Replace(service)+".json")
}

func writeRecord(dir string, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("record the freeze: %w", err)
	}
	if err := durable.WriteFile(recordPath(dir, r.Service), b, 0o600, nil); err != nil {
		return fmt.Errorf("record the freeze: %w", err)
	}
	return nil
}

func removeRecord(dir, service string) error {
	err := os.Remove(recordPath(dir, service))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the record of the freeze: %w", err)
	}
	return nil
}

// ThawAll thaws whatever the records in dir name and removes them: for the
// agent's start, before any service is looked at, and for the unit's
// ExecStopPost. It returns the services that a record was found of. No Freezer
// may be at work in dir.
func ThawAll(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("thaw what was left frozen: %w", err)
	}
	var services []string
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasSuffix(e.Name(), ".json") || strings.HasPrefix(e.Name(), ".") {
			errs = append(errs, os.RemoveAll(path)) // a record whose writing was cut off: nothing was frozen yet
			continue
		}
		r, err := readRecord(path)
		if err == nil {
			services = append(services, r.Service)
			err = thawAll(r.Cgroups)
		}
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("thaw what %s names: %w", path, err))
		}
	}
	return services, errors.Join(errs...)
}

func readRecord(path string) (record, error) {
	var r record
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("not a record of a freeze: %w; look with `podman ps` for paused containers, unpause them, and remove the file", err)
	}
	return r, nil
}
