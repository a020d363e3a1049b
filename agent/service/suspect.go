package service

import (
	"fmt"
	"slices"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// held is the generation that this node goes on from as long as what was received after
// it is suspect, by on-suspect=hold; zero: it goes on from the newest.
func (s *Service) held() replication.ID {
	if s.snapshot().Spec.OnSuspect != api.OnSuspectHold {
		return replication.ID{}
	}
	list := s.Replica.Suspects()
	if i := slices.IndexFunc(list, store.Suspect.Open); i >= 0 {
		return list[i].Before
	}
	return replication.ID{}
}

// noteSuspects notes what is newly suspect, and what a person has released.
func (s *Service) noteSuspects() {
	list := s.Replica.Suspects()
	held := s.held()
	now := map[replication.ID]store.Suspect{}
	for _, r := range list {
		now[r.First] = r
	}
	s.mu.Lock()
	before := s.suspects
	s.suspects = now
	s.mu.Unlock()
	term := s.snapshot().Term
	for _, r := range list {
		was, known := before[r.First]
		switch {
		case !known:
			does := "it is applied as always (on-suspect=alarm)"
			if held == r.Before {
				does = "it is not applied until understudy release (on-suspect=hold)"
			}
			s.decide(api.EventSuspect, term, "generation %s looks like an attack on the data: %s. Generation %s, from before it, is pinned; %s. See understudy diff %s %[3]s %[1]s", r.First, r.Why, r.Before, does, s.name)
		case was.Open() && !r.Open():
			s.decide(api.EventSuspect, term, "generation %s took the data back to what it was before the suspect generation %s", r.Undone, r.First)
		}
	}
	for first, r := range before {
		if _, still := now[first]; !still {
			s.decide(api.EventSuspect, term, "the suspect generations %s to %s were released; generation %s, from before them, stays pinned", r.First, r.Last, r.Before)
		}
	}
}

// suspectStatus is what there is to show.
func (s *Service) suspectStatus(st *api.ServiceStatus) {
	for _, r := range s.Replica.Suspects() {
		one := api.Suspect{First: r.First.String(), Last: r.Last.String(), Before: r.Before.String(), At: r.At, Why: r.Why}
		text := fmt.Sprintf("SUSPECT: generation %s, received %s, looks like an attack on the data: %s; generation %s, from before it, is pinned there (understudy diff %s %[4]s %[1]s; understudy release %[5]s ends this alarm)",
			one.First, r.At.Format("2006-01-02 15:04:05"), r.Why, one.Before, s.name)
		if !r.Open() {
			one.Undone = r.Undone.String()
			text += "; the data was taken back by generation " + one.Undone
		}
		st.Suspects = append(st.Suspects, one)
		st.Warnings = append(st.Warnings, text)
	}
	if st.Role != api.RoleStandby {
		return
	}
	if held := s.held(); !held.IsZero() {
		st.Held = held.String()
		st.Warnings = append(st.Warnings, fmt.Sprintf("held at generation %s, as what follows is suspect: a takeover by this node goes on from it (understudy release %s: from the newest)", held, s.name))
	}
}
