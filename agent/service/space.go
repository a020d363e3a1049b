package service

import (
	"fmt"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication/store"
)

// space says how the store's disk stands, in a word and in a sentence; "": well.
func (s *Service) space() (state, text string) {
	room, kept, err := s.Replica.Room()
	switch {
	case err != nil:
		return "", fmt.Sprintf("what the store's disk has left cannot be seen: %v", err)
	case room.Full():
		return api.SpaceFull, fmt.Sprintf("FULL: the store's file system has %d MiB left of %d, and %d MiB stay free: nothing new is sealed or received here, what is here stays as it is%s; make room, or lower [retention]",
			room.Free>>20, room.Size>>20, room.Least>>20, thinned(kept))
	case kept.KeepLast > 0 || room.Short():
		return api.SpaceShort, fmt.Sprintf("SHORT OF ROOM: the store's file system has %d MiB left of %d, and history gives way below %d MiB%s; make room, or lower [retention]",
			room.Free>>20, room.Size>>20, room.Spare>>20, thinned(kept))
	}
	return "", ""
}

func thinned(kept store.Policy) string {
	if kept.KeepLast == 0 {
		return ""
	}
	return fmt.Sprintf(", down to the last %d generations, %d hours, %d days, %d weeks and what is pinned", kept.KeepLast, kept.Hourly, kept.Daily, kept.Weekly)
}

// noteSpace notes when the disk becomes short, then full, and when it has room again: to and
// fro between the two is not told.
func (s *Service) noteSpace() {
	state, text := s.space()
	s.mu.Lock()
	before := s.spaceWas
	if before == api.SpaceFull && state == api.SpaceShort {
		state = before
	}
	s.spaceWas = state
	s.mu.Unlock()
	switch state {
	case before:
	case "":
		s.decide(api.EventSpace, s.snapshot().Term, "the store has room again; history is kept as configured")
	default:
		s.decide(api.EventSpace, s.snapshot().Term, "%s", text)
	}
}
