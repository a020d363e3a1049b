package replication

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ID names a generation: the term of the promotion that wrote it and its
// sequence within that term, counted from 1. The zero ID is "none".
// IDs order by term, then sequence; never by a clock.
type ID struct {
	Term uint64 `cbor:"1,keyasint"`
	Seq  uint64 `cbor:"2,keyasint"`
}

// String is "term.sequence", or "none".
func (id ID) String() string {
	if id.IsZero() {
		return "none"
	}
	return strconv.FormatUint(id.Term, 10) + "." + strconv.FormatUint(id.Seq, 10)
}

// IsZero says whether id is "none".
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders by term, then sequence: -1, 0 or 1.
func (id ID) Compare(o ID) int {
	switch {
	case id.Term != o.Term:
		if id.Term < o.Term {
			return -1
		}
		return 1
	case id.Seq != o.Seq:
		if id.Seq < o.Seq {
			return -1
		}
		return 1
	}
	return 0
}

// ParseID reads String's form.
func ParseID(s string) (ID, error) {
	if s == "none" || s == "" {
		return ID{}, nil
	}
	t, q, ok := strings.Cut(s, ".")
	term, err1 := strconv.ParseUint(t, 10, 64)
	seq, err2 := strconv.ParseUint(q, 10, 64)
	if !ok || err1 != nil || err2 != nil || (ID{term, seq}).String() != s {
		return ID{}, fmt.Errorf("%q is not a generation; write term.sequence, such as 3.17", s)
	}
	return ID{term, seq}, nil
}

// MarshalText and UnmarshalText make an ID text in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads String's form.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// Hash is a BLAKE3-256 content hash.
type Hash [32]byte

// String is lower-case hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Type is an entry's file type.
type Type uint8

// The types. Sockets are not carried: they are meaningless without their
// listener; captures count them.
const (
	TypeFile Type = iota + 1
	TypeDir
	TypeSymlink
	TypeFIFO
	TypeChar
	TypeBlock
)

// Flags of a file or directory, as chattr(1) sets them, that keep everybody from
// changing it, root included.
type Flags uint8

// The flags.
const (
	FlagImmutable  Flags = 1 << iota // i: nothing of it changes
	FlagAppendOnly                   // a: it only grows
)

// Chunk is a run of a file's content: Length bytes of the stored content that
// Hash names, from its byte Skip on. A file that changed in the middle of a
// stored run goes on naming that run for what is before and after. Gaps between
// chunks, and after the last up to the size, are holes.
type Chunk struct {
	Offset int64 `cbor:"1,keyasint"`
	Length int64 `cbor:"2,keyasint"`
	Hash   Hash  `cbor:"3,keyasint"`
	Skip   int64 `cbor:"4,keyasint,omitempty"`
}

// Entry is one file of a volume, with all its metadata. Path is relative to the
// volume's root, "." for the root itself, separated by '/', and is bytes: it
// need not be UTF-8.
type Entry struct {
	Path    string            `cbor:"1,keyasint"`
	Type    Type              `cbor:"2,keyasint"`
	Mode    uint32            `cbor:"3,keyasint"` // permission bits with setuid, setgid, sticky (07777)
	UID     uint32            `cbor:"4,keyasint"`
	GID     uint32            `cbor:"5,keyasint"`
	MtimeNs int64             `cbor:"6,keyasint"`
	Size    int64             `cbor:"7,keyasint,omitempty"`
	Rdev    uint64            `cbor:"8,keyasint,omitempty"`
	Target  string            `cbor:"9,keyasint,omitempty"`  // of a symlink
	Link    string            `cbor:"10,keyasint,omitempty"` // hard link: Path of the first entry (in order) with this inode; content and metadata are there
	Xattrs  map[string][]byte `cbor:"11,keyasint,omitempty"` // all namespaces: user, trusted, security (labels, capabilities), system.posix_acl_*
	Chunks  []Chunk           `cbor:"12,keyasint,omitempty"`
	Flags   Flags             `cbor:"14,keyasint,omitempty"` // of a file or directory; 13 is a delta's splices
}

// Volume is a volume's tree.
type Volume struct {
	Name    string
	Entries *Entries
	Skipped int // sockets not carried
}

// Manifest is a generation: a service's whole state at one instant. Package store
// has its encoded form.
type Manifest struct {
	Format     int // FormatVersion
	Service    string
	ID         ID
	Parent     ID        // zero: the first of a chain
	CapturedAt time.Time // active's clock; for display only
	FreezeNs   int64     // how long containers stood still
	Diverged   bool      // archived on a former active's return; never promoted
	Loose      bool      // not of one instant: nothing was frozen
	Final      bool      // captured in a demotion, with the containers stopped: nothing can follow in this term
	Definition []byte    // containers, networks, volumes, secrets: JSON of agent/podman; opaque here
	Images     []string  // image IDs the definition needs ("sha256:…")
	Volumes    []Volume  // sorted by Name
	Delta      *Delta    // how Volumes differ from another generation's; nil: not known. Encoded instead of Volumes
}

// Skipped counts the sockets of all volumes, which are not carried.
func (m *Manifest) Skipped() (n int) {
	for i := range m.Volumes {
		n += m.Volumes[i].Skipped
	}
	return n
}

// FormatVersion is the manifest format this code writes. A reader refuses any other by number.
const FormatVersion = 2

// ChunkSize is the fixed size that files are cut into, bytes. Small enough that
// a change in a large file does not ship all of it, large enough that a
// manifest stays small.
const ChunkSize = 1 << 20

// State is what a store tells a sender and the gossip: where it stands.
type State struct {
	Service string   `json:"service"`
	Term    uint64   `json:"term"`     // highest known; a sender below it is refused
	Head    ID       `json:"head"`     // committed last, zero: none
	HeadSum string   `json:"head_sum"` // hex Manifest.Sum of the head
	Images  []string `json:"images"`   // image IDs present on the node
	Layers  []string `json:"layers"`   // diff IDs of the layers present
	Lacks   *Lacks   `json:"lacks,omitempty"`
}

// Lacks is what a store has lost of what was committed: a disk forgets. Whoever has it
// may send it again.
type Lacks struct {
	Chunks      []string `json:"chunks,omitempty"` // hashes
	Generations []ID     `json:"generations,omitempty"`
	GivenUp     []string `json:"given_up,omitempty"` // chunks that nobody has any more; never told
	Unsure      bool     `json:"unsure,omitempty"`   // a pack is gone, and what it held was not looked for yet; never told
}

// None says that nothing is lost.
func (l Lacks) None() bool { return len(l.Chunks)+len(l.Generations) == 0 }

// JSON of a State is what the wire's "state" file holds.
func (s State) JSON() ([]byte, error) { return json.Marshal(s) }
