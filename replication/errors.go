package replication

import (
	"errors"
	"syscall"
)

// What a store, a capture or an apply can refuse. They are wrapped with what
// it happened to; test with errors.Is. The first seven are answers to a sender
// and end up in both nodes' logs.
var (
	// ErrStaleTerm: the generation's term is below the highest term the store knows.
	ErrStaleTerm = errors.New("stale term")
	// ErrWrongParent: the generation does not follow the one committed last.
	ErrWrongParent = errors.New("wrong parent")
	// ErrBadHash: bytes do not match the hash that names them.
	ErrBadHash = errors.New("hash does not match")
	// ErrTruncated: a pack or manifest ends before its trailer.
	ErrTruncated = errors.New("truncated")
	// ErrMissingChunks: a manifest names content that the store has not got. Offer the manifest's chunks again and send what is missing.
	ErrMissingChunks = errors.New("chunks are missing")
	// ErrBadPath: a name that could escape from where it belongs.
	ErrBadPath = errors.New("unsafe path")
	// ErrFormat: bytes that are not what they claim to be, or of a version this code does not read.
	ErrFormat = errors.New("bad format")
	// ErrUnchanged: a capture found nothing that its base does not have. Not a failure.
	ErrUnchanged = errors.New("nothing changed")
	// ErrNotFound: the store has no such generation or chunk.
	ErrNotFound = errors.New("not found")
	// ErrMissingVolume: a volume that the service's definition names is not on this node. A
	// generation without it would take it from every node that receives it.
	ErrMissingVolume = errors.New("missing volume")
	// ErrNoSpace: the disk is full, or so full that nothing new is taken.
	ErrNoSpace = errors.New("no space left")
)

// NoSpace says whether a disk, or a quota, was full.
func NoSpace(err error) bool {
	return errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
