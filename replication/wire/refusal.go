package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// What the wire itself can refuse, beside the errors of package replication.
var (
	// ErrNotAllowed: a verb or a path that the wire does not have.
	ErrNotAllowed = errors.New("not allowed")
	// ErrNoService: the peer keeps no store for the service.
	ErrNoService = errors.New("no such service")
	// ErrNoSpace: the receiver's disk is full, or at its floor.
	ErrNoSpace = replication.ErrNoSpace
	// ErrTooLarge: more bytes, lines or open files than the receiver takes.
	ErrTooLarge = errors.New("too large")
	// ErrBusy: another sender is writing the same file. Try again later.
	ErrBusy = errors.New("busy")
	// ErrOrder: a write that does not continue the file.
	ErrOrder = errors.New("out of order")
	// ErrDisconnected: the connection is gone; dial again.
	ErrDisconnected = errors.New("connection lost")
)

// codes pairs the word on the wire with the error on both ends. Codes are part
// of the protocol: they are never changed, only added to.
var codes = []struct {
	code string
	err  error
}{
	{"stale-term", replication.ErrStaleTerm},
	{"wrong-parent", replication.ErrWrongParent},
	{"bad-hash", replication.ErrBadHash},
	{"truncated", replication.ErrTruncated},
	{"missing-chunks", replication.ErrMissingChunks},
	{"bad-path", replication.ErrBadPath},
	{"bad-format", replication.ErrFormat},
	{"not-found", replication.ErrNotFound},
	{"not-allowed", ErrNotAllowed},
	{"no-service", ErrNoService},
	{"no-space", ErrNoSpace},
	{"too-large", ErrTooLarge},
	{"busy", ErrBusy},
	{"out-of-order", ErrOrder},
}

const codeFailed = "failed" // any other error on the receiver

// Refusal is the receiver's answer to something it did not do. errors.Is finds
// the error of package replication, or of this one, that its code stands for.
type Refusal struct {
	Peer string // who refused; empty on the receiver
	Op   string // what was asked, such as "commit 3.17"; empty on the receiver
	Code string // machine-readable
	Text string // the receiver's words
	kind error
}

// Error is one line.
func (r *Refusal) Error() string {
	if r.Peer == "" {
		return r.Code + ": " + r.Text
	}
	return fmt.Sprintf("%s refused %s: %s (%s)", r.Peer, r.Op, r.Text, r.Code)
}

// Unwrap is the error the code stands for, or nil.
func (r *Refusal) Unwrap() error { return r.kind }

// refuse makes the receiver's side of a refusal out of any error. The result
// carries text only: pkg/sftp would turn a wrapped errno into a bare status
// code, and the words would be lost on the way.
func refuse(err error) error {
	if err == nil {
		return nil
	}
	var r *Refusal
	if errors.As(err, &r) {
		return &plain{r.Error()}
	}
	code := codeFailed
	for _, c := range codes {
		if errors.Is(err, c.err) {
			code = c.code
			break
		}
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		code = "no-space"
	}
	return &plain{code + ": " + oneLine(err.Error())}
}

// plain is an error that is only its text.
type plain struct{ text string }

func (p *plain) Error() string { return p.text }

// oneLine keeps a message to one line of a log, whatever names it quotes.
func oneLine(s string) string {
	const most = 1000
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// remote reads an error that pkg/sftp's client returned for op.
func remote(peer, op string, err error) error {
	if err == nil {
		return nil
	}
	var st *sftp.StatusError
	if !errors.As(err, &st) {
		var line *net.OpError // closed or reset under our hands
		if errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
			errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) || errors.As(err, &line) {
			return fmt.Errorf("%s: %s: %w", peer, op, ErrDisconnected)
		}
		return fmt.Errorf("%s: %s: %w", peer, op, err)
	}
	r := &Refusal{Peer: peer, Op: op, Code: codeFailed, Text: statusText(st)}
	for _, c := range codes {
		if words, ok := strings.CutPrefix(r.Text, c.code+": "); ok {
			r.Code, r.Text, r.kind = c.code, words, c.err
			return r
		}
	}
	r.Text = strings.TrimPrefix(r.Text, codeFailed+": ")
	return r
}

// statusText digs the message out of a StatusError, which shows it only quoted.
func statusText(st *sftp.StatusError) string {
	s := strings.TrimPrefix(st.Error(), "sftp: ")
	if q, err := strconv.QuotedPrefix(s); err == nil {
		if u, err := strconv.Unquote(q); err == nil && u != "" {
			return oneLine(u)
		}
	}
	return oneLine(s)
}
