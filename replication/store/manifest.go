package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
)

// A manifest's encoded form:
//
//	magic "USMF", version (1 byte), zstd( header, entry, entry, … ), BLAKE3-256 of all before it
//
// header and entries are CBOR items one after the other (RFC 8742), so that a
// reader validates each before it makes room for the next: hostile bytes cost
// little more memory than they are long.
const (
	manifestMagic   = "USMF"
	manifestVersion = 1
	hashLen         = 32
	manifestPrefix  = len(manifestMagic) + 1
)

// What a reader accepts at most.
const (
	maxEncoded    = 256 << 20 // bytes
	maxDecoded    = 512 << 20 // bytes
	maxRatio      = 250       // decoded bytes for one encoded, beyond the first MiB
	maxEntries    = 4 << 20   // in all volumes
	maxChunks     = 8 << 20   // in all volumes: 8 TiB
	maxDefinition = 16 << 20  // bytes
)

// header is everything but the entries; how many there are is in it.
type header struct {
	Format     int            `cbor:"1,keyasint"`
	Service    string         `cbor:"2,keyasint"`
	ID         replication.ID `cbor:"3,keyasint"`
	Parent     replication.ID `cbor:"4,keyasint"`
	CapturedNs int64          `cbor:"5,keyasint"` // Unix ns; 0: the zero time
	FreezeNs   int64          `cbor:"6,keyasint"`
	Diverged   bool           `cbor:"7,keyasint,omitempty"`
	Final      bool           `cbor:"8,keyasint,omitempty"`
	Definition []byte         `cbor:"9,keyasint,omitempty"`
	Images     []string       `cbor:"10,keyasint,omitempty"`
	Volumes    []volumeHeader `cbor:"11,keyasint"`
}

type volumeHeader struct {
	Name    string `cbor:"1,keyasint"`
	Entries int    `cbor:"2,keyasint"`
	Skipped int    `cbor:"3,keyasint,omitempty"`
}

// Paths are bytes, so strings travel as CBOR byte strings.
func encMode() (cbor.EncMode, error) {
	o := cbor.CoreDetEncOptions()
	o.String = cbor.StringToByteString
	return o.EncMode()
}

func decMode() (cbor.DecMode, error) {
	return cbor.DecOptions{
		DupMapKey:          cbor.DupMapKeyEnforcedAPF,
		IndefLength:        cbor.IndefLengthForbidden,
		TagsMd:             cbor.TagsForbidden,
		ExtraReturnErrors:  cbor.ExtraDecErrorUnknownField,
		ByteStringToString: cbor.ByteStringToStringAllowed,
		MaxNestedLevels:    8,
		MaxArrayElements:   maxChunks,
		MaxMapPairs:        maxXattrs,
	}.DecMode()
}

// EncodeManifest validates m and gives its encoded form; the same manifest has
// always the same form.
func EncodeManifest(m *replication.Manifest) ([]byte, error) {
	if err := Validate(m); err != nil {
		return nil, err
	}
	em, err := encMode()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString(manifestMagic)
	out.WriteByte(manifestVersion)
	zw, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	if err := encodeItems(em.NewEncoder(zw), m); err != nil {
		return nil, errors.Join(err, zw.Close())
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	sum := blake3.Sum256(out.Bytes())
	out.Write(sum[:])
	if out.Len() > maxEncoded {
		return nil, fmt.Errorf("%w: the manifest of %s is %d bytes long, at most %d are read", replication.ErrFormat, m.ID, out.Len(), maxEncoded)
	}
	return out.Bytes(), nil
}

func encodeItems(enc *cbor.Encoder, m *replication.Manifest) error {
	h := header{
		Format: m.Format, Service: m.Service, ID: m.ID, Parent: m.Parent,
		FreezeNs: m.FreezeNs, Diverged: m.Diverged, Final: m.Final,
		Definition: m.Definition, Images: m.Images, Volumes: make([]volumeHeader, len(m.Volumes)),
	}
	if !m.CapturedAt.IsZero() {
		h.CapturedNs = m.CapturedAt.UnixNano()
	}
	for i, v := range m.Volumes {
		h.Volumes[i] = volumeHeader{Name: v.Name, Entries: len(v.Entries), Skipped: v.Skipped}
	}
	if err := enc.Encode(h); err != nil {
		return err
	}
	for i := range m.Volumes {
		for j := range m.Volumes[i].Entries {
			if err := enc.Encode(&m.Volumes[i].Entries[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

// DecodeManifest reads and validates. It is made for hostile bytes: what it
// allocates is bounded. ErrTruncated, ErrBadHash, ErrFormat, ErrBadPath.
func DecodeManifest(b []byte) (*replication.Manifest, error) {
	body, err := openManifest(b)
	if err != nil {
		return nil, err
	}
	limit := min(int64(maxDecoded), 1<<20+maxRatio*int64(len(b)))
	zr, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderMaxMemory(uint64(limit)))
	if err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", replication.ErrFormat, err)
	}
	defer zr.Close()
	dm, err := decMode()
	if err != nil {
		return nil, err
	}
	return decodeItems(dm.NewDecoder(io.LimitReader(zr, limit)))
}

// openManifest checks the frame and gives what is compressed in it.
func openManifest(b []byte) ([]byte, error) {
	if len(b) > maxEncoded {
		return nil, fmt.Errorf("%w: a manifest of %d bytes, at most %d are read", replication.ErrFormat, len(b), maxEncoded)
	}
	if len(b) < manifestPrefix+hashLen {
		return nil, fmt.Errorf("manifest of %d bytes: %w", len(b), replication.ErrTruncated)
	}
	if string(b[:len(manifestMagic)]) != manifestMagic {
		return nil, fmt.Errorf("%w: not a manifest", replication.ErrFormat)
	}
	if v := b[len(manifestMagic)]; v != manifestVersion {
		return nil, fmt.Errorf("%w: manifest version %d, this node reads %d; install the same understudy on both nodes", replication.ErrFormat, v, manifestVersion)
	}
	end := len(b) - hashLen
	if sum := blake3.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return nil, fmt.Errorf("manifest: %w (or it is truncated)", replication.ErrBadHash)
	}
	return b[manifestPrefix:end], nil
}

func decodeItems(dec *cbor.Decoder) (*replication.Manifest, error) {
	var h header
	if err := dec.Decode(&h); err != nil {
		return nil, fmt.Errorf("%w: manifest header: %w", replication.ErrFormat, err)
	}
	m := &replication.Manifest{
		Format: h.Format, Service: h.Service, ID: h.ID, Parent: h.Parent,
		FreezeNs: h.FreezeNs, Diverged: h.Diverged, Final: h.Final, Definition: h.Definition, Images: h.Images,
	}
	if h.CapturedNs != 0 {
		m.CapturedAt = time.Unix(0, h.CapturedNs).UTC()
	}
	if err := validateHeader(m); err != nil {
		return nil, err
	}
	var b budget
	last := ""
	for _, vh := range h.Volumes {
		vv, err := newVolumeValidator(vh.Name, last, vh.Skipped, &b)
		if err != nil {
			return nil, err
		}
		last = vh.Name
		v := replication.Volume{Name: vh.Name, Skipped: vh.Skipped}
		for range vh.Entries {
			var e replication.Entry
			if err := dec.Decode(&e); err != nil {
				return nil, fmt.Errorf("%w: volume %s, entry %d: %w", replication.ErrFormat, vh.Name, len(v.Entries), err)
			}
			if err := vv.entry(&e); err != nil {
				return nil, err
			}
			v.Entries = append(v.Entries, e)
		}
		if err := vv.end(); err != nil {
			return nil, err
		}
		m.Volumes = append(m.Volumes, v)
	}
	var extra cbor.RawMessage
	if err := dec.Decode(&extra); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the manifest's last entry", replication.ErrFormat)
	}
	return m, nil
}

// Sum is the hash of an encoded manifest, as in State.HeadSum: its trailer,
// which covers all before it.
func Sum(encoded []byte) (h replication.Hash) {
	if len(encoded) >= hashLen {
		copy(h[:], encoded[len(encoded)-hashLen:])
	}
	return h
}

// Chunks lists the content m names, each hash once, in order of appearance.
func Chunks(m *replication.Manifest) []replication.Hash {
	seen := map[replication.Hash]struct{}{}
	var hs []replication.Hash
	for i := range m.Volumes {
		for j := range m.Volumes[i].Entries {
			for _, c := range m.Volumes[i].Entries[j].Chunks {
				if _, ok := seen[c.Hash]; !ok {
					seen[c.Hash] = struct{}{}
					hs = append(hs, c.Hash)
				}
			}
		}
	}
	return hs
}
