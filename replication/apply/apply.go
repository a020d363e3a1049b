// Package apply brings a service's live trees from one committed generation to
// another. It is journaled: what it is about to do is durable before it starts,
// so that after a kill at any point doing it again converges.
package apply

import (
	"context"
	"log/slog"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/tree"
)

// Generations is where generations come from; store.Store is one.
type Generations interface {
	Load(id replication.ID) (*replication.Manifest, error)
	Get(h replication.Hash) ([]byte, error)
}

// Options of an Applier. The zero value is good.
type Options struct {
	Logger *slog.Logger
	Hook   durable.Hook // tests
}

// Journal is an apply under way.
type Journal struct {
	From replication.ID `json:"from"` // none: the tree's content was unknown
	To   replication.ID `json:"to"`
}

// Result of an apply.
type Result struct {
	Changed  int         // paths changed or removed
	Bytes    int64       // content written
	Index    *tree.Index // of the trees at the generation, also saved at IndexPath
	Warnings []string    // metadata the file system could not take, such as a label
}

// Applier applies to one service's live trees. One call at a time.
type Applier struct{}

// New uses stateDir (made where it is missing) for the journal, the record of
// what the trees are at, and the index.
func New(stateDir string, g Generations, o Options) (*Applier, error) { panic("todo") }

// Applied is the generation the live trees are at exactly; zero: unknown, or none.
func (a *Applier) Applied() (replication.ID, error) { panic("todo") }

// Pending is the journal of an interrupted apply, nil where there is none. The
// trees are at no generation then: call Apply before anything starts.
func (a *Applier) Pending() (*Journal, error) { panic("todo") }

// IndexPath is where the index of the live trees is kept.
func (a *Applier) IndexPath() string { panic("todo") }

// SetApplied records that the trees are at id without touching them: after a
// final capture. The zero ID: they are about to be written by containers, so
// that the next Apply compares all content. Durable when it returns.
func (a *Applier) SetApplied(id replication.ID) error { panic("todo") }

// Apply brings the trees under roots (volume name → path of its root) to id,
// finishing an interrupted apply on the way. Every volume of the generation
// needs a root; other roots are left alone.
func (a *Applier) Apply(ctx context.Context, id replication.ID, roots map[string]string) (*Result, error) {
	panic("todo")
}

// Verify compares the trees with the generation by content and metadata, and
// returns the differences, in words; none: they are the same.
func (a *Applier) Verify(ctx context.Context, id replication.ID, roots map[string]string) ([]string, error) {
	panic("todo")
}

// Materialize writes the generation into dir/<volume> for each of its volumes,
// made where they are missing, outside of any live tree.
func Materialize(ctx context.Context, g Generations, id replication.ID, dir string) (warnings []string, err error) {
	panic("todo")
}
