package watch

import "maps"

// Hints say, for each volume in which something may have changed, where.
type Hints map[string]VolumeHints

// VolumeHints say where in a volume to look again. Paths are relative to its
// root, "." the root itself, and may name what does not exist any more.
type VolumeHints struct {
	// All: look at everything. Paths and Trees are empty then.
	All bool
	// Paths to lstat again, each by itself.
	Paths map[string]struct{}
	// Trees are those of Paths at which a directory was made or moved to: look at
	// all that is below, also where a directory, even the same one, was known there.
	// It may have been elsewhere in between, and what happened to it there was not told.
	Trees map[string]struct{}
}

// maxPaths is how many paths are kept for a volume that nobody asks about;
// past it everything is to be looked at. About 100 bytes each.
const maxPaths = 200_000

func (h *VolumeHints) all() { *h = VolumeHints{All: true} }

// add notes the path that is in b.
func (h *VolumeHints) add(b []byte, tree bool) {
	if h.All {
		return
	}
	if _, ok := h.Paths[string(b)]; ok && !tree { // the frequent case, without making a string
		return
	}
	if len(h.Paths) >= maxPaths {
		h.all()
		return
	}
	if h.Paths == nil {
		h.Paths = map[string]struct{}{}
	}
	path := string(b)
	h.Paths[path] = struct{}{}
	if tree {
		if h.Trees == nil {
			h.Trees = map[string]struct{}{}
		}
		h.Trees[path] = struct{}{}
	}
}

func (h *VolumeHints) empty() bool { return !h.All && len(h.Paths) == 0 }

// Merge adds what o says: for who could not act on the hints taken before.
func (h *VolumeHints) Merge(o VolumeHints) {
	if h.All || o.All {
		h.all()
		return
	}
	if h.Paths == nil {
		*h = o
		return
	}
	maps.Copy(h.Paths, o.Paths)
	if h.Trees == nil {
		h.Trees = o.Trees
		return
	}
	maps.Copy(h.Trees, o.Trees)
}
