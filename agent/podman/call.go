package podman

import (
	"context"
	"errors"
	"net/http"
	"sync"
)

// callContext has the caller's deadline and cancellation, and the values that
// the bindings look for (client, server version) from the connection.
type callContext struct {
	context.Context
	values context.Context
}

func (c callContext) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.values.Value(key)
}

// attempt is the one request of a call. The bindings would try three times and
// sleep in between, even past the deadline; failed hears of the first failure at once.
type attempt struct {
	failed chan error
	once   sync.Once
}

type attemptKey struct{}

var errSentOnce = errors.New("a request is sent once only")

// singleShot lets one request of each attempt through.
type singleShot struct{ next http.RoundTripper }

func (t singleShot) RoundTrip(req *http.Request) (*http.Response, error) {
	a, _ := req.Context().Value(attemptKey{}).(*attempt)
	if a == nil {
		return t.next.RoundTrip(req)
	}
	first := false
	a.once.Do(func() { first = true })
	if !first {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, errSentOnce
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		a.failed <- err
	}
	return resp, err
}

type result[T any] struct {
	value T
	err   error
}

// call runs fn, which makes one request with the bindings, and returns when it
// has, when its request failed, or when ctx is done: whichever is first. In the
// last two cases fn may go on for the bindings' own 0.6 s of retries, in a
// goroutine that Close waits for; whatever it would still write to must not be
// the caller's (see gate).
func call[T any](ctx context.Context, c *Client, what string, fn func(ctx context.Context) (T, error)) (T, error) {
	var zero T
	ctx, cancel := c.bound(ctx)
	defer cancel()
	conn, err := c.connection(ctx)
	if err != nil {
		return zero, c.explain(ctx, what, err)
	}
	a := &attempt{failed: make(chan error, 1)}
	cctx := callContext{Context: context.WithValue(ctx, attemptKey{}, a), values: conn}
	v, err := detach(ctx, c, a, func() (T, error) { return fn(cctx) })
	if err != nil && responseCode(err) == 0 {
		c.forget(conn)
	}
	return v, c.explain(ctx, what, err)
}

// detach runs fn in a goroutine that the client owns and waits for it, for the
// attempt's failure or for ctx.
func detach[T any](ctx context.Context, c *Client, a *attempt, fn func() (T, error)) (T, error) {
	var zero T
	done := make(chan result[T], 1)
	if !c.spawn(func() { v, err := fn(); done <- result[T]{v, err} }) {
		return zero, ErrClosed
	}
	select {
	case r := <-done:
		return r.value, r.err
	case err := <-a.failed:
		return zero, err
	case <-ctx.Done():
		select {
		case r := <-done:
			return r.value, r.err
		default:
			return zero, ctx.Err()
		}
	}
}

// do is call for what returns nothing but an error.
func do(ctx context.Context, c *Client, what string, fn func(ctx context.Context) error) error {
	_, err := call(ctx, c, what, func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) })
	return err
}
