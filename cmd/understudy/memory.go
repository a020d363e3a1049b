package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// What a long-lived process holds is one large tree that hardly changes: twice
// its size would be wasted on waiting for a collection. There is little garbage
// then, so more collections cost little; in a small heap they would cost more
// than the work.
const (
	largeHeap    = 64 << 20 // bytes
	largePercent = 25
	smallPercent = 100
	heapEvery    = 5 * time.Second
)

// tendHeap sets how often garbage is collected, by what is in use, until stop is called.
func tendHeap() (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	done := make(chan struct{})
	var tending sync.WaitGroup
	tending.Go(func() {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		tick := time.NewTicker(heapEvery)
		defer tick.Stop()
		percent := smallPercent
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			metrics.Read(live)
			want := smallPercent
			if live[0].Value.Uint64() > largeHeap {
				want = largePercent
			}
			if want != percent {
				debug.SetGCPercent(want)
				percent = want
			}
		}
	})
	return func() { close(done); tending.Wait() }
}
