package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
)

// A manifest's encoded form:
//
//	magic "USMF", version (1 byte), zstd( header, item, item, … ), BLAKE3-256 of all before it
//
// Header and items are CBOR (RFC 8742), one after the other, so that a
// reader validates each before it makes room for the next: hostile bytes cost
// little more memory than they are long. The items of a whole manifest are its
// volumes' entries; those of a delta are, for each volume that it changes, the
// entries to put, then the paths that are gone. An entry to put of whose chunks few
// changed has splices of the base's chunks instead of its own: version 3. What has none
// is version 2, which older nodes read too.
const (
	manifestMagic   = "USMF"
	manifestVersion = 2
	splicedVersion  = 3
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

// header is everything but the items; how many there are is in it.
type header struct {
	Format     int              `cbor:"1,keyasint"`
	Service    string           `cbor:"2,keyasint"`
	ID         replication.ID   `cbor:"3,keyasint"`
	Parent     replication.ID   `cbor:"4,keyasint"`
	CapturedNs int64            `cbor:"5,keyasint"` // Unix ns; 0: the zero time
	FreezeNs   int64            `cbor:"6,keyasint"`
	Diverged   bool             `cbor:"7,keyasint,omitempty"`
	Final      bool             `cbor:"8,keyasint,omitempty"`
	Definition []byte           `cbor:"9,keyasint,omitempty"`
	Images     []string         `cbor:"10,keyasint,omitempty"`
	Volumes    []volumeHeader   `cbor:"11,keyasint"`
	Sum        replication.Hash `cbor:"12,keyasint"` // of the generation's volumes, whole
	Delta      *deltaHeader     `cbor:"13,keyasint,omitempty"`
	Loose      bool             `cbor:"14,keyasint,omitempty"`
}

type volumeHeader struct {
	Name    string `cbor:"1,keyasint"`
	Entries int    `cbor:"2,keyasint"` // of a delta: to put
	Skipped int    `cbor:"3,keyasint,omitempty"`
	Gone    int    `cbor:"4,keyasint,omitempty"` // paths, in a delta only
}

// putItem is an entry that a delta puts: with its chunks, or with how they come from
// the base's.
type putItem struct {
	replication.Entry
	Splices []replication.Splice `cbor:"13,keyasint,omitempty"`
}

func versionOf(m *replication.Manifest) byte {
	if m.Delta != nil && slices.ContainsFunc(m.Delta.Volumes, func(v replication.VolumeDelta) bool { return len(v.Splices) > 0 }) {
		return splicedVersion
	}
	return manifestVersion
}

type deltaHeader struct {
	Base replication.ID   `cbor:"1,keyasint"`
	Sum  replication.Hash `cbor:"2,keyasint"`
	Gone []string         `cbor:"3,keyasint,omitempty"` // volumes
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

// EncodeManifest gives m's encoded form, as a delta where m has one; the same
// manifest has always the same form. What a reader would refuse, it refuses.
func EncodeManifest(m *replication.Manifest) ([]byte, error) {
	var err error
	if m.Delta == nil {
		err = Validate(m)
	} else {
		err = validateDelta(m)
	}
	if err != nil {
		return nil, err
	}
	em, err := encMode()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Grow(4096 + entryGuess*items(m))
	out.WriteString(manifestMagic)
	out.WriteByte(versionOf(m))
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

// entryGuess is about what an entry takes, encoded: mostly its content's hash. A buffer that grows as it is filled
// is there several times over.
const entryGuess = 44 // bytes

// items are the entries that m is encoded with.
func items(m *replication.Manifest) (n int) {
	if m.Delta != nil {
		for i := range m.Delta.Volumes {
			n += len(m.Delta.Volumes[i].Put)
		}
		return n
	}
	for i := range m.Volumes {
		n += m.Volumes[i].Entries.Len()
	}
	return n
}

// headerOf is m's header without what says how m is kept.
func headerOf(m *replication.Manifest) header {
	h := header{
		Format: m.Format, Service: m.Service, ID: m.ID, Parent: m.Parent,
		FreezeNs: m.FreezeNs, Diverged: m.Diverged, Final: m.Final, Loose: m.Loose,
		Definition: m.Definition, Images: m.Images, Sum: m.Sum(),
	}
	if !m.CapturedAt.IsZero() {
		h.CapturedNs = m.CapturedAt.UnixNano()
	}
	return h
}

// identity is a hash of the generation, the same whether it is kept whole or as a delta, and
// whatever it was committed on top of: a node that is far behind gets some with another parent.
func identity(m *replication.Manifest) (replication.Hash, error) {
	em, err := encMode()
	if err != nil {
		return replication.Hash{}, err
	}
	h := headerOf(m)
	h.Parent = replication.ID{}
	b, err := em.Marshal(h)
	return blake3.Sum256(b), err
}

func encodeItems(enc *cbor.Encoder, m *replication.Manifest) error {
	h := headerOf(m)
	if m.Delta != nil {
		return encodeDelta(enc, h, m.Delta)
	}
	for _, v := range m.Volumes {
		h.Volumes = append(h.Volumes, volumeHeader{Name: v.Name, Entries: v.Entries.Len(), Skipped: v.Skipped})
	}
	if err := enc.Encode(h); err != nil {
		return err
	}
	for i := range m.Volumes {
		for e := range m.Volumes[i].Entries.All() {
			if err := enc.Encode(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func encodeDelta(enc *cbor.Encoder, h header, d *replication.Delta) error {
	h.Delta = &deltaHeader{Base: d.Base, Sum: d.BaseSum, Gone: d.Gone}
	for _, v := range d.Volumes {
		h.Volumes = append(h.Volumes, volumeHeader{Name: v.Name, Entries: len(v.Put), Skipped: v.Skipped, Gone: len(v.Del)})
	}
	if err := enc.Encode(h); err != nil {
		return err
	}
	for i := range d.Volumes {
		for _, e := range d.Volumes[i].Put {
			item := putItem{Entry: *e, Splices: d.Volumes[i].Splices[e.Path]}
			if len(item.Splices) > 0 {
				item.Chunks = nil
			}
			if err := enc.Encode(item); err != nil {
				return err
			}
		}
		for _, path := range d.Volumes[i].Del {
			if err := enc.Encode(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// DecodeManifest reads and validates. It is made for hostile bytes: what it
// allocates is bounded. base finds the generation that a delta is from; where
// it is nil, a delta's manifest comes without volumes, its delta only looked at
// by itself. ErrTruncated, ErrBadHash, ErrFormat, ErrBadPath, ErrWrongParent.
func DecodeManifest(b []byte, base func(*replication.Delta) (*replication.Manifest, error)) (*replication.Manifest, error) {
	m, sum, err := decode(b)
	if err != nil {
		return nil, err
	}
	if m.Delta != nil {
		if base == nil {
			return m, nil
		}
		from, err := base(m.Delta)
		if err != nil {
			return nil, err
		}
		if err := resolve(m, from); err != nil {
			return nil, err
		}
	}
	return m, checkSum(m, sum)
}

// resolve gives a delta's manifest its volumes.
func resolve(m, base *replication.Manifest) (err error) {
	if m.Volumes, err = m.Delta.ApplyTo(base); err != nil {
		return fmt.Errorf("generation %s: %w", m.ID, err)
	}
	return validateResult(m)
}

func checkSum(m *replication.Manifest, sum replication.Hash) error {
	if got := m.Sum(); got != sum {
		return fmt.Errorf("generation %s: its volumes are %s and not %s, as its header says: %w", m.ID, got, sum, replication.ErrBadHash)
	}
	return nil
}

// decode reads a manifest, and of a delta's what is in it.
func decode(b []byte) (*replication.Manifest, replication.Hash, error) {
	dec, done, err := openItems(b)
	if err != nil {
		return nil, replication.Hash{}, err
	}
	defer done()
	return decodeItems(dec)
}

func decodeItems(dec *cbor.Decoder) (*replication.Manifest, replication.Hash, error) {
	h, m, err := decodeHeader(dec)
	if err != nil {
		return nil, h.Sum, err
	}
	if h.Delta != nil {
		err = decodeDelta(dec, h, m)
	} else {
		err = decodeWhole(dec, h, m)
	}
	if err != nil {
		return nil, h.Sum, err
	}
	var extra cbor.RawMessage
	if err := dec.Decode(&extra); !errors.Is(err, io.EOF) {
		return nil, h.Sum, fmt.Errorf("%w: something follows the manifest's last item", replication.ErrFormat)
	}
	return m, h.Sum, nil
}

// openItems checks the frame and gives what is in it.
func openItems(b []byte) (dec *cbor.Decoder, done func(), err error) {
	body, err := openManifest(b)
	if err != nil {
		return nil, nil, err
	}
	limit := min(int64(maxDecoded), 1<<20+maxRatio*int64(len(b)))
	zr, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderMaxMemory(uint64(limit)))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: manifest: %w", replication.ErrFormat, err)
	}
	dm, err := decMode()
	if err != nil {
		zr.Close()
		return nil, nil, err
	}
	return dm.NewDecoder(io.LimitReader(zr, limit)), zr.Close, nil
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
	if v := b[len(manifestMagic)]; v != manifestVersion && v != splicedVersion {
		return nil, fmt.Errorf("%w: manifest version %d, this node reads up to %d; install the same understudy on both nodes", replication.ErrFormat, v, splicedVersion)
	}
	end := len(b) - hashLen
	if sum := blake3.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return nil, fmt.Errorf("manifest: %w (or it is truncated)", replication.ErrBadHash)
	}
	return b[manifestPrefix:end], nil
}

func decodeHeader(dec *cbor.Decoder) (h header, m *replication.Manifest, err error) {
	if err := dec.Decode(&h); err != nil {
		return h, nil, fmt.Errorf("%w: manifest header: %w", replication.ErrFormat, err)
	}
	m = &replication.Manifest{
		Format: h.Format, Service: h.Service, ID: h.ID, Parent: h.Parent,
		FreezeNs: h.FreezeNs, Diverged: h.Diverged, Final: h.Final, Loose: h.Loose, Definition: h.Definition, Images: h.Images,
	}
	if h.CapturedNs != 0 {
		m.CapturedAt = time.Unix(0, h.CapturedNs).UTC()
	}
	return h, m, validateHeader(m)
}

func decodeWhole(dec *cbor.Decoder, h header, m *replication.Manifest) error {
	var b budget
	last := ""
	for _, vh := range h.Volumes {
		es := replication.NewEntries()
		vv, err := newVolumeValidator(vh.Name, last, vh.Skipped, es, &b)
		if err != nil {
			return err
		}
		last = vh.Name
		if vh.Gone != 0 {
			return fmt.Errorf("%w: volume %s: paths that are gone, in a whole manifest", replication.ErrFormat, vh.Name)
		}
		for at := range vh.Entries {
			e := &replication.Entry{}
			if err := dec.Decode(e); err != nil {
				return fmt.Errorf("%w: volume %s, entry %d: %w", replication.ErrFormat, vh.Name, at, err)
			}
			if err := vv.entry(e); err != nil {
				return err
			}
			es.Set(e)
		}
		if err := vv.end(); err != nil {
			return err
		}
		m.Volumes = append(m.Volumes, replication.Volume{Name: vh.Name, Skipped: vh.Skipped, Entries: es})
	}
	return nil
}

func decodeDelta(dec *cbor.Decoder, h header, m *replication.Manifest) error {
	d := &replication.Delta{Base: h.Delta.Base, BaseSum: h.Delta.Sum, Gone: h.Delta.Gone}
	m.Delta = d
	if err := validateDeltaHeader(m); err != nil {
		return err
	}
	var b budget
	last := ""
	for _, vh := range h.Volumes {
		dv, err := newDeltaValidator(vh.Name, last, vh.Skipped, &b)
		if err != nil {
			return err
		}
		last = vh.Name
		vd := replication.VolumeDelta{Name: vh.Name, Skipped: vh.Skipped}
		var item putItem // one for all: a copy of each stays
		for at := range vh.Entries {
			item = putItem{}
			if err := dec.Decode(&item); err != nil {
				return fmt.Errorf("%w: volume %s, entry %d: %w", replication.ErrFormat, vh.Name, at, err)
			}
			e := item.Entry
			if len(item.Splices) > 0 && len(e.Chunks) > 0 {
				return dv.bad(replication.ErrFormat, &e, "chunks, and splices of the base's")
			}
			if err := dv.put(&e, item.Splices); err != nil {
				return err
			}
			vd.Put = append(vd.Put, &e)
			if len(item.Splices) > 0 {
				if vd.Splices == nil {
					vd.Splices = map[string][]replication.Splice{}
				}
				vd.Splices[e.Path] = item.Splices
			}
		}
		for at := range vh.Gone {
			var path string
			if err := dec.Decode(&path); err != nil {
				return fmt.Errorf("%w: volume %s, path %d that is gone: %w", replication.ErrFormat, vh.Name, at, err)
			}
			if err := dv.del(path); err != nil {
				return err
			}
			vd.Del = append(vd.Del, path)
		}
		d.Volumes = append(d.Volumes, vd)
	}
	return nil
}

// eachNamed is newChunks of a manifest of this store, which was validated when it came, while it is read.
func eachNamed(h header, dec *cbor.Decoder, do func(replication.Chunk)) error {
	each := func(cs []replication.Chunk) {
		for _, c := range cs {
			do(c)
		}
	}
	for _, vh := range h.Volumes {
		var item putItem
		for at := range vh.Entries {
			item = putItem{}
			if err := dec.Decode(&item); err != nil {
				return fmt.Errorf("%w: volume %s, entry %d: %w", replication.ErrFormat, vh.Name, at, err)
			}
			each(item.Chunks)
			for _, s := range item.Splices {
				each(s.Put)
			}
		}
		for at := range vh.Gone {
			var path string
			if err := dec.Decode(&path); err != nil {
				return fmt.Errorf("%w: volume %s, path %d that is gone: %w", replication.ErrFormat, vh.Name, at, err)
			}
		}
	}
	return nil
}

// newChunks is the content that m names and its delta's base does not have to
// name: of a whole manifest all of it. In order of appearance.
func newChunks(m *replication.Manifest) iter.Seq[replication.Chunk] {
	return func(yield func(replication.Chunk) bool) {
		if m.Delta != nil {
			for i := range m.Delta.Volumes {
				for c := range m.Delta.Volumes[i].Named() {
					if !yield(c) {
						return
					}
				}
			}
			return
		}
		for i := range m.Volumes {
			for e := range m.Volumes[i].Entries.All() {
				for _, c := range e.Chunks {
					if !yield(c) {
						return
					}
				}
			}
		}
	}
}

// Added is the content that m names, but for what its delta's base has in
// the same files; a hash may come more than once.
func Added(m *replication.Manifest) iter.Seq[replication.Hash] {
	return func(yield func(replication.Hash) bool) {
		for c := range newChunks(m) {
			if !yield(c.Hash) {
				return
			}
		}
	}
}
