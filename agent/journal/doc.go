// Package journal keeps the decision journal: every promotion, refusal,
// demotion and forced step of this node with its reason, for a person who asks
// afterwards what happened (`understudy log`).
//
// It is a directory of append-only files of JSON lines, each one api.Decision,
// named by the sequence number of their first entry. An entry is on disk when
// Record returns. Order is that of the sequence numbers: the wall clock may
// jump back, and an entry's time is for display and for rough selection only.
//
// A process killed while it writes leaves at most one torn line at the end of
// the newest file; [Open] cuts it off. Everything before it stays as it is.
// The oldest files are removed when all together exceed their bound.
package journal
