//go:build lab

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/agent/probe"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

const (
	registryURL = "http://" + stack.VIP + ":5000/v2/"
	ledgerURL   = "http://" + stack.VIP + ":8080"
)

// clientDial connects from the client machine.
func clientDial(c *lab.Client) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		var conn net.Conn
		err := inNamespace(c.NetNS(), func() (err error) {
			conn, err = d.DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
}

// inNamespace runs f in a network namespace: a socket stays in the one it was made in.
func inNamespace(path string, f func() error) error {
	target, err := os.Open(path)
	if err != nil {
		return err
	}
	defer target.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		panic("a thread of the tests is stuck in a lab's namespace: " + back.Error())
	}
	return err
}

// packetSocket hears every frame on the client's cable.
func packetSocket(t *testing.T, c *lab.Client) (socket net.PacketConn) {
	t.Helper()
	must(t, inNamespace(c.NetNS(), func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		socket, err = packet.Listen(eth0, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	}))
	return socket
}

// clientHTTP never keeps a connection: one to a dead node would hang without telling anything.
func clientHTTP(c *lab.Client) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: clientDial(c)}}
}

// ask sends one request from the client and returns the body of a 200.
func (c *cluster) ask(method, url string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(interrupted, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, b)
	}
	return string(b), err
}

// write is a number that the service has acknowledged.
type write struct {
	n  int
	at time.Time // when the client was told
}

// writer is a client that writes number after number.
type writer struct {
	stopping context.CancelFunc
	done     chan struct{}

	mu    sync.Mutex // guards acked
	acked []write
}

// writing starts a client that writes until it is stopped, at the latest with the test.
func (c *cluster) writing(t *testing.T) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(interrupted)
	w := &writer{stopping: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for ctx.Err() == nil {
			n := int(c.next.Add(1))
			if _, err := c.ask(http.MethodPost, fmt.Sprintf("%s/append?n=%d", ledgerURL, n), time.Second); err == nil {
				w.mu.Lock()
				w.acked = append(w.acked, write{n, time.Now()})
				w.mu.Unlock()
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { w.stop() })
	w.more(t, 20)
	return w
}

// soFar are the writes acknowledged by now.
func (w *writer) soFar() []write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acked)
}

// more waits until so many more writes are acknowledged: the service works.
func (w *writer) more(t *testing.T, n int) {
	t.Helper()
	before := len(w.soFar())
	eventually(t, 60*time.Second, "the service to take writes", func() error {
		if got := len(w.soFar()) - before; got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
}

// stop ends the client and returns all that was acknowledged.
func (w *writer) stop() []write {
	w.stopping()
	<-w.done
	return w.soFar()
}

// numbers are what the service has, asked through the address.
func (c *cluster) numbers(t *testing.T) map[int]bool {
	t.Helper()
	present := map[int]bool{}
	eventually(t, 30*time.Second, "the list of numbers", func() error {
		body, err := c.ask(http.MethodGet, ledgerURL+"/list", 5*time.Second)
		if err != nil {
			return err
		}
		list, err := probe.ParseNumbers([]byte(body))
		for _, n := range list {
			present[n] = true
		}
		return err
	})
	return present
}

// lost are the acknowledged writes that the service does not have.
func (c *cluster) lost(t *testing.T, acked []write) []write {
	t.Helper()
	present := c.numbers(t)
	var lost []write
	for _, w := range acked {
		if !present[w.n] {
			lost = append(lost, w)
		}
	}
	return lost
}

// lostIsTail fails the test unless what was lost is what was acknowledged last
// before the harm and after fresh: the survivor went on from one point in time.
func lostIsTail(t *testing.T, lost, acked []write, fresh, harm time.Time) {
	t.Helper()
	var before []write
	for _, w := range acked {
		if w.at.Before(harm) {
			before = append(before, w)
		}
	}
	if len(lost) > len(before) {
		t.Fatalf("%d writes are lost, but only %d were acknowledged before the harm", len(lost), len(before))
	}
	tail := before[len(before)-len(lost):]
	if !slices.Equal(tail, lost) {
		t.Errorf("what is lost is not what was written last: the survivor's data is of no one point in time\nlost         %s\nwritten last %s", extent(lost), extent(tail))
	}
	for _, w := range lost {
		if w.at.Before(fresh) {
			t.Errorf("write %d was acknowledged %v before the standby said that it has everything, and is lost", w.n, fresh.Sub(w.at))
		}
	}
}

// extent is a list of writes in short.
func extent(list []write) string {
	if len(list) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d: %d to %d", len(list), list[0].n, list[len(list)-1].n)
}

// measured runs do while a client asks for the registry every few milliseconds.
func (c *cluster) measured(t *testing.T, do func()) probe.Result {
	t.Helper()
	return c.measuredAt(t, registryURL, do)
}

func (c *cluster) measuredAt(t *testing.T, url string, do func()) probe.Result {
	t.Helper()
	target, err := probe.ParseTarget(url, probe.TargetOptions{Client: c.http})
	must(t, err)
	run, err := probe.Start(interrupted, probe.Options{Target: target, Every: 10 * time.Millisecond, Timeout: 5 * time.Second})
	must(t, err)
	defer func() { _, _ = run.Stop(context.WithoutCancel(interrupted)) }()
	pause(t, 300*time.Millisecond)
	do()
	pause(t, 300*time.Millisecond)
	res, err := run.Stop(limited(t, 20*time.Second))
	must(t, err)
	return res
}

// unbroken fails the test if a request failed.
func unbroken(t *testing.T, res probe.Result) {
	t.Helper()
	if res.OK == 0 || res.Failures > 0 {
		t.Errorf("the client saw %d of %d requests fail: %+v", res.Failures, res.Requests, res.Outages)
	}
}
