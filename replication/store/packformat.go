package store

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
)

// A pack, all numbers little endian:
//
//	header   magic "USPK", version u32
//	chunks   one after the other, raw or zstd; zeros before one that is aligned
//	index    per chunk, in order: hash [32], offset u64, stored u32, raw u32, flags u32
//	trailer  index offset u64, count u64, BLAKE3-256 of (index, index offset, count), magic "USPKEND1"
//
// The trailer is found from the end, so a truncated pack is known as such; the
// index can be trusted without reading the chunks. The pack's name is the hash in the
// trailer: the index has the hash of each chunk, so it names all of the content, and
// whoever verifies a pack reads and hashes it once. (The name of a pack of version 1
// is the hash of the whole file; chunks are aligned since version 3.)
//
// A long raw chunk begins at a multiple of packAlign, so that a live file and the pack
// can share its blocks on a file system that can (share.go).
const (
	packMagic    = "USPK"
	packVersion  = 3
	packEnd      = "USPKEND1"
	packHeader   = 8
	packEntry    = 32 + 8 + 4 + 4 + 4
	packTrailer  = 8 + 8 + 32 + 8
	maxPackBytes = 4 << 30 // what AcceptPack reads at most
	maxPackCount = 4 << 20 // chunks in one pack, as read
	packChunks   = 1 << 16 // chunks in one pack, as written: its index is in memory more than once while it travels
	packAlign    = 4 << 10 // the block of the file systems that share

	flagZstd = 1
)

// packChunk is an index entry.
type packChunk struct {
	hash        replication.Hash
	begin       uint32 // its offset; there is one of these for each file, and a pack has 4 GiB at most
	stored, raw uint32
	flags       uint32
}

func (c packChunk) offset() int64 { return int64(c.begin) }

func packHead() []byte {
	b := append(make([]byte, 0, packHeader), packMagic...)
	return binary.LittleEndian.AppendUint32(b, packVersion)
}

// packTail is index and trailer of a pack whose chunks end at end, and its name.
func packTail(chunks []packChunk, end int64) (b []byte, name replication.Hash) {
	b = make([]byte, 0, len(chunks)*packEntry+packTrailer)
	for _, c := range chunks {
		b = append(b, c.hash[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(c.begin))
		b = binary.LittleEndian.AppendUint32(b, c.stored)
		b = binary.LittleEndian.AppendUint32(b, c.raw)
		b = binary.LittleEndian.AppendUint32(b, c.flags)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(end))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(chunks)))
	name = blake3.Sum256(b)
	b = append(b, name[:]...)
	return append(b, packEnd...), name
}

// readPackName is what a pack must be called, whose index is known to be right.
func readPackName(r io.ReaderAt, size int64) (name replication.Hash, err error) {
	var head [packHeader]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return name, err
	}
	if binary.LittleEndian.Uint32(head[4:]) != 1 {
		_, err := r.ReadAt(name[:], size-packTrailer+16)
		return name, err
	}
	sum := blake3.New()
	_, err = io.Copy(sum, io.NewSectionReader(r, 0, size))
	return replication.Hash(sum.Sum(nil)), err
}

// readPackIndex reads and checks header, trailer and index of a pack of size
// bytes. What it allocates is bounded by size.
func readPackIndex(r io.ReaderAt, size int64) ([]packChunk, error) {
	if size < packHeader+packTrailer {
		return nil, fmt.Errorf("pack of %d bytes: %w", size, replication.ErrTruncated)
	}
	if size > maxPackBytes {
		return nil, fmt.Errorf("%w: a pack of %d bytes, at most %d are read", replication.ErrFormat, size, int64(maxPackBytes))
	}
	var head [packHeader]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	if string(head[:4]) != packMagic {
		return nil, fmt.Errorf("%w: not a pack", replication.ErrFormat)
	}
	if v := binary.LittleEndian.Uint32(head[4:]); v < 1 || v > packVersion {
		return nil, fmt.Errorf("%w: pack version %d, this node reads %d; install the same understudy on both nodes", replication.ErrFormat, v, packVersion)
	}
	var tail [packTrailer]byte
	if _, err := r.ReadAt(tail[:], size-packTrailer); err != nil {
		return nil, err
	}
	if string(tail[48:]) != packEnd {
		return nil, fmt.Errorf("pack without its trailer: %w", replication.ErrTruncated)
	}
	off, count := binary.LittleEndian.Uint64(tail[:]), binary.LittleEndian.Uint64(tail[8:])
	room := uint64(size - packTrailer)
	if count > maxPackCount || off < packHeader || off > room || room-off != count*packEntry {
		return nil, fmt.Errorf("%w: pack index of %d chunks at %d in %d bytes", replication.ErrFormat, count, off, size)
	}
	b := make([]byte, count*packEntry+16)
	if _, err := r.ReadAt(b, int64(off)); err != nil {
		return nil, err
	}
	if blake3.Sum256(b) != [32]byte(tail[16:48]) {
		return nil, fmt.Errorf("pack index: %w", replication.ErrBadHash)
	}
	return parsePackIndex(b[:count*packEntry], int64(off))
}

// aligned is where the chunk that is stored next would begin if it is aligned.
func aligned(at int64) int64 { return (at + packAlign - 1) &^ (packAlign - 1) }

// parsePackIndex checks that the chunks tile the space up to end, each once, with no
// more between them than aligns the next.
func parsePackIndex(b []byte, end int64) ([]packChunk, error) {
	chunks := make([]packChunk, 0, len(b)/packEntry)
	seen := make(map[replication.Hash]struct{}, len(b)/packEntry)
	at := int64(packHeader)
	for ; len(b) >= packEntry; b = b[packEntry:] {
		offset := binary.LittleEndian.Uint64(b[32:])
		c := packChunk{
			hash:   replication.Hash(b[:32]),
			begin:  uint32(offset),
			stored: binary.LittleEndian.Uint32(b[40:]),
			raw:    binary.LittleEndian.Uint32(b[44:]),
			flags:  binary.LittleEndian.Uint32(b[48:]),
		}
		_, dup := seen[c.hash]
		switch {
		case dup, offset > math.MaxUint32, offset != uint64(at) && offset != uint64(aligned(at)), c.flags > flagZstd,
			c.raw < 1, c.raw > replication.ChunkSize, c.stored < 1, c.stored > c.raw,
			c.flags == 0 && c.stored != c.raw:
			return nil, fmt.Errorf("%w: pack index, chunk %d", replication.ErrFormat, len(chunks))
		}
		seen[c.hash] = struct{}{}
		at = c.offset() + int64(c.stored)
		chunks = append(chunks, c)
	}
	if at != end {
		return nil, fmt.Errorf("%w: the pack's chunks end at %d, its index begins at %d", replication.ErrFormat, at, end)
	}
	return chunks, nil
}

// codec compresses and decompresses chunks. Safe for concurrent use.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() (*codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(replication.ChunkSize))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(replication.ChunkSize), zstd.WithDecoderMaxMemory(replication.ChunkSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &codec{enc: enc, dec: dec}, nil
}

// sampleSize is how much of a chunk is tried before all of it is compressed.
const sampleSize = 16 << 10

// pack gives a chunk's stored form. Data that is compressed already is found
// out by a sample, so that it costs little.
func (c *codec) pack(data []byte) (stored []byte, flags uint32) {
	if len(data) < 64 {
		return data, 0
	}
	if len(data) > 4*sampleSize {
		mid := len(data)/2 - sampleSize/2
		if s := data[mid : mid+sampleSize]; !worth(len(c.enc.EncodeAll(s, nil)), len(s)) {
			return data, 0
		}
	}
	z := c.enc.EncodeAll(data, make([]byte, 0, len(data)/2))
	if !worth(len(z), len(data)) {
		return data, 0
	}
	return z, flagZstd
}

// worth: decompression is not free, so less than a tenth saved is not.
func worth(packed, raw int) bool { return packed*10 < raw*9 }

// unpack restores and verifies a chunk.
func (c *codec) unpack(stored []byte, pc packChunk) ([]byte, error) {
	data := stored
	if pc.flags&flagZstd != 0 {
		var err error
		if data, err = c.dec.DecodeAll(stored, make([]byte, 0, pc.raw)); err != nil {
			return nil, fmt.Errorf("chunk %s: %w: %w", pc.hash, replication.ErrBadHash, err)
		}
	}
	if len(data) != int(pc.raw) || replication.Hash(blake3.Sum256(data)) != pc.hash {
		return nil, fmt.Errorf("chunk %s: %w", pc.hash, replication.ErrBadHash)
	}
	return data, nil
}
