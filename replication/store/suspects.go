package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/suspicion"
)

// Suspect is a run of generations, one on top of the other, that were received and look
// like an attack on the data. It stays until a person releases it. Nothing that a sender
// can say makes or lifts one.
type Suspect struct {
	First  replication.ID `json:"first"`
	Last   replication.ID `json:"last"`
	Before replication.ID `json:"before"` // the predecessor of First, pinned
	At     time.Time      `json:"at"`     // this node's clock
	Why    string         `json:"why"`    // of the first
	// Undone is a generation with the content of one from before the run: what came
	// after it is not built on the run. Zero: there is none.
	Undone replication.ID `json:"undone"`
}

// Open says whether the newest generations are built on the run.
func (s Suspect) Open() bool { return s.Undone.IsZero() }

// Holds says whether a generation is in the run.
func (s Suspect) Holds(id replication.ID) bool {
	return id.Compare(s.First) >= 0 && id.Compare(s.Last) <= 0
}

const (
	suspectsFile = "suspects"
	// maxSuspects is how many runs are told apart; what is suspect beyond belongs to the
	// last. Each pins a generation, and disks are finite.
	maxSuspects = 16
)

// suspects is what the file holds.
type suspects struct {
	Runs  []Suspect      `json:"runs,omitempty"`
	Since replication.ID `json:"since"` // a person has judged what there was up to here
}

func (s *Store) readSuspects() (l suspects, err error) {
	err = s.readJSON(suspectsFile, &l)
	return l, err
}

func (s *Store) writeSuspectsLocked(l suspects) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.path(suspectsFile), b, fileMode, s.o.Hook)
}

// Suspects lists the runs that no person has released, the oldest first.
func (s *Store) Suspects() ([]Suspect, error) {
	l, err := s.readSuspects()
	if err != nil || len(l.Runs) == 0 {
		return nil, err
	}
	head, err := s.Head()
	// What was marked in a commit that a kill cut short is not there yet.
	return slices.DeleteFunc(l.Runs, func(r Suspect) bool { return r.First.Compare(head) > 0 }), err
}

// Release says that what is suspect so far is not, or was dealt with. What was pinned
// for it stays pinned. ErrNotFound: nothing is.
func (s *Store) Release() (released []Suspect, err error) {
	err = s.locked(func() error {
		l, err := s.readSuspects()
		if err != nil {
			return err
		}
		if released = l.Runs; len(released) == 0 {
			return fmt.Errorf("a suspect generation: %w in the store of service %s", replication.ErrNotFound, s.service)
		}
		head, err := s.Head()
		if err != nil {
			return err
		}
		return s.writeSuspectsLocked(suspects{Since: head})
	})
	return released, err
}

// judgeLocked marks a generation that was received and looks like an attack, and pins
// what was before it. It answers what the generation did, for the record. That it cannot
// be judged is no reason to refuse it; that it cannot be marked is.
func (s *Store) judgeLocked(m *replication.Manifest, received bool) (did string, err error) {
	l, err := s.readSuspects()
	if err != nil {
		return "", err
	}
	// Killed before the head moved, it is judged again, and may be something else.
	l.Runs = slices.DeleteFunc(l.Runs, func(r Suspect) bool { return r.First.Compare(m.ID) >= 0 })
	undone, err := s.undoneBy(m, l)
	if err != nil {
		return "", err
	}
	if undone {
		for i := range l.Runs {
			if l.Runs[i].Open() {
				l.Runs[i].Undone = m.ID
			}
		}
		return "", s.writeSuspectsLocked(l)
	}
	if !received || m.Parent.IsZero() {
		return "", nil
	}
	base, err := s.Load(m.Parent)
	if errors.Is(err, replication.ErrNotFound) {
		return "", nil // the first that this store takes
	}
	var a suspicion.Activity
	var why string
	if err == nil {
		a, why, err = s.judge(m, base, l)
	}
	if err != nil {
		s.log.Error("it cannot be told whether a generation looks like an attack", "generation", m.ID.String(), "error", err)
		return "", nil
	}
	if why != "" {
		s.log.Error("a generation looks like an attack on the data", "generation", m.ID.String(), "why", why)
		err = s.markLocked(l, m, why)
		a = suspicion.Activity{} // no habit is made of it
	}
	return activity(a), err
}

// undoneBy says whether m takes the volumes back to what they were before what is suspect.
func (s *Store) undoneBy(m *replication.Manifest, l suspects) (bool, error) {
	i := slices.IndexFunc(l.Runs, Suspect.Open)
	if i < 0 {
		return false, nil
	}
	known, _, err := s.stamps()
	if err != nil {
		return false, err
	}
	sum := m.Sum()
	ids, err := s.Generations()
	return slices.ContainsFunc(ids, func(id replication.ID) bool {
		return id.Compare(l.Runs[i].First) < 0 && known[generationName(id)].sum == sum
	}), err
}

func (s *Store) judge(m, base *replication.Manifest, l suspects) (a suspicion.Activity, why string, err error) {
	vs, err := suspicion.Measure(m, base, s.lengths)
	if err != nil {
		return a, "", err
	}
	a = suspicion.Sum(vs)
	known, _, err := s.stamps()
	if err != nil {
		return a, "", err
	}
	ids, err := s.Generations()
	if err != nil {
		return a, "", err
	}
	var past, recent []suspicion.Activity
	sum := m.Sum()
	for _, id := range ids {
		t := known[generationName(id)]
		if t.sum == sum && !slices.ContainsFunc(l.Runs, func(r Suspect) bool { return r.Holds(id) }) {
			return a, "", nil // it was there before: somebody took the data back
		}
		did, ok := parseActivity(t.did)
		if ok {
			past = append(past, did)
		}
		if ok && id.Compare(l.Since) > 0 {
			recent = append(recent, did)
		}
	}
	if why = suspicion.Judge(vs, suspicion.UsualOf(past)); why == "" {
		why = suspicion.Creeping(a, recent)
	}
	return a, why, nil
}

// lengths looks up how long chunks are.
func (s *Store) lengths(hs []replication.Hash, each func(i int, stored, raw int64)) error {
	return s.index.finding(func(find func(replication.Hash) (where, bool)) {
		for i, h := range hs {
			if w, ok := find(h); ok {
				each(i, int64(w.chunk().stored), int64(w.chunk().raw))
			}
		}
	})
}

// markLocked makes the mark durable, after the pin.
func (s *Store) markLocked(l suspects, m *replication.Manifest, why string) error {
	if n := len(l.Runs); n > 0 && (l.Runs[n-1].Last == m.Parent || n == maxSuspects) {
		l.Runs[n-1].Last = m.ID
		return s.writeSuspectsLocked(l)
	}
	if err := s.pinLocked(m.Parent, fmt.Sprintf("before suspect generation %s: %s", m.ID, why)); err != nil {
		return err
	}
	l.Runs = append(l.Runs, Suspect{First: m.ID, Last: m.ID, Before: m.Parent, At: s.o.Now(), Why: why})
	return s.writeSuspectsLocked(l)
}

// dropSuspectsLocked forgets what was suspect of generations beyond id.
func (s *Store) dropSuspectsLocked(id replication.ID) error {
	l, err := s.readSuspects()
	if err != nil || len(l.Runs) == 0 {
		return err
	}
	l.Runs = slices.DeleteFunc(l.Runs, func(r Suspect) bool { return r.First.Compare(id) > 0 })
	for i := range l.Runs {
		r := &l.Runs[i]
		if r.Last.Compare(id) > 0 {
			r.Last = id
		}
		if r.Undone.Compare(id) > 0 {
			r.Undone = replication.ID{}
		}
	}
	return s.writeSuspectsLocked(l)
}

// activity is a record's form of what a generation did.
func activity(a suspicion.Activity) string {
	return fmt.Sprintf("%d,%d,%d,%d", a.Changed, a.Noised, a.Renamed, a.Gone)
}

func parseActivity(text string) (a suspicion.Activity, ok bool) {
	n, err := fmt.Sscanf(text, "%d,%d,%d,%d", &a.Changed, &a.Noised, &a.Renamed, &a.Gone)
	return a, n == 4 && err == nil
}
