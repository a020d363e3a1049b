// Package pacemaker is what planned moves and drills ask of Pacemaker, through
// its own command line tools: who runs what, keep a service's active role off a
// node for a while, put a node in standby, fence it.
//
// It never decides: every call here was ordered by an operator.
package pacemaker
