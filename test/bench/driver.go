package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"

	"github.com/understudy-ha/understudy/test/lab"
)

// cycled is what onnode's driver says of a cycle or an apply.
type cycled struct {
	MS         float64 `json:"ms"`
	SealMS     float64 `json:"seal_ms"`
	DialMS     float64 `json:"dial_ms"`
	ShipMS     float64 `json:"ship_ms"`
	CPUMS      float64 `json:"cpu_ms"`
	Generation string  `json:"generation"`
	Changed    int     `json:"changed"`
	Read       int64   `json:"read"`
	Sent       int64   `json:"sent"`
	FreezeMS   float64 `json:"freeze_ms"`
	Retries    int     `json:"retries"`
	Error      string  `json:"error"`
}

// driver is one of onnode's, running on a node.
type driver struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func startDriver(ctx context.Context, n *lab.Node, args ...string) (*driver, error) {
	cmd := n.Command(ctx, append([]string{tool, "engine"}, args...)...)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Err); err != nil {
		return nil, err
	}
	return &driver{cmd: cmd, in: in, out: json.NewDecoder(out)}, cmd.Start()
}

func (d *driver) do(format string, args ...any) (r cycled, err error) {
	if _, err := fmt.Fprintf(d.in, format+"\n", args...); err != nil {
		return r, fmt.Errorf("the driver is gone: %w", err)
	}
	if err := d.out.Decode(&r); err != nil {
		return r, fmt.Errorf("the driver gave no answer: %w", err)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

func (d *driver) close() error {
	if d == nil {
		return nil
	}
	return errors.Join(d.in.Close(), d.cmd.Wait())
}

// direct is a service without containers: a tree on n1, a store on both nodes, a
// live tree on n2, driven by onnode's driver on each.
type direct struct {
	site   *site
	n1, n2 *driver
}

// live is where direct's tree is applied on n2.
const live = place + "/live/_data"

// direct begins a service from nothing: what an earlier one left is removed.
func (s *site) direct(ctx context.Context, tree, via string) (d *direct, err error) {
	if err := s.forgetDirect(ctx); err != nil {
		return nil, err
	}
	d = &direct{site: s}
	// The standby's first: its store must be there before anybody sends.
	if d.n2, err = startDriver(ctx, s.n2, "-tree", live); err == nil {
		d.n1, err = startDriver(ctx, s.n1, "-root", place+"/store", "-tree", tree, "-via", via)
	}
	if err == nil {
		_, err = d.n2.do("stop") // answers when it has its store
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// forgetDirect removes both stores and the standby's tree.
func (s *site) forgetDirect(ctx context.Context) error {
	return s.EachNode(func(n *lab.Node) error {
		_, err := n.Exec(ctx, "rm", "-rf", place+"/store", path.Dir(live), store+"/services/bench", store+"/live/bench")
		return err
	})
}

func (d *direct) close() error { return errors.Join(d.n1.close(), d.n2.close()) }

// cycle seals the tree on n1 and commits it on n2.
func (d *direct) cycle(ctx context.Context) (cycled, error) {
	return d.site.profiled(ctx, d.site.n1, d.n1, "cycle")
}

// apply brings the live tree on n2 to what was committed.
func (d *direct) apply(ctx context.Context) (cycled, error) {
	return d.site.profiled(ctx, d.site.n2, d.n2, "apply")
}

// profiled has a driver do something and, if that is asked for, keeps a profile of it.
func (s *site) profiled(ctx context.Context, n *lab.Node, d *driver, what string) (r cycled, err error) {
	if !s.bench.profile {
		return d.do("%s", what)
	}
	const file = place + "/profile"
	if _, err := d.do("profile %s", file); err != nil {
		return r, err
	}
	r, err = d.do("%s", what)
	_, stopped := d.do("stop")
	if err := errors.Join(err, stopped); err != nil {
		return r, err
	}
	dir := path.Join(s.bench.out, "profiles")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return r, err
	}
	s.profiles++
	return r, n.CopyOut(ctx, file, fmt.Sprintf("%s/%s-%s-%02d-%s.pprof", dir, s.working, s.fs, s.profiles, what))
}

// runJSON runs a command and decodes what it prints; what it says goes into the error.
func runJSON(cmd *exec.Cmd, out any) error {
	var said strings.Builder
	cmd.Stderr = &said
	b, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(said.String()))
	}
	return json.Unmarshal(b, out)
}
