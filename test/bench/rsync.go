package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/understudy-ha/understudy/test/lab"
)

// ran is what onnode's run says of a program.
type ran struct {
	MS      float64 `json:"ms"`
	CPUMS   float64 `json:"cpu_ms"`
	PeakRSS int64   `json:"peak_rss"`
}

// relayed is where the relay of rtt-10ms listens on n1.
const relayed = "127.0.0.1:2222"

// copied is where a rival's copy of a tree is on n2.
func copied(who string) string { return place + "/copy-" + strings.ReplaceAll(who, " ", "") }

// forgetCopies removes what rivals made on n2.
func (s *site) forgetCopies(ctx context.Context) error {
	_, err := s.n2.Shell(ctx, "rm -rf "+place+"/copy-*")
	return err
}

// dropCopies is forgetCopies at the end of a work, also when it was interrupted.
func (s *site) dropCopies(ctx context.Context) {
	if err := s.forgetCopies(context.WithoutCancel(ctx)); err != nil {
		s.say("copies were not removed: %v", err)
	}
}

// rsync copies a tree from n1 to n2 as the options say. It is timed on n1, from its
// start to its end: what it has written on n2 is then in memory, as anybody who runs it has it.
func (s *site) rsync(ctx context.Context, tree, to string, options ...string) (ran, error) {
	return s.rsyncInput(ctx, "", tree, "n2:"+to+"/", options...)
}

// rsyncRelayed is the same through the relay.
func (s *site) rsyncRelayed(ctx context.Context, tree, to string, options ...string) (ran, error) {
	host, port, _ := strings.Cut(relayed, ":")
	return s.rsyncInput(ctx, "", tree, host+":"+to+"/", append(options, "-e", "ssh -o HostKeyAlias=n2 -p "+port)...)
}

func (s *site) rsyncInput(ctx context.Context, input, tree, to string, options ...string) (ran, error) {
	args := append([]string{tool, "run", "--", "rsync"}, options...)
	return s.timed(ctx, s.n1, input, append(args, tree+"/", to)...)
}

// same checks that a tree on n2 is what the one on n1 is, by rsync's own judgement: what
// is not right is not compared by its speed.
func (s *site) same(ctx context.Context, tree, at string, options ...string) error {
	args := append([]string{"rsync", "-ain", "--delete"}, options...)
	out, err := s.n1.Exec(ctx, append(args, tree+"/", "n2:"+at+"/")...)
	if err == nil && len(out) > 0 {
		lines := strings.SplitAfterN(string(out), "\n", 4)
		err = fmt.Errorf("%s on n2 is not what %s on n1 is: %s", at, tree, strings.Join(lines[:min(3, len(lines))], ""))
	}
	return err
}

// synced is how long it takes until what a rival has written on n2 is on its disk.
func (s *site) synced(ctx context.Context) (ran, error) {
	return s.timed(ctx, s.n2, "", tool, "run", "--", "sync", "--file-system", "/mnt/disk")
}

// timed runs the tool's run with an input for the program.
func (s *site) timed(ctx context.Context, n *lab.Node, input string, args ...string) (r ran, err error) {
	cmd := n.Command(ctx, args...)
	cmd.Stdin = strings.NewReader(input)
	return r, runJSON(cmd, &r)
}
