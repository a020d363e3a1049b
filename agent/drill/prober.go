package drill

import (
	"context"

	"github.com/understudy-ha/understudy/agent/probe"
)

// writesPerRound keeps the write numbers of rounds apart.
const writesPerRound = 1_000_000

// FirstWrite is the number at which a round's writes begin.
func FirstWrite(round int) int { return round * writesPerRound }

// LocalProber measures in this process: the client is the machine the drill runs on.
type LocalProber struct {
	Options probe.Options // Writes.From is set for each round
}

// Start begins a measurement.
func (p LocalProber) Start(ctx context.Context, round int) (Session, error) {
	o := p.Options
	o.For, o.UntilRecovered = 0, false
	if o.Writes != nil {
		w := *o.Writes
		w.From += FirstWrite(round)
		o.Writes = &w
	}
	return probe.Start(ctx, o)
}
