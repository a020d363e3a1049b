//go:build lab

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

const databaseAddr = "192.0.2.101:5432"

// testPostgres: a database that knows nothing of all this survives the loss of its
// node: it recovers from a generation as from a crash, and has every row that it
// had acknowledged before the generation. It is a second service beside the first.
func testPostgres(t *testing.T, c *cluster) {
	first := c.Node("n1")
	must(t, first.LoadImage(limited(t, 5*time.Minute), "postgres"))
	t.Cleanup(func() { removeDatabase(t, c) })
	c.sh(t, first, `podman volume create db-data >/dev/null
podman create --name db -v db-data:/var/lib/postgresql/data -p 5432:5432 localhost/postgres:1 >/dev/null
pcs resource create db ocf:understudy:service vip=192.0.2.101/24 containers=db \
    op monitor interval=10s role=Promoted op monitor interval=11s role=Unpromoted promotable`)
	was, now := databaseReady(t, c)
	sql(t, c, "CREATE TABLE numbers (n bigint PRIMARY KEY)")
	databaseReady(t, c)
	c.sync(t)
	rows := inserting(t, c)
	pause(t, 3*time.Second)
	sv, err := c.serviceCalled(now, "db")
	must(t, err)
	fresh := time.Unix(0, sv.FreshAt)
	must(t, was.PowerOff(limited(t, 30*time.Second)))
	harm := time.Now()
	eventually(t, 90*time.Second, "the database on "+now.Name(), func() error {
		_, err := query(c, "SELECT 1")
		return err
	})
	acked := rows.stop()
	present := map[string]bool{}
	for _, n := range strings.Fields(sql(t, c, "SELECT n FROM numbers")) {
		present[n] = true
	}
	var lost []write
	for _, w := range acked {
		if !present[fmt.Sprint(w.n)] {
			lost = append(lost, w)
		}
	}
	lostIsTail(t, lost, acked, fresh, harm)
	t.Logf("%d rows acknowledged, %d lost: the last %v", len(acked), len(lost), span(lost))
	databaseReady(t, c)
}

// databaseReady waits until a takeover of the database would succeed.
func databaseReady(t *testing.T, c *cluster) (active, standby *lab.Node) {
	t.Helper()
	eventually(t, 3*time.Minute, "the database to be ready for a takeover", func() error {
		active, standby = nil, nil
		for _, n := range c.Nodes() {
			sv, err := c.serviceCalled(n, "db")
			if err != nil {
				return err
			}
			if sv.Role == api.RoleActive {
				active = n
			} else {
				standby = n
			}
		}
		if active == nil || standby == nil {
			return errors.New("no node is active")
		}
		r, err := c.Agent(active).Ready(limited(t, 5*time.Second), "db")
		if err == nil && !r.Ready {
			err = errors.New(strings.Join(r.Blockers, "; "))
		}
		return err
	})
	return active, standby
}

func removeDatabase(t *testing.T, c *cluster) {
	if interrupted.Err() != nil {
		return
	}
	err := c.EachNode(func(n *lab.Node) error { return n.Boot(limited(t, 2*time.Minute)) })
	must(t, err)
	c.sh(t, c.Node("n1"), "pcs resource delete db --force >/dev/null 2>&1 || true")
	must(t, c.EachNode(func(n *lab.Node) error {
		_, err := n.Shell(limited(t, time.Minute), forget("db"))
		return err
	}))
}

// inserting writes row after row, each a transaction of its own.
func inserting(t *testing.T, c *cluster) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(interrupted)
	w := &writer{stopping: cancel, done: make(chan struct{})}
	var ended sync.WaitGroup
	ended.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			if _, err := query(c, fmt.Sprintf("INSERT INTO numbers VALUES (%d)", n)); err == nil {
				w.mu.Lock()
				w.acked = append(w.acked, write{n, time.Now()})
				w.mu.Unlock()
			}
		}
	})
	go func() { ended.Wait(); close(w.done) }()
	t.Cleanup(func() { w.stop() })
	w.more(t, 20)
	return w
}

// sql is query, insisting.
func sql(t *testing.T, c *cluster, text string) string {
	t.Helper()
	var out string
	eventually(t, 60*time.Second, text, func() (err error) {
		out, err = query(c, text)
		return err
	})
	return out
}

// query asks the database from the client machine: PostgreSQL's protocol 3.0, a
// simple query on a connection of its own. It returns the columns' text.
func query(c *cluster, text string) (string, error) {
	ctx, cancel := context.WithTimeout(interrupted, 2*time.Second)
	defer cancel()
	conn, err := clientDial(c.Client())(ctx, "tcp", databaseAddr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(d)
	}
	if err := send(conn, 0, "\x00\x03\x00\x00user\x00postgres\x00\x00"); err != nil {
		return "", err
	}
	if _, err := untilReady(conn); err != nil {
		return "", err
	}
	if err := send(conn, 'Q', text+"\x00"); err != nil {
		return "", err
	}
	return untilReady(conn)
}

func send(conn net.Conn, kind byte, body string) error {
	var b []byte
	if kind != 0 {
		b = append(b, kind)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)+4))
	_, err := conn.Write(append(b, body...))
	return err
}

// untilReady reads messages until the server waits for the next query.
func untilReady(conn net.Conn) (string, error) {
	var out strings.Builder
	var failed error
	for {
		var head [5]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return "", errors.Join(failed, err)
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(conn, body); err != nil {
			return "", err
		}
		switch head[0] {
		case 'Z':
			return out.String(), failed
		case 'E':
			failed = fmt.Errorf("the database says: %q", body)
		case 'D': // a row of one column: count, length, text
			if len(body) > 6 {
				out.Write(body[6:])
				out.WriteByte('\n')
			}
		}
	}
}
