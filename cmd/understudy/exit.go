package main

import (
	"context"
	"errors"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/drill"
)

// Exit codes; scripts rely on them.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotReady    = 3
	exitUnavailable = 4
	exitRefused     = 5
	exitDown        = 6
	exitInterrupted = 130
)

const exitCodesText = `Exit codes: 0 done; 1 failed; 2 typed wrongly; 3 a failover would not succeed now; 4 the
agent does not answer; 5 refused or not confirmed, nothing was done; 6 the probe's target
was down at the end; 130 interrupted.`

// errSaid ends the program with the code beside it in the chain, when everything was said already.
var errSaid = errors.New("said already")

// usageError is an error of typing.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// codeError carries an exit code.
type codeError struct {
	error
	code int
}

func (c codeError) Unwrap() error { return c.error }

func withCode(code int, err error) error { return codeError{err, code} }

// exitCode is the one table from errors to exit codes.
func exitCode(ctx context.Context, err error) int {
	var code codeError
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return code.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, drill.ErrNotReady):
		return exitNotReady
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupted
	case api.KindOf(err) == api.KindUnavailable:
		return exitUnavailable
	case api.KindOf(err) == api.KindRefused:
		return exitRefused
	}
	return exitError
}

func errorText(err error) string {
	if errors.Is(err, context.Canceled) && err.Error() == context.Canceled.Error() {
		return "interrupted"
	}
	return err.Error()
}
