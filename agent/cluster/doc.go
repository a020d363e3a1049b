// Package cluster is what the agent says to Pacemaker and asks of it, by
// Pacemaker's own command line tools.
//
// Terms are its heart (invariant 1): a term is a number that one promotion
// alone may carry, greater than any used before. The authority is the CIB: each
// node has a permanent node attribute per service ("understudy-term-SERVICE")
// with the highest term it has reserved, and [Cluster.Reserve] raises this
// node's above all of them. CIB writes are totally ordered, so of two nodes that
// reserve at once the later one finds the earlier one's value when it reads
// again, and moves on; both moving on is harmless. A term is reserved ahead of
// need, while there is time; a promotion only reads ([Cluster.Check]).
//
// The scheduler chooses whom to promote by the transient attribute
// "master-RESOURCE" of each node (pcmk_promotion_score_name in Pacemaker's
// sources). Here it is written through the attribute daemon: no CIB write, no
// resource agent's environment needed.
//
// Every command is bounded by its context and by [Options].Timeout.
package cluster
