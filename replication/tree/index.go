package tree

import (
	"bytes"
	"os"

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
	Dev, Ino         uint64
	CtimeNs, MtimeNs int64
	Size             int64
	Mode             uint32 // st_mode with the type bits
	UID, GID         uint32
	Nlink            uint64
	Rdev             uint64
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
	ID      replication.ID    // the generation the trees were at
	At      int64             // Unix ns, before the scan began
	Volumes map[string][]Node // by volume, in entry order
}

// indexMagic begins a saved index; then BLAKE3-256 of the rest, zstd of CBOR.
const indexMagic = "USIX\x01"

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
	raw, err := zr.DecodeAll(body[32:], nil)
	if err != nil {
		return nil
	}
	dm, err := cbor.DecOptions{ByteStringToString: cbor.ByteStringToStringAllowed, MaxArrayElements: 1 << 24}.DecMode()
	if err != nil {
		return nil
	}
	var x Index
	if err := dm.Unmarshal(raw, &x); err != nil {
		return nil
	}
	return &x
}

// Save writes it atomically and durably.
func (x *Index) Save(path string) error {
	em, err := cbor.EncOptions{String: cbor.StringToByteString}.EncMode()
	if err != nil {
		return err
	}
	raw, err := em.Marshal(x)
	if err != nil {
		return err
	}
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	body := zw.EncodeAll(raw, nil)
	if err := zw.Close(); err != nil {
		return err
	}
	sum := blake3.Sum256(body)
	return durable.WriteFile(path, append(append([]byte(indexMagic), sum[:]...), body...), 0o600, nil)
}
