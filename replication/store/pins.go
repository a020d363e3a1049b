package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// Pin keeps a committed generation, whatever the policy says, until it is unpinned.
// Pins are this node's own: no sender can set or lift one.
type Pin struct {
	ID  replication.ID `json:"id"`
	At  time.Time      `json:"at"`
	Why string         `json:"why"`
}

const pinsFile = "pins"

// Pins lists them, the oldest generation first. A list that cannot be read is an
// error, and nothing is pruned until it can.
func (s *Store) Pins() (pins []Pin, err error) {
	err = s.readJSON(pinsFile, &pins)
	return pins, err
}

// Pin pins a committed generation; one that is pinned keeps its first reason. ErrNotFound.
func (s *Store) Pin(id replication.ID, why string) error {
	return s.locked(func() error { return s.pinLocked(id, why) })
}

func (s *Store) pinLocked(id replication.ID, why string) error {
	if _, err := s.committedFile(id); err != nil {
		return err
	}
	pins, err := s.Pins()
	if err != nil || slices.ContainsFunc(pins, func(p Pin) bool { return p.ID == id }) {
		return err
	}
	pins = append(pins, Pin{ID: id, At: s.o.Now(), Why: why})
	slices.SortFunc(pins, func(a, b Pin) int { return a.ID.Compare(b.ID) })
	return s.writePinsLocked(pins)
}

// Unpin leaves a generation to the policy again. ErrNotFound: it is not pinned.
func (s *Store) Unpin(id replication.ID) error {
	return s.locked(func() error {
		pins, err := s.Pins()
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(slices.Clone(pins), func(p Pin) bool { return p.ID == id })
		if len(left) == len(pins) {
			return fmt.Errorf("a pin of generation %s: %w in the store of service %s", id, replication.ErrNotFound, s.service)
		}
		return s.writePinsLocked(left)
	})
}

// dropPinsLocked drops the pins of generations beyond id.
func (s *Store) dropPinsLocked(id replication.ID) error {
	pins, err := s.Pins()
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(pins), func(p Pin) bool { return p.ID.Compare(id) > 0 })
	if len(left) == len(pins) {
		return nil
	}
	return s.writePinsLocked(left)
}

func (s *Store) writePinsLocked(pins []Pin) error {
	b, err := json.Marshal(pins)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.path(pinsFile), b, fileMode, s.o.Hook)
}
