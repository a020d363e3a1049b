package replication

import (
	"context"
	"time"
)

// Freezer stops a service's containers at one instant. Freeze returns when all
// stand still; thaw is called exactly once, perhaps from another goroutine, and promptly
// when FreezeMax is over. A failed Freeze leaves nothing frozen; its error is a StoodStill
// where some stood still for a while.
type Freezer interface {
	Freeze(ctx context.Context) (thaw func() error, err error)
}

// StoodStill is the error of a Freeze that had stopped containers before it failed, and
// let them run again.
type StoodStill struct {
	For time.Duration
	Err error
}

func (s *StoodStill) Error() string { return s.Err.Error() }

// Unwrap is why it failed.
func (s *StoodStill) Unwrap() error { return s.Err }

// Quiesce has an application make its data fit to be taken, before the freeze. It is asked in every
// capture, also when no file has changed: what it holds in memory shows in none. resume is
// always called, once the freeze is over or has failed; an error of it does not
// drop what was taken.
type Quiesce func(ctx context.Context) (resume func() error, err error)

// SealRequest asks for the live trees to be sealed as the next generation.
type SealRequest struct {
	Term       uint64
	Final      bool                  // the containers are stopped; nothing follows in this term
	Roots      map[string]string     // volume name → path of its root
	Missing    []string              // volumes of the definition that are not among Roots: not here, or at their path is not theirs; nothing is sealed without them
	Definition []byte                // opaque; part of the generation
	Images     []string              // image IDs the definition needs
	Freezer    Freezer               // nil: the containers are stopped, or Loose
	Loose      bool                  // the containers run and are not frozen: the generation is not of one instant
	Quiesce    Quiesce               // asks the application first; nil: nobody does
	Processes  func() ([]int, error) // of the containers; they may have files mapped
	FreezeMax  time.Duration         // past it thaw, and drop the capture
	Still      func() error          // asked when all is captured: an error drops it, the roots are not what they were; nil: nobody is
	Packed     func()                // told, from any goroutine, when content can be sent ahead; must not block; nil: nobody is told
}

// SealResult says what a seal did.
type SealResult struct {
	ID      ID            // the generation that the live trees are (or were, an instant ago) at
	New     bool          // false: nothing had changed since the head
	AsOf    time.Time     // the trees were at ID then
	Freeze  time.Duration // how long the containers stood still
	Changed int           // entries
	Bytes   int64         // content read
	Sockets int           // in the live trees; they are not carried
	Resume  error         // of Quiesce's resume: the application may still be waiting
}
