package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/agent/drill"
	"github.com/understudy-ha/understudy/test/lab"
)

func init() {
	register(work{
		id: "freeze", what: "how long a container stands still while 100 MB that changed in 1,000 files are captured, seen from inside of it",
		on: both, full: shape{size: 1000, pairs: 30}, small: shape{size: 1000, pairs: 5}, grows: "files", run: freeze,
	})
}

// freeze counts what the container's own clock missed. The rival is Podman's pause
// and unpause of a container of the same kind, one right after the other. Each file has
// so many bytes that a thousand have 100 MB.
func freeze(ctx context.Context, s *site, sh shape) (*row, error) {
	files := fmt.Sprint(2 * sh.size)
	v := service{name: sized("still", sh), args: "tick -to /gaps", interval: "1h"}
	v.fill = func(ctx context.Context, dir string) error {
		return s.tool(ctx, s.n1, nil, "files", "-dir", dir, "-to", files, "-seed", s.seed())
	}
	if err := s.serve(ctx, v); err != nil {
		return nil, err
	}
	const rival = "paused"
	if _, err := s.n1.Exec(ctx, "podman", "run", "-d", "--name", rival, image, "tick", "-to", "/gaps"); err != nil {
		return nil, err
	}
	defer func() { _, _ = s.n1.Exec(context.WithoutCancel(ctx), "podman", "rm", "-f", "-t", "0", rival) }()
	// All files once at their size, so that each round changes as much as the next.
	size := fmt.Sprint(100_000_000 / 1000)
	if err := s.tool(ctx, s.n1, nil, "change", "-dir", v.dir(), "-of", files, "-count", files, "-bytes", size, "-seed", s.seed()); err != nil {
		return nil, err
	}
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	dropped := 0
	ours := func(int) (float64, error) {
		if err := s.rest(ctx); err != nil {
			return 0, err
		}
		err := s.tool(ctx, s.n1, nil, "change", "-dir", v.dir(), "-of", files, "-count", fmt.Sprint(sh.size), "-bytes", size, "-seed", s.seed())
		if err != nil {
			return 0, err
		}
		began := time.Now()
		_, drops, err := s.cycle(ctx)
		dropped += drops
		if err != nil {
			return 0, err
		}
		gap, err := s.longestGap(ctx, v.name, began)
		if err != nil {
			return 0, err
		}
		return gap, s.applied(ctx, "")
	}
	theirs := func(int) (float64, error) {
		began := time.Now()
		url := "http://d/v5.0.0/libpod/containers/" + rival
		_, err := s.n1.Exec(ctx, "curl", "-sf", "--unix-socket", "/run/podman/podman.sock", "-X", "POST", url+"/pause",
			"--next", "-sf", "--unix-socket", "/run/podman/podman.sock", "-X", "POST", url+"/unpause")
		if err != nil {
			return 0, err
		}
		return s.longestGap(ctx, rival, began)
	}
	us, them, err := s.inTurns(sh.pairs, ours, theirs)
	if err != nil {
		return nil, err
	}
	f := versus("ms", us, "podman pause + unpause", them)
	if s.fs == "xfs" {
		f = f.atMost(60+drill.Median(them), percentile(99), "p99 ≤ 60 ms beyond podman's")
	} else {
		f = f.atMost(500, most, "always ≤ 500 ms (freeze-max)")
	}
	r := newRow(f)
	st, err := s.status(ctx, s.n1)
	r.note("p99 %.1f ms; the agent's own figures: p50 %s, p99 %s, most %s", percentile(99)(us), st.FreezeP50, st.FreezeP99, st.FreezeMax)
	if dropped > 0 {
		r.note("%d captures were dropped because the freeze had reached its bound, and tried again; what the container saw of those counts", dropped)
	}
	return r, err
}

// longestGap is how long the container stood still at most since then, ms. Nothing
// above two milliseconds is nothing.
func (s *site) longestGap(ctx context.Context, container string, since time.Time) (float64, error) {
	b, err := s.inside(ctx, s.n1, container, "/gaps")
	if err != nil {
		return 0, err
	}
	var longest float64
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		var g struct{ From, To int64 }
		if err := json.Unmarshal(sc.Bytes(), &g); err != nil {
			return 0, err
		}
		if g.To > since.UnixNano() {
			longest = max(longest, float64(g.To-g.From)/1e6)
		}
	}
	return longest, nil
}

// inside reads a file of a running container's own file system.
func (s *site) inside(ctx context.Context, n *lab.Node, container, path string) ([]byte, error) {
	out, err := n.Shell(ctx, fmt.Sprintf("cat /proc/$(podman inspect --format '{{.State.Pid}}' %s)/root%s", container, path))
	return []byte(out), err
}
