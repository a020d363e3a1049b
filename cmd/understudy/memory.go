package main

import (
	"os"
	"runtime/debug"
)

// collectOften is for the two processes that live long: what they hold is one
// large tree that hardly changes, and double its size would be wasted waiting for a
// collection. Between collections there is little garbage, so more of them cost little.
func collectOften() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
}
