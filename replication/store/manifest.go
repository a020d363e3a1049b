package store

import "github.com/understudy-ha/understudy/replication"

// EncodeManifest validates m and gives its encoded form; the same manifest has
// always the same form.
func EncodeManifest(m *replication.Manifest) ([]byte, error) { panic("todo") }

// DecodeManifest reads and validates. It is made for hostile bytes: what it
// allocates is bounded. ErrTruncated, ErrBadHash, ErrFormat, ErrBadPath.
func DecodeManifest(b []byte) (*replication.Manifest, error) { panic("todo") }

// Sum is the hash of an encoded manifest, as in State.HeadSum.
func Sum(encoded []byte) replication.Hash { panic("todo") }

// Validate checks everything about m that can be seen from m alone.
func Validate(m *replication.Manifest) error { panic("todo") }

// Chunks lists the content m names, each hash once, in order of appearance.
func Chunks(m *replication.Manifest) []replication.Hash { panic("todo") }
