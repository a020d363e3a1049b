package store

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"slices"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// endsFile says with which generation each earlier term ended in the line that leads to the head:
// term → sequence, in JSON. It outlives the generations: a node that was away for longer than they
// are kept can still be told from one that has gone another way. It is right for terms below the head's.
const endsFile = "ends"

// mostEnds bounds it: of so many terms, the newest.
const mostEnds = 4096

// Ends are the last generations of earlier terms in the line that leads to the head, by term. What
// is of such a term and not later than its end is an ancestor of the head, as a term has one writer
// and one line; what is later is not. A term between two of them is not in the line; nothing is
// known of what lies before the first.
func (s *Store) Ends() (map[uint64]uint64, error) {
	head, err := s.Head()
	if err != nil {
		return nil, err
	}
	ends, err := s.recordedEnds()
	maps.DeleteFunc(ends, func(term, _ uint64) bool { return term >= head.Term })
	return ends, err
}

func (s *Store) recordedEnds() (map[uint64]uint64, error) {
	ends := map[uint64]uint64{}
	b, err := durable.ReadSummed(s.path(endsFile))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, durable.ErrSum):
		return ends, nil // who is not in it is refused: nothing is guessed
	case err != nil:
		return nil, err
	case json.Unmarshal(b, &ends) != nil:
		return map[uint64]uint64{}, nil
	}
	return ends, nil
}

// endTermLocked notes where the head's term ends, as next is of another.
func (s *Store) endTermLocked(next replication.ID) error {
	head, err := s.Head()
	if err != nil || head.Term == next.Term {
		return err
	}
	ends, err := s.recordedEnds()
	if err != nil {
		return err
	}
	was := maps.Clone(ends)
	// What is said of this term and of later ones is of a line that a Reset has left. One that is not
	// the first of its term was squashed: what lay between is not known here, and as whoever reads it
	// takes a term that lacks between two others for one of another line, there must be no gaps.
	squashed := next.Seq != 1
	maps.DeleteFunc(ends, func(term, _ uint64) bool { return squashed || term >= head.Term })
	if !head.IsZero() && !squashed {
		ends[head.Term] = head.Seq
	}
	for len(ends) > mostEnds {
		delete(ends, slices.Min(slices.Collect(maps.Keys(ends))))
	}
	if maps.Equal(ends, was) {
		return nil
	}
	b, err := json.Marshal(ends)
	if err != nil {
		return err
	}
	return durable.WriteSummed(s.path(endsFile), b, fileMode, s.o.Hook)
}
