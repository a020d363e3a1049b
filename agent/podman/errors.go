package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/containers/podman/v5/pkg/bindings"
	"github.com/containers/podman/v5/pkg/errorhandling"

	"github.com/understudy-ha/understudy/agent/api"
)

// Sentinels for errors.Is; the errors that carry them also carry an *api.Error.
var (
	ErrNotFound    = errors.New("not found in Podman")
	ErrUnreachable = errors.New("the Podman socket does not answer") // nobody listens
	ErrHung        = errors.New("no answer from Podman in time")     // connected, no answer by the deadline
	ErrTooOld      = errors.New("this Podman is too old")
	ErrRunning     = errors.New("the container is running")
	ErrForeign     = errors.New("not made by or for Understudy")
	ErrNoAddress   = errors.New("a published address is not on this node")
	ErrClosed      = errors.New("the Podman client is closed")
	// ErrDamaged: Podman knows the container or image, but its layer is gone from the storage,
	// as after a power cut (Podman #8005). Realise makes a container again; DropDamaged is for images.
	ErrDamaged = errors.New("its layer is damaged")
)

// opError is an *api.Error with the cause that errors.Is can find.
type opError struct {
	op    *api.Error
	cause error
}

func (e *opError) Error() string   { return e.op.Error() }
func (e *opError) Unwrap() []error { return []error{e.op, e.cause} }

func fail(cause error, kind api.Kind, next, format string, args ...any) error {
	return &opError{op: api.Errorf(kind, next, format, args...), cause: cause}
}

// explain turns what the bindings return for a call into an error an operator can act on.
// what is the call in words: "inspect container registry".
func (c *Client) explain(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	var own *opError
	if errors.As(err, &own) {
		return err
	}
	if ctx.Err() != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
		return fail(errors.Join(ErrHung, ctx.Err()), api.KindDeadline,
			"look at `systemctl status podman.service` and the node's I/O load",
			"%s: Podman did not answer in time", what)
	}
	if responseCode(err) == http.StatusNotFound {
		return fail(errors.Join(ErrNotFound, err), api.KindNotFound, "", "%s: %s", what, message(err))
	}
	if damaged(err) {
		return fail(errors.Join(ErrDamaged, err), api.KindInstalled, "it is made anew on a standby; else remove it (podman rm -f, podman rmi -f) and make it anew", "%s: %s", what, message(err))
	}
	if responseCode(err) > 0 {
		return fail(err, api.KindGeneric, "", "%s: Podman refused: %s", what, message(err))
	}
	return fail(err, api.KindGeneric, "look at `journalctl -u podman.service`", "%s: %s", what, message(err))
}

// damaged recognises what Podman says of a container or image without its layer.
func damaged(err error) bool {
	text := err.Error()
	return strings.Contains(text, "getting graph driver info") || strings.Contains(text, "layer not known") ||
		strings.Contains(text, "/overlay/") && strings.Contains(text, "no such file or directory")
}

// responseCode is Podman's HTTP status in err's chain, 0 where there is none.
func responseCode(err error) int {
	var model *errorhandling.ErrorModel
	if errors.As(err, &model) {
		return model.Code()
	}
	if code, cerr := bindings.CheckResponseCode(err); cerr == nil {
		return code
	}
	return 0
}

// message is the innermost useful line of a binding's error.
func message(err error) string {
	s := strings.TrimSpace(err.Error())
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		s = s[:i]
	}
	return s
}

func unreachable(socket string, err error) error {
	return fail(errors.Join(ErrUnreachable, err), api.KindGeneric,
		"start it with `systemctl enable --now podman.socket`, or set the agent's podman socket to the right path",
		"Podman's socket %s does not answer: %s", socket, message(err))
}

// ignoreNotFound is nil for what is not there.
func ignoreNotFound(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
