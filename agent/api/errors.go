package api

import (
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is; package ocf has the one table
// from kinds to OCF exit codes.
type Kind string

// The kinds.
const (
	KindGeneric      Kind = "generic"       // may work when tried again
	KindArgs         Kind = "args"          // a parameter is wrong on this node
	KindConfigured   Kind = "configured"    // a parameter is wrong on every node: stops the resource in the whole cluster
	KindInstalled    Kind = "installed"     // something this node lacks: an image, a program
	KindPermission   Kind = "permission"    // something this node may not do
	KindNotRunning   Kind = "not-running"   // cleanly stopped
	KindRefused      Kind = "refused"       // it would break an invariant: the promotion of a stale replica, say
	KindBusy         Kind = "busy"          // another promote or demote of the service is under way
	KindDeadline     Kind = "deadline"      // not done by the request's deadline
	KindUnavailable  Kind = "unavailable"   // the agent's socket does not answer
	KindNotFound     Kind = "not-found"     // no such service here
	KindIncompatible Kind = "incompatible"  // versions do not go together
	KindFailedActive Kind = "failed-active" // active and broken
)

// Error is an error an operator can act on: what happened, to what, and what to do next.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`        // what happened, to what
	Next    string `json:"next,omitempty"` // what to do about it
}

// Error is one line: message, then what to do.
func (e *Error) Error() string {
	if e.Next == "" {
		return e.Message
	}
	return e.Message + "; " + e.Next
}

// Errorf makes an Error; next may be empty.
func Errorf(kind Kind, next, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Errorf(format, args...).Error(), Next: next}
}

// KindOf finds the kind in an error's chain; KindGeneric where there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindGeneric
}
