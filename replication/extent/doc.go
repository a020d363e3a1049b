// Package extent tells which parts of a file differ between two reflink clones
// of it, without reading either: where both map the same block of the disk at
// the same offset, they hold the same bytes, because a shared block is never
// overwritten in place.
//
// The work grows with the number of extents, not with the file's size. What
// the extent map leaves in doubt counts as changed.
//
// Both files must be at rest, as clones that nobody writes to are: between the
// two looks a file in use could free a block and another take it.
package extent
