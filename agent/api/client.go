package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// DeadlineHeader carries a request's deadline as Unix milliseconds. Client and
// server share a clock: the socket is local.
const DeadlineHeader = "Understudy-Deadline"

// Action names of the resource agent, as they appear in request paths.
const (
	ActionStart    = "start"
	ActionStop     = "stop"
	ActionMonitor  = "monitor"
	ActionPromote  = "promote"
	ActionDemote   = "demote"
	ActionValidate = "validate"
	ActionReload   = "reload"
)

// Client talks to the agent on this node. It keeps no connection: each call is
// one request, so that a restarted agent is found at once.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client for the agent's socket; "" means [DefaultSocket].
func NewClient(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Do asks for an action of the resource agent. The context's deadline is passed on.
func (c *Client) Do(ctx context.Context, service, action string, req ActionRequest) (ActionResult, error) {
	var res ActionResult
	err := c.call(ctx, http.MethodPost, servicePath(service, action), req, &res)
	return res, err
}

// Status is what this node knows of itself and its peers.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var res Status
	err := c.call(ctx, http.MethodGet, "/v1/status", nil, &res)
	return res, err
}

// Ready says whether a takeover of the service would succeed now.
func (c *Client) Ready(ctx context.Context, service string) (Readiness, error) {
	var res Readiness
	err := c.call(ctx, http.MethodGet, servicePath(service, "ready"), nil, &res)
	return res, err
}

// ReplicateResult says where a replication cycle asked for by an operator ended.
type ReplicateResult struct {
	Generation string   `json:"generation"` // committed on every reachable standby
	Took       Duration `json:"took"`
}

// Replicate runs a capture and ship cycle now and waits for the commit.
func (c *Client) Replicate(ctx context.Context, service string) (ReplicateResult, error) {
	var res ReplicateResult
	err := c.call(ctx, http.MethodPost, servicePath(service, "replicate"), struct{}{}, &res)
	return res, err
}

// Restore takes the service back to a generation in place, or arms that; "": what is
// armed is forgotten. It returns when it is done, which may take minutes.
func (c *Client) Restore(ctx context.Context, service, generation string) (RestoreResult, error) {
	var res RestoreResult
	err := c.call(ctx, http.MethodPost, servicePath(service, "restore"), RestoreRequest{Generation: generation}, &res)
	return res, err
}

// Scrub asks how the verification of a service stands, and for more.
func (c *Client) Scrub(ctx context.Context, service string, req ScrubRequest) (ScrubStatus, error) {
	var res ScrubStatus
	err := c.call(ctx, http.MethodPost, servicePath(service, "scrub"), req, &res)
	return res, err
}

// VersionInfo is the answer of GET /v1/version.
type VersionInfo struct {
	API      int    `json:"api"`
	Software string `json:"software"`
	Node     string `json:"node"`
}

// Version asks the running agent what it is.
func (c *Client) Version(ctx context.Context) (VersionInfo, error) {
	var res VersionInfo
	err := c.call(ctx, http.MethodGet, "/v1/version", nil, &res)
	return res, err
}

// Metrics is the node's figures in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	resp, err := c.send(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, c.transportError(ctx, fmt.Errorf("reading the agent's answer: %w", err))
	}
	return b, nil
}

// LogQuery selects entries of the decision journal. Zero fields select all.
type LogQuery struct {
	Service string
	Since   time.Time
	Limit   int // the newest so many
}

func (q LogQuery) values() url.Values {
	v := url.Values{}
	if q.Service != "" {
		v.Set("service", q.Service)
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// Log reads the decision journal, oldest first.
func (c *Client) Log(ctx context.Context, q LogQuery) ([]Decision, error) {
	var res []Decision
	err := c.call(ctx, http.MethodGet, "/v1/log?"+q.values().Encode(), nil, &res)
	return res, err
}

// FollowLog calls each for every entry that q selects and then for every new
// one, until the context ends or each returns an error, which it returns.
func (c *Client) FollowLog(ctx context.Context, q LogQuery, each func(Decision) error) error {
	v := q.values()
	v.Set("follow", "1")
	resp, err := c.send(ctx, http.MethodGet, "/v1/log?"+v.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var d Decision
		if err := dec.Decode(&d); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("reading the agent's log stream: %w", err)
		}
		if err := each(d); err != nil {
			return err
		}
	}
}

func servicePath(service, what string) string {
	return "/v1/services/" + url.PathEscape(service) + "/" + what
}

// call sends one request and decodes its answer; a refusal comes back as *Error.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return c.transportError(ctx, fmt.Errorf("reading the agent's answer: %w", err))
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://understudy"+path, body)
	if err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); ok {
		req.Header.Set(DeadlineHeader, strconv.FormatInt(d.UnixMilli(), 10))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var e Error
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Message == "" {
		return nil, Errorf(KindGeneric, "see journalctl -u understudy", "the agent answered %s to %s %s", resp.Status, method, path)
	}
	return nil, &e
}

// transportError tells an agent that is not there from one that did not answer in time.
func (c *Client) transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return Errorf(KindDeadline, "see understudy log and journalctl -u understudy", "the agent on %s did not answer in time", c.socket)
	}
	return Errorf(KindUnavailable, "start it with: systemctl start understudy", "the agent does not answer on %s: %v", c.socket, unwrapURL(err))
}

// unwrapURL drops net/http's prefix, which names a URL that no operator ever typed.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
