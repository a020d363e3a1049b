package store

import (
	"bytes"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
)

// seal gives a manifest a right hash, so that the fuzzer gets behind it.
func seal(body []byte) []byte {
	b := append([]byte(manifestMagic), manifestVersion)
	b = append(b, body...)
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

func FuzzDecodeManifest(f *testing.F) {
	for _, m := range []*replication.Manifest{
		manifest(id(1, 1), id(0, 0)), manifest(id(3, 2), id(2, 9), []byte("a"), nil, noise(1, 3000)),
	} {
		b, err := EncodeManifest(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[manifestPrefix : len(b)-hashLen])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := DecodeManifest(seal(body), nil)
		if err != nil {
			return
		}
		if m.Delta != nil {
			return // without its base there is nothing to encode
		}
		if err := Validate(m); err != nil {
			t.Fatalf("what was decoded is not valid: %v", err)
		}
		b, err := EncodeManifest(m)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := DecodeManifest(b, nil); err != nil || again.ID != m.ID {
			t.Fatal(err)
		}
	})
}

// The same without compression in the way: items as CBOR.
func FuzzDecodeItems(f *testing.F) {
	em, err := encMode()
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := encodeItems(em.NewEncoder(&b), manifest(id(3, 2), id(2, 9), []byte("a"), nil)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	base := manifest(id(1, 1), id(0, 0), []byte("a"), []byte("b"))
	next := after(base, []*replication.Entry{file("f0001", nil)})
	next.Delta.Volumes[0].Splices = map[string][]replication.Splice{"f0001": {{At: 0, Del: 1, Put: []replication.Chunk{{Length: 1, Hash: hashOf([]byte("c"))}}}}}
	var delta bytes.Buffer
	if err := encodeItems(em.NewEncoder(&delta), next); err != nil {
		f.Fatal(err)
	}
	f.Add(delta.Bytes())
	dm, err := decMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, _, err := decodeItems(dm.NewDecoder(bytes.NewReader(b)))
		if err == nil && m.Delta == nil && Validate(m) != nil {
			t.Fatal("what was decoded is not valid")
		}
	})
}

func FuzzPackIndex(f *testing.F) {
	f.Add([]byte("chunk"), []byte{}, uint64(8), uint64(0))
	tail, _ := packTail([]packChunk{{hash: hashOf([]byte("chunk")), begin: 8, stored: 5, raw: 5}}, 13)
	f.Add([]byte("chunk"), tail, uint64(13), uint64(1))
	f.Fuzz(func(t *testing.T, chunks, index []byte, _, _ uint64) {
		b := append(append(packHead(), chunks...), index...)
		cs, err := readPackIndex(bytes.NewReader(b), int64(len(b)))
		if err == nil && int64(len(cs)*packEntry+packHeader+packTrailer) > int64(len(b)) {
			t.Fatal("more chunks than fit")
		}
		// An index under a right hash.
		if len(index)%packEntry == 0 {
			if cs, err := parsePackIndex(index, int64(packHeader+len(chunks))); err == nil && len(cs) != len(index)/packEntry {
				t.Fatal("chunks were lost")
			}
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"service":"a","term":3,"head":"3.17","head_sum":"ab","images":[],"layers":null}`))
	f.Add([]byte("3.17\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := DecodeState(b); err == nil {
			if ValidName("service", st.Service) != nil {
				t.Fatal("a name that is not valid")
			}
			if _, err := st.JSON(); err != nil {
				t.Fatal(err)
			}
		}
		if h, err := parseHead(b); err == nil && len(b) != len(h.String()) {
			t.Fatalf("%q is %s", b, h)
		}
		_, _ = parseTerm(b)
		_, _ = parseDiverged(string(b))
		_, _ = ParseHash(string(b))
	})
}

// A small manifest must not make the reader use much memory.
func TestDecompressionBomb(t *testing.T) {
	c, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	for name, fill := range map[string]byte{"zeros": 0, "empty maps": 0xa0, "arrays": 0x9b} {
		body := c.enc.EncodeAll(bytes.Repeat([]byte{fill}, 64<<20), nil)
		allocated := testing.Benchmark(func(b *testing.B) {
			for range b.N {
				if _, err := DecodeManifest(seal(body), nil); err == nil {
					b.Fatal("accepted")
				}
			}
		}).AllocedBytesPerOp()
		if allocated > 64<<20 {
			t.Errorf("%s: %d bytes for a manifest of %d", name, allocated, len(body))
		}
	}
}
