package wire

import (
	"bufio"
	"fmt"
	"io"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// Limits of the two small documents on the wire.
const (
	maxState = 8 << 20 // bytes of a state: some ten thousand layers
	maxWant  = 1 << 15 // hashes in one want, up to 32 GiB; a sender with more asks again
)

// hashLine is the length of a line of a want, bytes.
const hashLine = 2*len(replication.Hash{}) + 1

// parseHashes reads lines of hashes, at most most of them.
func parseHashes(r io.Reader, most int) ([]replication.Hash, error) {
	var hs []replication.Hash
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 2*hashLine), 2*hashLine)
	for sc.Scan() {
		if len(sc.Bytes()) == 0 {
			continue
		}
		if len(hs) == most {
			return nil, fmt.Errorf("%w: more than %d hashes at once", ErrTooLarge, most)
		}
		h, err := store.ParseHash(sc.Text())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(hs)+1, err)
		}
		hs = append(hs, h)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w: %w", len(hs)+1, replication.ErrFormat, err)
	}
	return hs, nil
}

// formatHashes is what parseHashes reads.
func formatHashes(hs []replication.Hash) []byte {
	b := make([]byte, 0, len(hs)*hashLine)
	for _, h := range hs {
		b = append(b, h.String()...)
		b = append(b, '\n')
	}
	return b
}

// parseState reads what a peer says of where it stands with service.
func parseState(b []byte, service string) (replication.State, error) {
	s, err := store.DecodeState(b)
	if err != nil {
		return replication.State{}, err
	}
	if s.Service != service {
		return replication.State{}, fmt.Errorf("%w: state is of %q, not of %q", replication.ErrFormat, s.Service, service)
	}
	if s.Head.Term > s.Term {
		return replication.State{}, fmt.Errorf("%w: state has generation %s beyond its term %d", replication.ErrFormat, s.Head, s.Term)
	}
	return s, nil
}
