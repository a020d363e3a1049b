package replication

import (
	"context"
	"time"
)

// Freezer stops a service's containers at one instant. Freeze returns when all
// stand still; thaw is called once. A failed Freeze leaves nothing frozen.
type Freezer interface {
	Freeze(ctx context.Context) (thaw func() error, err error)
}

// SealRequest asks for the live trees to be sealed as the next generation.
type SealRequest struct {
	Term       uint64
	Final      bool                  // the containers are stopped; nothing follows in this term
	Roots      map[string]string     // volume name → path of its root
	Definition []byte                // opaque; part of the generation
	Images     []string              // image IDs the definition needs
	Freezer    Freezer               // nil: the containers are stopped
	Processes  func() ([]int, error) // of the containers; they may have files mapped
	FreezeMax  time.Duration         // past it thaw, and drop the capture
}

// SealResult says what a seal did.
type SealResult struct {
	ID      ID            // the generation that the live trees are (or were, an instant ago) at
	New     bool          // false: nothing had changed since the head
	AsOf    time.Time     // the trees were at ID then
	Freeze  time.Duration // how long the containers stood still
	Changed int           // entries
	Bytes   int64         // content read
}
