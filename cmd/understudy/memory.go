package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// What a long-lived process holds is one large tree that hardly changes: twice
// its size would be wasted on waiting for a collection. There is little garbage
// then, so more collections cost little; in a small heap they would cost more
// than the work.

// percentOf is what garbage may add to what is in use, bytes.
func percentOf(live uint64) int {
	switch {
	case live > 384<<20:
		return 6
	case live > 256<<20:
		return 12
	case live > 64<<20:
		return 20
	}
	return 100 // Go's own
}

// heapSlack is how much the process may be above what it should be at the next collection, bytes. What is beyond is
// given back to the system at once, and not when the process has been idle for a while.
const heapSlack = 4 << 20

// tender sets, after each collection, when the next one is to be.
type tender struct {
	percent int
	stopped atomic.Bool
}

// tendHeap sees to it until stop is called.
func tendHeap() (stop func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	t := &tender{percent: percentOf(0)}
	t.await()
	return func() { t.stopped.Store(true) }
}

// await has tend called after the next collection, which finds the sentinel.
func (t *tender) await() {
	type sentinel struct{ _ *tender } // with a pointer, or it would lie with other small things
	runtime.AddCleanup(&sentinel{}, func(t *tender) {
		if !t.stopped.Load() {
			t.tend()
			t.await()
		}
	}, t)
}

func (t *tender) tend() {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/scan/stack:bytes"},
		{Name: "/gc/scan/globals:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
	}
	metrics.Read(s)
	value := func(i int) uint64 { return s[i].Value.Uint64() }
	live, total, objects := value(0), value(3), value(6)
	if want := percentOf(live); want != t.percent {
		debug.SetGCPercent(want)
		t.percent = want
	}
	// As the runtime works it out of the percentage: what it says that its goal is hangs on the limit, too.
	goal := live + (live+value(1)+value(2))*uint64(t.percent)/100
	besides := total - min(total, value(4)+value(5)+objects) // stacks, the collector's own, gaps between objects
	debug.SetMemoryLimit(limitOf(max(goal, objects) + besides))
}

// limitOf is so far above what is meant to be in use, bytes, that the runtime gives back what is beyond it, and
// does not collect because of it, which it does from 3 % below its limit on.
func limitOf(use uint64) int64 { return int64((use+heapSlack)*100/97 + 1<<20) }
