package replication

import (
	"slices"
	"strings"
)

// Process is one of the three that carry a generation, or what looks after those that are kept:
// any of them, and the node under it, may be killed at any of its steps.
type Process string

// The processes.
const (
	Sender   Process = "sender"   // the active's agent: capture, its own store, ship
	Receiver Process = "receiver" // `understudy receive`: the peer's end of the wire, and its store
	Applier  Process = "applier"  // the standby's agent: apply
	Scrubber Process = "scrubber" // a node's agent: it finds what its disk has forgotten, and what came again
)

// Step is a point of the pipeline, by what its durable.Hook is told just before it; one *
// stands for a name that changes.
type Step struct {
	Process Process
	Name    string
}

// Steps lists all of them, in the order of a generation's way. Whatever is killed at
// one, the standby is at one committed generation or finishes an apply to one, and the
// next cycle goes on from there: package test/fault tries each. Not in it are "flags *" of what is immutable or
// append-only, which package apply's own tests try, and "cloned *" after a promotion, where there is nothing to be lost.
func Steps() []Step {
	return slices.Concat(
		of(Sender, written("term"), []string{
			"look", "read *", "freeze", "set aside *", "thaw", "hash *",
			"sync pack", "rename *.pack", "syncdir *.pack",
		}, written("*.manifest"), []string{"append times"}, written("ends"), written("head"), []string{
			"state of *", "missing chunks of *", "pack *", "hand in *.pack", "commit *", "hand in *.manifest", "image *", "hand in *.image",
		}),
		of(Receiver, []string{
			"read */state", "open */want", "read */want",
			"open *.pack", "append *.pack", "close *.pack", "accept *.pack",
			"sync pack", "rename *.pack", "syncdir *.pack", "answer *.pack",
			"open *.manifest", "append *.manifest", "close *.manifest", "accept *.manifest",
		}, written("term"), written("*.manifest"), []string{"append times"}, written("ends"), written("head"), []string{
			"consume *.manifest", "answer *.manifest",
			"open *.image", "append *.image", "close *.image", "accept *.image",
			"sync *.image", "rename *.image", "syncdir *.image", "answer *.image",
		}),
		of(Applier, written("apply.json"), []string{
			"remove *", "make *", "fill *", "rename *", "patch *", "mkdir *", "meta *", "mtime *", "syncfs *",
		}, written("applied"), []string{"remove apply.json"}),
		of(Scrubber, []string{"remove lacks", "link damaged/*"}, written("lacks"), []string{
			"remove *.manifest", "sync pack", "rename *.pack", "syncdir *.pack", "remove *.pack",
		}),
	)
}

func of(p Process, names ...[]string) (out []Step) {
	for _, name := range slices.Concat(names...) {
		out = append(out, Step{p, name})
	}
	return out
}

// written are the steps of durable.WriteFile.
func written(base string) []string {
	return []string{"write " + base, "sync " + base, "rename " + base, "syncdir " + base}
}

// StepOf finds the step that a process's hook was told of: of those that fit, the one that
// says most. False: it is not in the list.
func StepOf(p Process, told string) (best Step, ok bool) {
	for _, s := range Steps() {
		if s.Process == p && s.fits(told) && (!ok || len(s.Name) > len(best.Name)) {
			best, ok = s, true
		}
	}
	return best, ok
}

func (s Step) fits(told string) bool {
	before, after, star := strings.Cut(s.Name, "*")
	if !star {
		return told == s.Name
	}
	return len(told) >= len(before)+len(after) && strings.HasPrefix(told, before) && strings.HasSuffix(told, after)
}
