package engine

import (
	"slices"
	"time"
)

// Counts are of what was done since the engine was opened.
type Counts struct {
	Sealed  int64         // generations
	Read    int64         // bytes of content that captures read
	Freezes uint64        // of containers, for captures that were dropped too
	Frozen  time.Duration // how long they stood still, together
}

// Counts counts from when the engine was opened.
func (e *Engine) Counts() Counts {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.counts
}

func (e *Engine) noteFreeze(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts.Freezes++
	e.counts.Frozen += d
	e.freezes = append(e.freezes, d)
	if n := len(e.freezes); n > freezeWindow {
		e.freezes = slices.Delete(e.freezes, 0, n-freezeWindow)
	}
}

// Freezes are the median, 99th percentile and longest of the latest freezes.
func (e *Engine) Freezes() (p50, p99, most time.Duration) {
	e.mu.Lock()
	sorted := slices.Sorted(slices.Values(e.freezes))
	e.mu.Unlock()
	n := len(sorted)
	if n == 0 {
		return 0, 0, 0
	}
	return sorted[n/2], sorted[min(n-1, n*99/100)], sorted[n-1]
}
