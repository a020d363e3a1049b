package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Target is what a probe asks. Once sends one request on a new connection and
// returns nil if the service answered as it should. It honours its context, and
// is called from many goroutines at once.
type Target interface {
	Once(ctx context.Context) error
	String() string
}

// TargetOptions say what counts as an answer of an HTTP service.
type TargetOptions struct {
	Expect   int          // the status code that is a success; 0: any 2xx or 3xx
	Insecure bool         // accept any TLS certificate
	Header   http.Header  // sent with every request
	Client   *http.Client // for tests; nil: one that never reuses a connection
}

// ParseTarget reads a target's URL: http://…, https://…, tcp://host:port (a connection
// is an answer), or addr://address (the host answers, if only by refusing a connection).
func ParseTarget(raw string, o TargetOptions) (Target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("the probe's target %q is not a URL: %w", raw, err)
	}
	switch {
	case u.Host == "":
		return nil, fmt.Errorf("the probe's target %q names no host; write http://host/path, https://host/path or tcp://host:port", raw)
	case u.Scheme == "http" || u.Scheme == "https":
		return &httpTarget{url: raw, opt: o, client: o.client()}, nil
	case u.Scheme == "tcp":
		if u.Port() == "" {
			return nil, fmt.Errorf("the probe's target %q names no port; write tcp://host:port", raw)
		}
		return &tcpTarget{addr: u.Host}, nil
	case u.Scheme == "addr":
		host := u.Hostname()
		return &tcpTarget{addr: net.JoinHostPort(host, "9"), refusedIsAnswer: true}, nil
	}
	return nil, fmt.Errorf("the probe cannot speak %q; write http://, https:// or tcp://host:port, or use a command", u.Scheme)
}

// client never keeps a connection: one to a dead node would hang without telling anything.
func (o TargetOptions) client() *http.Client {
	if o.Client != nil {
		return o.Client
	}
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			Proxy:             nil,
			DialContext:       (&net.Dialer{KeepAlive: -1}).DialContext,
			TLSClientConfig:   tlsConfig(o.Insecure),
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type httpTarget struct {
	url    string
	opt    TargetOptions
	client *http.Client
}

func (t *httpTarget) String() string { return t.url }

func (t *httpTarget) Once(ctx context.Context) error {
	return httpOnce(ctx, t.client, http.MethodGet, t.url, nil, t.opt)
}

// maxBody is how much of an answer is read: an answer that ends too soon is a failure.
const maxBody = 1 << 20

func httpOnce(ctx context.Context, c *http.Client, method, target string, body io.Reader, o TargetOptions) error {
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	for k, v := range o.Header {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		return shorten(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return fmt.Errorf("the answer broke off: %w", shorten(err))
	}
	good := resp.StatusCode >= 200 && resp.StatusCode < 400
	if o.Expect != 0 {
		good = resp.StatusCode == o.Expect
	}
	if !good {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}

type tcpTarget struct {
	addr            string
	refusedIsAnswer bool
}

func (t *tcpTarget) String() string {
	if t.refusedIsAnswer {
		host, _, _ := net.SplitHostPort(t.addr)
		return "addr://" + host
	}
	return "tcp://" + t.addr
}

func (t *tcpTarget) Once(ctx context.Context) error {
	conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", t.addr)
	if t.refusedIsAnswer && errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return shorten(err)
	}
	return conn.Close()
}

// CommandTarget runs a shell command; exit code 0 is an answer.
func CommandTarget(command string) Target { return commandTarget(command) }

type commandTarget string

func (t commandTarget) String() string { return "command: " + string(t) }

func (t commandTarget) Once(ctx context.Context) error {
	_, err := runShell(ctx, string(t))
	return err
}

// runShell kills the command's whole process group at the context's end: a hung
// grandchild would keep the pipe, and with it the probe, open.
func runShell(ctx context.Context, command string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 200 * time.Millisecond
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); line != "" {
			return out, fmt.Errorf("%w: %s", err, line)
		}
		return out, err
	}
	return out, nil
}

// shorten drops net/http's and net's prefixes, which repeat the target.
func shorten(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	var op *net.OpError
	if errors.As(err, &op) {
		if op.Timeout() {
			return errors.New("no answer in time")
		}
		return op.Err
	}
	return err
}
