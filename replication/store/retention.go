package store

import (
	"time"

	"github.com/understudy-ha/understudy/replication"
)

// Policy is a receiver's retention, in numbers of generations. The newest of each
// hour, day and week (of UTC, in the store's own time: see times.go) is kept, for
// so many hours, days and weeks that have one. Nothing hangs on what the clock
// says now, nor on the sender's. What is pinned stays besides.
type Policy struct {
	KeepLast, Hourly, Daily, Weekly int
	Applied                         []replication.ID // what live trees are at, or are being brought to or from: stays
	// Short says that the disk is. Packs that only what goes has needed, and Orphans, go
	// at once, whatever their age. A sender who counted on one is told, and sends it again.
	Short   bool
	Orphans []replication.Hash // packs of a capture that found no room
}

// Thinned is p with half as much history, so many times; never less than the floor.
func (p Policy) Thinned(times int) Policy {
	p.KeepLast, p.Hourly, p.Daily, p.Weekly = p.KeepLast>>times, p.Hourly>>times, p.Daily>>times, p.Weekly>>times
	return p.raised()
}

// Thins says whether Thinned comes to less than once fewer.
func (p Policy) Thins(times int) bool {
	a, b := p.Thinned(times), p.Thinned(times-1)
	return a.KeepLast != b.KeepLast || a.Hourly != b.Hourly || a.Daily != b.Daily || a.Weekly != b.Weekly
}

// Floor is what no configuration and no full disk goes below: whoever can only
// append cannot push out what was there an hour and a day before.
var Floor = Policy{KeepLast: 2, Hourly: 2, Daily: 2}

// DefaultPolicy is what is kept where nothing else is configured.
var DefaultPolicy = Policy{KeepLast: 20, Hourly: 24, Daily: 7, Weekly: 4}

const (
	day  = 24 * time.Hour
	week = 7 * day
	// monday is where weeks begin: the Unix epoch was a Thursday.
	monday = 4 * day
)

// raised is p with the floor under it.
func (p Policy) raised() Policy {
	p.KeepLast, p.Hourly = max(p.KeepLast, Floor.KeepLast), max(p.Hourly, Floor.Hourly)
	p.Daily, p.Weekly = max(p.Daily, Floor.Daily), max(p.Weekly, Floor.Weekly)
	return p
}

// keep says which of the generations stay that were committed at these times, which
// never go back.
func (p Policy) keep(at []time.Duration) []bool {
	p = p.raised()
	stays := make([]bool, len(at))
	for i := max(0, len(at)-p.KeepLast); i < len(at); i++ {
		stays[i] = true
	}
	for _, level := range []struct {
		n              int
		length, offset time.Duration
	}{{p.Hourly, time.Hour, 0}, {p.Daily, day, 0}, {p.Weekly, week, -monday}} {
		left := level.n
		for i := len(at) - 1; i >= 0 && left > 0; i-- {
			of := func(i int) time.Duration { return (at[i] + level.offset) / level.length }
			if i == len(at)-1 || of(i) != of(i+1) {
				stays[i] = true
				left--
			}
		}
	}
	p.keepOldest(at, stays)
	return stays
}

// keepOldest lets the oldest generation stay until the next one that stays is an
// hour younger. All others are kept as deltas from it; when it goes, the next is
// written out whole, and that must not happen with every generation.
func (p Policy) keepOldest(at []time.Duration, stays []bool) {
	for i := range at {
		if stays[i] {
			if at[i]-at[0] < time.Hour {
				stays[0] = true
			}
			return
		}
	}
}
