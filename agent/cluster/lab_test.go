//go:build lab

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

// onNode runs commands on a node of the lab.
type onNode struct{ node *lab.Node }

func (r onNode) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, err := r.node.Exec(ctx, append([]string{name}, args...)...)
	var failed *lab.CommandError
	if errors.As(err, &failed) && failed.ExitCode() > 0 {
		return nil, &ExitError{Command: name, Code: failed.ExitCode(), Stderr: failed.Error()}
	}
	return out, err
}

// TestInLab meets a real Pacemaker on two nodes.
//
//	go test -tags lab -run TestInLab ./agent/cluster
func TestInLab(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	l, err := lab.Up(ctx, lab.Options{Name: "clu", Cluster: true, Out: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	n1, n2 := l.Node("n1"), l.Node("n2")
	a, b := New(Options{Node: "n1", Runner: onNode{n1}}), New(Options{Node: "n2", Runner: onNode{n2}})

	t.Run("terms", func(t *testing.T) { reserveInLab(ctx, t, a, b) })
	t.Run("status", func(t *testing.T) { statusInLab(ctx, t, l, a, b) })
	t.Run("scores", func(t *testing.T) { scoresInLab(ctx, t, a, b) })
	t.Run("down", func(t *testing.T) { // last: it takes Pacemaker away
		if _, err := n2.Exec(ctx, "pcs", "cluster", "stop"); err != nil {
			t.Fatal(err)
		}
		_, err1 := b.Terms(ctx, "web")
		_, err2 := b.Status(ctx)
		err3 := b.SetScore(ctx, "web", 1)
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, ErrDown) || api.KindOf(err) != api.KindUnavailable {
				t.Errorf("%v", err)
			}
		}
	})
}

// Two nodes reserve at the same moments, again and again: no two terms are
// equal, and each node's rise.
func reserveInLab(ctx context.Context, t *testing.T, clusters ...*Cluster) {
	const rounds = 50
	const service = "my_svc"
	var mu sync.Mutex
	owners := map[uint64]string{}
	var took []time.Duration
	for round := range rounds {
		start := make(chan struct{})
		var wg sync.WaitGroup
		for _, c := range clusters {
			wg.Go(func() {
				<-start
				began := time.Now()
				term, err := c.Reserve(ctx, service, 0)
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(began))
				if err != nil {
					t.Errorf("round %d, %s: %v", round, c.opts.Node, err)
					return
				}
				if o, ok := owners[term]; ok {
					t.Errorf("round %d: term %d is both %s's and %s's", round, term, o, c.opts.Node)
				}
				owners[term] = c.opts.Node
			})
		}
		close(start)
		wg.Wait()
	}
	slices.Sort(took)
	t.Logf("two at once, %d reservations: median %v, longest %v", len(took), took[len(took)/2], took[len(took)-1])

	began := time.Now()
	term, err := clusters[0].Reserve(ctx, service, 0)
	if err != nil {
		t.Fatal(err)
	}
	alone := time.Since(began)
	began = time.Now()
	if err := clusters[0].Check(ctx, service, term); err != nil {
		t.Error(err)
	}
	t.Logf("alone: reserve %v, check %v", alone, time.Since(began))
	if _, err := clusters[1].Reserve(ctx, service, 0); err != nil {
		t.Fatal(err)
	}
	if err := clusters[0].Check(ctx, service, term); !errors.Is(err, ErrOvertaken) {
		t.Errorf("overtaken: %v", err)
	}
}

// statusInLab has a stand-in for the resource agent: Pacemaker's own Stateful,
// without the scores that it writes itself. With them a demoted instance gave
// itself one and was promoted again at once.
func statusInLab(ctx context.Context, t *testing.T, l *lab.Lab, a, b *Cluster) {
	for _, n := range l.Nodes() {
		const dir = "/usr/lib/ocf/resource.d/"
		if out, err := n.Shell(ctx, "mkdir -p "+dir+"understudy && cp "+dir+"pacemaker/Stateful "+dir+"understudy/service && "+
			`sed -i 's/^\( *\).*crm_attribute" --promotion.*/\1:/' `+dir+"understudy/service && ! grep crm_attribute "+dir+"understudy/service"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if err := a.SetScore(ctx, "web", 1); err != nil {
		t.Fatal(err)
	}
	if out, err := l.Node("n1").Exec(ctx, "pcs", "resource", "create", "web", Agent, "op", "monitor", "interval=10s", "role=Promoted",
		"op", "monitor", "interval=11s", "role=Unpromoted", "promotable"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var promoted string
	eventually(ctx, t, "somebody is promoted", func() error {
		var err error
		if promoted, err = a.Promoted(ctx, "web"); err == nil && promoted == "" {
			err = errors.New("nobody is")
		}
		return err
	})
	if other, err := b.Promoted(ctx, "web"); other != promoted || err != nil {
		t.Errorf("n1 says %s, n2 says %s, %v", promoted, other, err)
	}
	if s, err := a.Status(ctx); err != nil || !s.Quorum || len(s.Nodes) != 2 || s.DC == "" {
		t.Errorf("%+v, %v", s, err)
	}
}

// The scheduler follows the scores: that is what their attribute's name is worth.
func scoresInLab(ctx context.Context, t *testing.T, a, b *Cluster) {
	now, err := a.Promoted(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	from, to := a, b
	if now == "n2" {
		from, to = b, a
	}
	if err := errors.Join(to.SetScore(ctx, "web", 1000), from.SetScore(ctx, "web", 1)); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the better one is promoted", func() error {
		return promotedIs(ctx, a, to.opts.Node)
	})
	if err := errors.Join(to.ClearScore(ctx, "web"), from.ClearScore(ctx, "web")); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "without scores nobody is promoted", func() error {
		return promotedIs(ctx, a, "")
	})
}

func promotedIs(ctx context.Context, c *Cluster, node string) error {
	n, err := c.Promoted(ctx, "web")
	if err == nil && n != node {
		err = fmt.Errorf("%q is", n)
	}
	return err
}

func eventually(ctx context.Context, t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
