package main

import (
	"encoding/binary"
	"math/rand/v2"
)

// source makes file content from a seed: noise, which nothing can compress, or
// text, which compresses to about a third as configuration and sources do. No two
// blocks of a source are equal, so that nobody gains by finding duplicates.
type source struct {
	rng   *rand.ChaCha8
	words []byte // text to cut from
	block uint64 // counted, in each block of text
}

// textBlock is how much text has one mark of its own.
const textBlock = 4096

func newSource(seed uint64) *source {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	s := &source{rng: rand.NewChaCha8(key)}
	r := rand.New(s.rng)
	var vocabulary [2000][]byte
	for i := range vocabulary {
		w := make([]byte, 2+r.IntN(9))
		for k := range w {
			w[k] = "etaoinshrdlucmfwypvbgkjqxz"[min(r.IntN(26), r.IntN(26))]
		}
		vocabulary[i] = append(w, ' ')
	}
	for len(s.words) < 1<<20 {
		s.words = append(s.words, vocabulary[min(r.IntN(len(vocabulary)), r.IntN(len(vocabulary)))]...)
	}
	s.block = r.Uint64() &^ 0xffffffff
	return s
}

func (s *source) noise(b []byte) { _, _ = s.rng.Read(b) } // it never fails

func (s *source) text(b []byte) {
	for len(b) > 0 {
		n := min(len(b), textBlock)
		from := int(s.rng.Uint64() % uint64(len(s.words)-textBlock))
		copy(b[:n], s.words[from:])
		s.block++
		var mark [16]byte
		const hex = "0123456789abcdef"
		for i := range mark {
			mark[i] = hex[s.block>>(4*i)&15]
		}
		copy(b[:n], mark[:])
		b = b[n:]
	}
}

// between is a number from low up to but not including high, small ones more often.
func (s *source) between(low, high int) int {
	r := rand.New(s.rng)
	return low + min(r.IntN(high-low), r.IntN(high-low))
}
