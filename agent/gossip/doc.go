// Package gossip tells every agent how the others are: health, roles,
// generations, clock offsets. It is memberlist in a box.
//
// What must hold:
//
//   - Gossip is for knowing, never for deciding who is active: two nodes cannot
//     tell a dead peer from a cut cable. A peer that is "not alive" here is one
//     that has not answered for a second or two, and no more than that.
//   - States merge by (incarnation, sequence): in whatever order and however
//     often they arrive, the same one remains.
//   - Only the peers named in the configuration are accepted, and only with the
//     right key. What another version says is ignored, with the reason logged.
//   - No callback of memberlist blocks: they put things in a queue, or take a
//     mutex under which nothing waits and memberlist is not called.
//
// Each node sends its own state, and no one else's, to every peer once an
// interval and whenever Publish is called: in a datagram if it fits, else over
// TCP; memberlist's push/pull carries it, too. With its state a node sends which
// incarnations of the others it knows. A node that learns that a peer knows
// a greater incarnation of it than its own (its clock was set back between two
// starts) takes a greater one still, or its news would be ignored for ever.
//
// Failure detection is memberlist's, tuned for two nodes, so that a death shows
// in one to two seconds at the default interval. memberlist forgets a dead
// member; the box goes on calling every configured peer, for ever.
package gossip
