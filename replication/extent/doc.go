// Package extent tells which parts of a file differ between two reflink clones
// of it, without reading either: where both map the same block of the disk at
// the same offset, they hold the same bytes, because a shared block is never
// overwritten in place.
//
// The work grows with the number of extents, not with the file's size. What
// the extent map leaves in doubt counts as changed.
//
// One of the two must be at rest, as a clone that nobody writes to is, and so keep its
// blocks: what the other has there is the same then, as no other file can take them. Of a
// file that is written to it tells how that was when each part of it was looked at.
package extent
