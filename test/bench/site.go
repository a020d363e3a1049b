package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

const (
	tool  = "/usr/local/bin/bench-node" // test/bench/onnode, on the nodes
	image = "localhost/bench:1"         // the same program, as a container's
	place = "/mnt/disk/bench"           // on the nodes' disks: what is no service's
	store = "/var/lib/understudy"       // the agents' store
)

// site is the lab on one file system. n1 is always where data is written.
type site struct {
	*stack.Stack
	bench   *bench
	fs      string
	n1, n2  *lab.Node
	current service // the one there is; zero: none
	files   int     // in its volume, of those that grow makes
	turn    uint64  // counts seeds

	working  string // the id at work
	profiles int    // made so far
}

// newSite makes the lab and puts the tool on its nodes.
func (b *bench) newSite(ctx context.Context, fs string) (s *site, err error) {
	// Room for the largest tree several times over, and inodes for three million files on ext4; sparse.
	st, err := stack.Up(ctx, stack.Options{Name: b.name, FS: fs, DiskSize: 48 << 30, Token: token, Out: b})
	if err != nil {
		return nil, err
	}
	s = &site{Stack: st, bench: b, fs: fs, n1: st.Node("n1"), n2: st.Node("n2")}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.down(ctx))
		}
	}()
	if err := s.TrustSSH(ctx); err != nil {
		return nil, err
	}
	bin, err := filepath.Abs("build/bench-node")
	if err != nil {
		return nil, err
	}
	err = s.EachNode(func(n *lab.Node) error {
		if err := n.CopyIn(ctx, bin, tool, 0o755); err != nil {
			return err
		}
		_, err := n.Exec(ctx, "mkdir", "-p", place)
		return err
	})
	if err != nil {
		return nil, err
	}
	_, err = s.n1.Shell(ctx, fmt.Sprintf(`tar -C /usr/local/bin -c bench-node | podman import -q --change 'ENTRYPOINT ["/bench-node"]' - %s >/dev/null`, image))
	if err != nil {
		return nil, err
	}
	return s, s.Settle(ctx)
}

// down collects the nodes' logs if the run was not merely interrupted, and takes the lab down.
func (s *site) down(ctx context.Context) error {
	interrupted := ctx.Err() != nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	if !interrupted {
		if err := s.CollectLogs(ctx, filepath.Join(s.bench.out, "logs-"+s.fs)); err != nil {
			s.say("not all logs were collected: %v", err)
		}
	}
	s.say("taking the lab down")
	return s.Down(ctx)
}

func (s *site) say(format string, args ...any) { s.bench.say(format, args...) }

// seed is a new one for each call, the same for each run with the same SEED and works.
func (s *site) seed() string {
	s.turn++
	return strconv.FormatUint(s.bench.seed<<16+s.turn, 10)
}

// tool runs a verb of the tool on a node and decodes what it prints; out may be nil.
func (s *site) tool(ctx context.Context, n *lab.Node, out any, args ...string) error {
	b, err := n.Exec(ctx, append([]string{tool}, args...)...)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// token is Corosync's: the nodes share processors and disk, and neither is to be fenced for being busy.
const token = 3 * time.Second

// rest lets both disks come to rest, so that nobody pays for what was written before.
func (s *site) rest(ctx context.Context) error {
	return s.EachNode(func(n *lab.Node) error { return n.Sync(ctx) })
}

// trim gives what was deleted on the nodes' disks back to the machine.
func (s *site) trim(ctx context.Context) error {
	return s.EachNode(func(n *lab.Node) error {
		_, err := n.Exec(ctx, "fstrim", "/mnt/disk")
		return err
	})
}

// until asks until there is no error; the last one is the error after so long.
func until(ctx context.Context, limit time.Duration, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w", what, errors.Join(err, ctx.Err()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// sent is how many bytes have left a node so far.
func sent(n *lab.Node) (int64, error) {
	return readNumber(n.HostPath("/sys/class/net/eth0/statistics/tx_bytes"))
}

func readNumber(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}
