// Package service is the role state machine of one service on one node: start,
// promote, demote, stop and monitor as Pacemaker orders them, and between them
// the loops that keep a replica warm. A failover happens in promote.go.
//
// # What must hold
//
//   - Every step is persisted (record.go) before it is done. An agent that is
//     killed at any point finds on its return what it was about to do, and
//     Pacemaker's next order takes it up from there: promote goes on with the
//     same term, demote and stop do the rest. Nothing is resumed on the agent's
//     own initiative that could make a node active.
//   - "dirty" is durable before the first container of a promotion starts, and is
//     cleared only when what the containers wrote is sealed in a generation. A dirty
//     node that starts seals first: so a returning former active loses nothing.
//   - What is at a tree's path counts only while it is the directory that the service's data was in, or that
//     its running containers are seen to have (roots.go, seal.go): then the generation from before is pinned.
//     Whatever else is there is not sealed, and is archived before it is replaced.
//   - One promote, demote, start or stop at a time per service. Stop and demote
//     cancel a promotion that is under way: they are the safe direction.
//   - Loops never hold the operation lock. An operation stops the loop that would
//     be in its way and waits for it.
//
// # Partition policy
//
// Gossip is used to decline (a peer that lives and has newer data makes this node
// no candidate) and never to promote. Who is active is Pacemaker's decision alone.
package service
