package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// A large heap in which nothing happens is not collected: the limit that gives memory back must not bring collections about.
func TestTendedHeapRests(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	defer tendHeap()()
	var keep [][]byte
	for range 200 {
		keep = append(keep, make([]byte, 1<<20))
	}
	for range 50 { // were the limit to hang on the goal, and that on the limit, they would close in on what is in use
		runtime.GC()
	}
	time.Sleep(100 * time.Millisecond) // for what follows a collection
	before := collections()
	for range 100 {
		keep[0] = make([]byte, 1<<10)
		time.Sleep(time.Millisecond)
	}
	if n := collections() - before; n > 1 {
		t.Errorf("%d collections of a heap in which nothing happens", n)
	}
	if limit := debug.SetMemoryLimit(-1); limit > 300<<20 || limit < 200<<20 {
		t.Errorf("the limit is %d MiB with 200 in use", limit>>20)
	}
	runtime.KeepAlive(keep)
}

func collections() uint64 {
	s := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
