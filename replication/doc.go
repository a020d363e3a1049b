// Package replication carries a service's data from the active to the standby
// node as a chain of generations: sealed points in time, each with a manifest,
// a parent and content hashes. DESIGN.md beside this file has the store's
// layout, the wire's verbs and what must hold when any step is killed.
//
// This package holds the words of the trade ([ID], [Manifest], [Entry], [SealRequest]);
// the four steps are in capture, store, wire and apply, images in image, and
// engine runs them for one service; beneath them are tree, extent, watch, suspicion and durable.
package replication
