//go:build lab

package e2e

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
)

//go:embed testdata/backup-mode
var backupMode embed.FS

// The commands that README names, there in containers called db and cache.
const (
	checkpointHook = "psql -U postgres -c CHECKPOINT"
	saveHook       = "redis-cli save"
)

const (
	storesGone = `podman ps -aq --filter name='^stores-' | xargs -r podman rm -f -v -t 0 >/dev/null
podman volume ls -q | grep '^stores-' | xargs -r podman volume rm -f >/dev/null || true
rm -rf /root/stores-*`
	pgData = "/var/lib/postgresql/data"
	// A client that is told of a commit before its WAL is written: up to a moment ago is only in memory what
	// was acknowledged. WAL's writer is slow besides.
	storesLoad = `ALTER SYSTEM SET wal_writer_delay = '10s';
ALTER SYSTEM SET checkpoint_timeout = '1h';
SELECT pg_reload_conf();
CREATE TABLE IF NOT EXISTS load (n bigserial PRIMARY KEY)`
	storesClient = `sh -c 'echo "INSERT INTO load DEFAULT VALUES" >/tmp/load
PGOPTIONS="-c synchronous_commit=off" $(echo /usr/lib/postgresql/*/bin)/pgbench -n -U postgres -c 1 -R 200 -T 600 -f /tmp/load postgres </dev/null >/dev/null 2>&1 &'`
)

// stores are a PostgreSQL and a Redis, which hold in memory what was acknowledged: a
// generation has it only because a command in the container wrote it out before.
type stores struct {
	service
	active, standby *lab.Node
}

// testHooks: PostgreSQL is asked for a checkpoint, then brought into its backup mode, both while
// a client writes; Redis is asked to save, although none of its files has changed. What
// they had acknowledged by then is in the generation, which is started from as it is.
func testHooks(t *testing.T, c *cluster) {
	readme, err := os.ReadFile(checkout("README.md"))
	must(t, err)
	contains(t, "README", string(readme), `consistency=hooks before-capture="db `+checkpointHook+`"`, `consistency=hooks before-capture="cache `+saveHook+`"`)
	s := makeStores(t, c)
	s.sql(t, s.active, "stores-db", storesLoad)
	s.inside(t, s.active, "stores-db", storesClient)

	// From here on captures are made when they are asked for.
	s.update(t, `interval=4m consistency=hooks before-capture="stores-db `+checkpointHook+`"`)
	checkpoint := s.capture(t)
	s.capture(t)
	s.update(t, `before-capture="stores-db /hooks/begin" after-capture="stores-db /hooks/end"`)
	backup := s.capture(t)
	s.capture(t)
	eventually(t, 10*time.Second, "the backup mode to end", func() error {
		out, err := s.active.Shell(limited(t, 10*time.Second), `podman exec stores-db psql -U postgres -qAtXc "SELECT query FROM pg_stat_activity WHERE query LIKE '%pg_backup%' AND pid <> pg_backend_pid()"
ls $(podman volume inspect --format '{{.Mountpoint}}' stores-hooks)`)
		if err == nil && strings.Join(strings.Fields(out), " ") != "begin end" {
			err = fmt.Errorf("there are, besides begin and end: %s", out)
		}
		return err
	})
	s.recovers(t, checkpoint)
	redo := s.recovers(t, backup)
	if began := c.sh(t, s.standby, "cat "+backup.dir()+"/stores-hooks/began"); began != redo {
		t.Errorf("the generation was captured in the backup mode that began at %s, and recovers from %s", began, redo)
	}

	s.update(t, `before-capture="stores-redis `+saveHook+`" after-capture=`)
	s.redis(t, "mset a 1 b 2")
	early := s.replicate(t)
	s.redis(t, "mset c 3 d 4")
	late := s.replicate(t)
	if early == late {
		t.Fatalf("Redis was not asked to save: %s is the generation before and after keys were set", early)
	}
	s.holds(t, early, "a 1 b 2")
	s.holds(t, late, "a 1 b 2 c 3 d 4")
}

// makeStores makes them on n1, and hands them to Pacemaker without hooks: nobody answers
// those while a database is being made.
func makeStores(t *testing.T, c *cluster) stores {
	t.Helper()
	n1 := c.Node("n1")
	s := stores{service: service{c, "stores"}}
	t.Cleanup(func() { s.remove(t, storesGone) })
	for _, image := range []string{"postgres", "redis"} {
		if _, err := n1.Shell(limited(t, time.Minute), "podman image exists localhost/"+image+":1"); err != nil {
			must(t, n1.LoadImage(limited(t, 5*time.Minute), image))
		}
	}
	hooks := c.sh(t, n1, `podman create --name stores-db -v stores-data:`+pgData+` -v stores-hooks:/hooks localhost/postgres:1 >/dev/null
podman create --name stores-redis -v stores-redis:/data localhost/redis:1 >/dev/null
podman volume inspect --format '{{.Mountpoint}}' stores-hooks`)
	for _, name := range []string{"begin", "end"} {
		script, err := fs.ReadFile(backupMode, "testdata/backup-mode/"+name)
		must(t, err)
		must(t, n1.WriteFile(limited(t, time.Minute), path.Join(hooks, name), script, 0o755))
	}
	s.create(t, `vip=192.0.2.104/24 containers="stores-db stores-redis"`)
	s.active, s.standby = s.ready(t)
	return s
}

// update changes parameters and waits until they hold.
func (s stores) update(t *testing.T, params string) {
	t.Helper()
	s.c.sh(t, s.c.Node("n1"), "pcs resource update stores "+params+" --wait=60")
}

func (s stores) replicate(t *testing.T) (generation string) {
	t.Helper()
	res, err := s.c.Agent(s.active).Replicate(limited(t, time.Minute), s.name)
	must(t, err)
	return res.Generation
}

// inside runs a command in a container, again where it was just paused for a capture.
func (s stores) inside(t *testing.T, n *lab.Node, container, command string) (out string) {
	t.Helper()
	eventually(t, 20*time.Second, command, func() (err error) {
		out, err = n.Shell(limited(t, 20*time.Second), "podman exec -i "+container+" "+command)
		return err
	})
	return strings.TrimSpace(out)
}

// sql asks the database in a container.
func (s stores) sql(t *testing.T, n *lab.Node, container, query string) string {
	t.Helper()
	return s.inside(t, n, container, "psql -U postgres -qAtX -F ' ' -v ON_ERROR_STOP=1 <<'SQL'\n"+query+"\nSQL")
}

func (s stores) redis(t *testing.T, command string) {
	t.Helper()
	s.inside(t, s.active, "stores-redis", "redis-cli -e "+command)
}

// taken is a generation of the database while it is written to.
type taken struct {
	generation  string
	least, most int    // rows acknowledged before it and after
	lsn         string // where WAL was before it
}

// dir is where it is written out.
func (g taken) dir() string { return "/root/stores-" + g.generation }

// capture replicates the database while a client writes.
func (s stores) capture(t *testing.T) (g taken) {
	t.Helper()
	rows := func() (n int, lsn string) {
		t.Helper()
		count, lsn, _ := strings.Cut(s.sql(t, s.active, "stores-db", "SELECT count(*), pg_current_wal_insert_lsn() FROM load"), " ")
		n, err := strconv.Atoi(count)
		must(t, err)
		return n, lsn
	}
	was, _ := rows()
	eventually(t, 30*time.Second, "the database to be written to", func() error {
		if g.least, g.lsn = rows(); g.least < was+20 {
			return fmt.Errorf("%d rows, were %d", g.least, was)
		}
		return nil
	})
	g.generation = s.replicate(t)
	g.most, _ = rows()
	return g
}

// recovers has a database begin with the generation, as after a crash, and says from where in WAL it went on: from
// a checkpoint that the command before the capture had made. It has all rows that were acknowledged before that.
func (s stores) recovers(t *testing.T, g taken) (redo string) {
	t.Helper()
	name := path.Base(g.dir())
	s.c.sh(t, s.standby, "understudy restore stores --generation "+g.generation+" --to "+g.dir()+" >/dev/null\npodman run -d --name "+name+" -v "+g.dir()+"/stores-data:"+pgData+" localhost/postgres:1 >/dev/null")
	s.sql(t, s.standby, name, "SELECT 1")
	log := s.c.sh(t, s.standby, "podman logs "+name+" 2>&1")
	_, redo, _ = strings.Cut(log, "redo starts at ")
	redo, _, _ = strings.Cut(redo, "\n")
	var rows, last int
	var later string
	_, err := fmt.Sscan(s.sql(t, s.standby, name, fmt.Sprintf("SELECT count(*), coalesce(max(n), 0), '%s'::pg_lsn >= '%s' FROM load", redo, g.lsn)), &rows, &last, &later)
	must(t, err)
	t.Logf("generation %s: %d rows (%d to %d), recovered from %s, WAL had been at %s", g.generation, rows, g.least, g.most, redo, g.lsn)
	if rows < g.least || rows > g.most || last != rows {
		t.Errorf("generation %s has %d rows up to %d; before it %d were acknowledged, after it %d", g.generation, rows, last, g.least, g.most)
	}
	if later != "t" {
		t.Errorf("generation %s recovers from %s, but WAL was at %s before the checkpoint: the command did not make one", g.generation, redo, g.lsn)
	}
	return redo
}

// holds starts Redis with the generation and compares what it has.
func (s stores) holds(t *testing.T, generation, want string) {
	t.Helper()
	dir := "/root/stores-" + generation
	name := path.Base(dir)
	s.c.sh(t, s.standby, "understudy restore stores --generation "+generation+" --to "+dir+" >/dev/null\npodman run -d --name "+name+" -v "+dir+"/stores-redis:/data localhost/redis:1 >/dev/null")
	s.inside(t, s.standby, name, "redis-cli -e ping")
	got := s.c.sh(t, s.standby, `for key in $(podman exec `+name+` redis-cli -e --raw keys '*' | sort); do echo $key $(podman exec `+name+` redis-cli -e --raw get $key); done`)
	if got = strings.Join(strings.Fields(got), " "); got != want {
		t.Errorf("generation %s has %q, not %q", generation, got, want)
	}
}
