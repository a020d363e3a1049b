package gossip

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/understudy-ha/understudy/agent/api"
)

// The first byte of a message says what it is.
const (
	kindState  = 'S' // deflated JSON of a stateMessage
	kindQuery  = 'Q' // JSON of a clockQuery
	kindAnswer = 'A' // JSON of a clockAnswer
)

// maxState bounds what a state may grow to when it is inflated: a peer's bytes
// must not be able to fill this node's memory.
const maxState = 8 << 20

// maxDatagram is the largest message sent as a datagram: below the usual
// MTU with memberlist's and the cipher's overhead.
const maxDatagram = 1200

// errVersion means that a message is of another version.
var errVersion = errors.New("another version")

// header is what every version's state message has.
type header struct {
	Version  int    `json:"version"`
	Node     string `json:"node"`
	Software string `json:"software"`
	// Addr is where the sender is a member: it tells a node from another that
	// was given its name by mistake.
	Addr string `json:"addr"`
}

// stateMessage is a node's own state, and what it knows of others.
type stateMessage struct {
	header
	State api.NodeStatus `json:"state"`
	// Known are the incarnations the sender knows, by node: see the package's doc.
	Known map[string]int64 `json:"known,omitempty"`
}

func encodeState(m stateMessage) ([]byte, error) {
	m.State = asSent(m.State)
	m.header = header{Version: m.State.Version, Node: m.State.Node, Software: m.State.Software, Addr: m.Addr}
	var b bytes.Buffer
	b.WriteByte(kindState)
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(w).Encode(m); err != nil {
		return nil, fmt.Errorf("encode the local state: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// asSent clears what only the reader of a state sets.
func asSent(s api.NodeStatus) api.NodeStatus {
	s.Alive, s.Self, s.SeenAgo, s.ClockOffset = false, false, 0, 0
	return s
}

// decodeState reads a state message without its kind byte: foreign bytes.
// Of another version it gives only the header, and errVersion.
func decodeState(b []byte) (stateMessage, error) {
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxState+1))
	if err != nil {
		return stateMessage{}, fmt.Errorf("inflate a state: %w", err)
	}
	if len(text) > maxState {
		return stateMessage{}, fmt.Errorf("a state is larger than %d bytes", maxState)
	}
	var h header
	if err := json.Unmarshal(text, &h); err != nil {
		return stateMessage{}, fmt.Errorf("read the head of a state: %w", err)
	}
	if h.Node == "" {
		return stateMessage{}, errors.New("a state does not say whose it is")
	}
	if h.Version != api.Version {
		return stateMessage{header: h}, errVersion
	}
	var m stateMessage
	if err := json.Unmarshal(text, &m); err != nil {
		return stateMessage{}, fmt.Errorf("read the state of %s: %w", h.Node, err)
	}
	if m.State.Node != h.Node || m.State.Version != h.Version {
		return stateMessage{}, fmt.Errorf("a message of %s carries the state of %q", h.Node, m.State.Node)
	}
	m.State = asSent(m.State)
	return m, nil
}

// clockQuery asks a peer for its clock.
type clockQuery struct {
	From string `json:"from"`
	To   string `json:"to"`
	ID   uint64 `json:"id"`
}

// clockAnswer says when the query came and when the answer left, on the
// answering node's clock, Unix ns.
type clockAnswer struct {
	From     string `json:"from"`
	To       string `json:"to"`
	ID       uint64 `json:"id"`
	Received int64  `json:"received"`
	Sent     int64  `json:"sent"`
}

func encodeClock(kind byte, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // strings and numbers always encode
		return nil
	}
	return append([]byte{kind}, b...)
}

// meta is what memberlist carries with a member: at most 512 bytes.
type meta struct {
	Version  int    `json:"v"`
	Software string `json:"s"`
}

func encodeMeta(software string, limit int) []byte {
	for {
		b, err := json.Marshal(meta{Version: api.Version, Software: software})
		if err == nil && len(b) <= limit {
			return b
		}
		if software == "" {
			return nil
		}
		software = software[:len(software)/2]
	}
}

// decodeMeta reads a member's meta data; false when it is none of ours.
func decodeMeta(b []byte) (meta, bool) {
	var m meta
	return m, json.Unmarshal(b, &m) == nil && m.Version != 0
}
