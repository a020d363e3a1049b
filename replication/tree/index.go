package tree

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// Stat is what lstat says of a path, as far as a change would show in it.
type Stat struct {
	_                struct{} `cbor:",toarray"`
	Ino              uint64
	CtimeNs, MtimeNs int64
	Size             int64  // bytes; of a device: its number
	Mode             uint32 // st_mode with the type bits
	UID, GID         uint32
	Nlink            uint32
}

// sizeOf is a Stat's Size.
func sizeOf(mode uint32, size int64, rdev uint64) int64 {
	switch mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		return int64(rdev)
	}
	return size
}

// Type is the entry type; 0 for a socket, which is not carried.
func (s Stat) Type() replication.Type {
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return replication.TypeFile
	case unix.S_IFDIR:
		return replication.TypeDir
	case unix.S_IFLNK:
		return replication.TypeSymlink
	case unix.S_IFIFO:
		return replication.TypeFIFO
	case unix.S_IFCHR:
		return replication.TypeChar
	case unix.S_IFBLK:
		return replication.TypeBlock
	}
	return 0
}

// Node is a path and its Stat.
type Node struct {
	_    struct{} `cbor:",toarray"`
	Path string   // as in replication.Entry
	Stat Stat
}

// Index is what the trees of a generation looked like to stat on this node. It
// only saves reading: one that is lost or old costs reads, never hides a change.
type Index struct {
	ID      replication.ID      // the generation the trees were at
	At      int64               // Unix ns, before the scan began
	Volumes map[string]*Nodes   // by volume
	Unsure  map[string][]string // by volume: paths that may have changed after they were looked at without a new ctime (Stat.Unsettled); nil: see FindUnsure
}

// clockTick is how much older than a look a file's ctime must be for the next look
// to tell a later change: a few ticks of the slowest kernel clock (10 ms).
const clockTick = 20 * time.Millisecond

// Unsure says whether a change after a look at the time at (Unix ns) may not show in the ctime.
func (s Stat) Unsure(at int64) bool { return s.CtimeNs >= at-int64(clockTick) }

// Settle is how long a write may go on after it moved the ctime, which it does once, at its
// beginning: while it waits for the disk or for its share of the processor, or is long.
const Settle = 2 * time.Second

// Unsettled says whether at the time at (Unix ns) a write may have been going on that began up to
// settle before: what is read then may be torn, though no later ctime will tell, and is looked at again.
func (s Stat) Unsettled(at int64, settle time.Duration) bool { return s.CtimeNs >= at-int64(settle) }

// FindUnsure fills Unsure where it is not known, from At, by going through all nodes. Such an index
// is of trees that an apply wrote, or of a service that was stopped: no write was going on.
func (x *Index) FindUnsure() {
	if x.Unsure != nil {
		return
	}
	x.Unsure = map[string][]string{}
	for name, ns := range x.Volumes {
		for n := range ns.All() {
			if n.Stat.Unsure(x.At) {
				x.Unsure[name] = append(x.Unsure[name], n.Path)
			}
		}
	}
}

// indexMagic begins a saved index; then BLAKE3-256 of the rest, zstd of CBOR.
const indexMagic = "USIX\x04"

const maxIndex = 2 << 30 // bytes decoded

// LoadIndex reads a saved index; nil where there is none or it is damaged.
func LoadIndex(path string) *Index {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return decodeIndex(b)
}

func decodeIndex(b []byte) *Index {
	body, ok := bytes.CutPrefix(b, []byte(indexMagic))
	if !ok || len(body) < 32 || blake3.Sum256(body[32:]) != [32]byte(body[:32]) {
		return nil
	}
	zr, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxIndex))
	if err != nil {
		return nil
	}
	defer zr.Close()
	if err := zr.Reset(bytes.NewReader(body[32:])); err != nil {
		return nil
	}
	dm, err := cbor.DecOptions{ByteStringToString: cbor.ByteStringToStringAllowed, MaxArrayElements: 1 << 24}.DecMode()
	if err != nil {
		return nil
	}
	dec := dm.NewDecoder(zr)
	var h indexHeader
	if err := dec.Decode(&h); err != nil {
		return nil
	}
	x := &Index{ID: h.ID, At: h.At, Volumes: map[string]*Nodes{}}
	for _, v := range h.Volumes {
		ns := NewNodes()
		for range v.Nodes {
			n := &Node{}
			if err := dec.Decode(n); err != nil {
				return nil
			}
			ns.Set(n)
		}
		x.Volumes[v.Name] = ns
	}
	return x
}

// indexHeader begins a saved index; the nodes follow, volume by volume.
type indexHeader struct {
	_       struct{} `cbor:",toarray"`
	ID      replication.ID
	At      int64
	Volumes []indexVolume
}

type indexVolume struct {
	_     struct{} `cbor:",toarray"`
	Name  string
	Nodes int
}

// Save writes it atomically and durably.
func (x *Index) Save(path string) error {
	em, err := cbor.EncOptions{String: cbor.StringToByteString}.EncMode()
	if err != nil {
		return err
	}
	var body bytes.Buffer
	zw, err := zstd.NewWriter(&body, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if err := errors.Join(x.encode(em.NewEncoder(zw)), zw.Close()); err != nil {
		return err
	}
	sum := blake3.Sum256(body.Bytes())
	return durable.WriteFile(path, append(append([]byte(indexMagic), sum[:]...), body.Bytes()...), 0o600, nil)
}

func (x *Index) encode(enc *cbor.Encoder) error {
	h := indexHeader{ID: x.ID, At: x.At}
	names := slices.Sorted(maps.Keys(x.Volumes))
	for _, name := range names {
		h.Volumes = append(h.Volumes, indexVolume{Name: name, Nodes: x.Volumes[name].Len()})
	}
	if err := enc.Encode(h); err != nil {
		return err
	}
	for _, name := range names {
		for n := range x.Volumes[name].All() {
			if err := enc.Encode(n); err != nil {
				return err
			}
		}
	}
	return nil
}
