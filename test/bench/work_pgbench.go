package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/drill"
	"github.com/understudy-ha/understudy/test/lab"
)

func init() {
	register(work{
		id: "pgbench", what: "PostgreSQL under pgbench, replicated every second: transactions a second", on: both,
		full: shape{size: 20, pairs: 4}, small: shape{size: 5, pairs: 2}, grows: "scale factor", dear: true, run: pgbench,
	})
}

const (
	pgImage = "localhost/postgres:1"
	pgData  = "/var/lib/postgresql/data"
	pgPlain = "plain" // the database that nobody replicates
)

// seconds of one pgbench run, and how many generations are recovered at most.
var (
	pgSeconds = map[string]int{scaleFull: 30, scaleSmall: 6}
	pgChecked = map[string]int{scaleFull: 20, scaleSmall: 2}
)

// pgbench compares a replicated database with one of the same image on the same node
// that nobody replicates, in turns, then recovers the generations that the standby
// keeps, each as after a crash.
func pgbench(ctx context.Context, s *site, sh shape) (*row, error) {
	if err := s.n1.LoadImage(ctx, "postgres"); err != nil {
		return nil, err
	}
	v := service{name: sized("db", sh), image: pgImage, mount: pgData, interval: "1s"}
	if err := s.serve(ctx, v); err != nil {
		return nil, err
	}
	defer func() {
		_, _ = s.n1.Exec(context.WithoutCancel(ctx), "podman", "rm", "-f", "-i", "-v", "-t", "0", pgPlain)
	}()
	_, err := s.n1.Exec(ctx, "podman", "run", "-d", "--name", pgPlain, "-v", pgPlain+"-data:"+pgData, pgImage)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{v.name, pgPlain} {
		if err := s.database(ctx, s.n1, name); err != nil {
			return nil, err
		}
		if _, err := s.client(ctx, name, fmt.Sprintf("pgbench -q -i -s %d postgres", sh.size)); err != nil {
			return nil, err
		}
	}
	tps := func(name string) func(int) (float64, error) {
		return func(int) (float64, error) {
			if err := s.rest(ctx); err != nil {
				return 0, err
			}
			out, err := s.client(ctx, name, fmt.Sprintf("pgbench -c 4 -j 2 -T %d postgres", pgSeconds[s.bench.scale]))
			if err != nil {
				return 0, err
			}
			return tpsOf(out)
		}
	}
	us, them, err := s.inTurns(sh.pairs, tps(v.name), tps(pgPlain))
	if err != nil {
		return nil, err
	}
	st, err := s.status(ctx, s.n1)
	if err != nil {
		return nil, err
	}
	f := versus("tps", us, "not replicated", them).moreIsBetter()
	f.Reach, f.Met = "≥ 0.9 × not replicated", f.Ratio != nil && *f.Ratio >= 0.9
	r := newRow(f)
	r.note("freezes: p50 %s, p99 %s, most %s", st.FreezeP50, st.FreezeP99, st.FreezeMax)
	if sh.part {
		return r, nil
	}
	return r, s.recoverAll(ctx, r)
}

// database waits until the one in the container answers.
func (s *site) database(ctx context.Context, n *lab.Node, container string) error {
	return until(ctx, time.Minute, "the database "+container, func() error {
		_, err := n.Exec(ctx, "podman", "exec", container, "psql", "-U", "postgres", "-qAtc", "SELECT 1")
		return err
	})
}

// client runs a program of PostgreSQL's against the database in a container, outside
// of it: what is paused for a capture is the service, not its clients.
func (s *site) client(ctx context.Context, container, command string) (string, error) {
	return s.n1.Shell(ctx, fmt.Sprintf(`host=$(podman inspect --format '{{.NetworkSettings.IPAddress}}' %s)
podman run --rm --network host --entrypoint sh %s -c 'PGHOST='$host' PGUSER=postgres exec $(echo /usr/lib/postgresql/*/bin)/%s 2>&1'`, container, pgImage, command))
}

func tpsOf(out string) (float64, error) {
	for line := range strings.Lines(out) {
		var v float64
		if n, _ := fmt.Sscanf(line, "tps = %f", &v); n == 1 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("pgbench says nothing of tps: %s", out)
}

// recoverAll starts a database on each generation that n2 has, newest first, up to a
// number, and has pg_amcheck look at all of it.
func (s *site) recoverAll(ctx context.Context, r *row) error {
	if err := s.interval(ctx, "1h"); err != nil {
		return err
	}
	// Pinned, or the retention policy takes some of them while others are looked at.
	out, err := s.n2.Shell(ctx, fmt.Sprintf(`ls %[1]s/services/%[2]s/generations | sed -n 's/\.manifest$//p' | sort -rV | head -n %[3]d |
while read -r id; do if understudy pin %[2]s "$id" >&2; then echo "$id"; fi; done`, store, s.current.name, pgChecked[s.bench.scale]))
	if err != nil {
		return err
	}
	there := strings.Fields(out)
	good, tried := 0, len(there)
	var took []float64
	for _, id := range there {
		began := time.Now()
		if err := s.recover(ctx, id); err != nil {
			s.say("generation %s: %v", id, err)
			r.note("generation %s: %s", id, lastLine(err))
			continue
		}
		took = append(took, time.Since(began).Seconds())
		good++
	}
	f := versus("of "+fmt.Sprint(tried), []float64{float64(good)}, "", nil).named("generations that recover and pass pg_amcheck")
	f.Reach, f.Met = "every one", tried > 0 && good == tried
	r.Also = append(r.Also, f)
	r.Met = r.Met && f.Met
	r.note("the newest %d generations on the standby, %.1f s each", tried, drill.Median(took))
	return nil
}

// recover writes a generation out on n2, starts a database on it and checks it.
func (s *site) recover(ctx context.Context, id string) error {
	_, err := s.n2.Shell(ctx, fmt.Sprintf(`d=%[1]s/recovered; trap 'podman rm -f -i -t 0 recovered >/dev/null; rm -rf $d' EXIT
mkdir -p $d
understudy restore %[2]s %[3]s --to $d >&2
podman run -d --name recovered -v $d/%[2]s-data:%[4]s %[5]s >/dev/null
pg() { podman exec recovered sh -c "exec \$(echo /usr/lib/postgresql/*/bin)/$*"; }
for i in $(seq 300); do ! pg psql -U postgres -qAtc "'SELECT 1'" >/dev/null 2>&1 || break; sleep 0.1; done
pg pg_amcheck -U postgres --all --install-missing --heapallindexed >&2`, place, s.current.name, id, pgData, pgImage))
	return err
}

// lastLine is what the last program said that failed.
func lastLine(err error) string {
	var c *lab.CommandError
	if !errors.As(err, &c) {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(c.Stderr), "\n")
	return lines[len(lines)-1]
}
