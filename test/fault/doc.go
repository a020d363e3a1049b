// Package fault breaks the pipeline (capture, ship, commit, apply) in every way that can
// be thought of, between two real trees: the engine of each node, the wire over real SSH,
// and the receiver's end as `understudy receive` runs it. Who is killed is a process of
// its own, and dies of SIGKILL; where the node loses its power, its file system is shut
// down in the same instant, with all that was not synced. Each step has both, each process
// is on XFS and on ext4.
//
// After each fault the same must hold (see pair.check and pair.heal): what the standby
// has committed is one of the generations that were sealed, whole; its tree is brought to
// exactly that; the next cycle arrives without a full copy; no container stays frozen.
//
// A standby's disk may forget what was committed, too: what is lost then is found and sent again, with the same
// faults in that, until every generation that is kept is whole.
//
// The steps come from one list, replication.Steps, which must be complete: a step that is
// not in it, or that is in it and is never come to, fails the test.
//
// Everything is below a mount namespace and a file system in memory of the test's own, so
// whatever becomes of the test, nothing is left. Those parts need root.
package fault
