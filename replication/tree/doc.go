// Package tree reads and writes file trees beneath a root so that nothing in
// the tree, a planted symlink included, leads outside of it. Capture and apply
// stand on it.
package tree
