package apply

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// sqlite runs statements in Debian's sqlite3 and gives what it prints.
func sqlite(t testing.TB, db, statements string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sqlite3", "-batch", "-bail", db)
	cmd.Stdin = strings.NewReader(statements)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sqlite3: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// rows make the database larger than a file that is read as a whole. There are always as many.
const rows = 1700

// transaction says its number when it is committed, and then reads.
func transaction(n uint64) string {
	n += rows
	return fmt.Sprintf("BEGIN; UPDATE t SET n=%d, b=randomblob(1+abs(random())%%6000) WHERE k=%d; UPDATE t SET b=randomblob(3000) WHERE k=abs(random())%%%d; "+
		"UPDATE counter SET n=%[1]d; COMMIT; SELECT 'done '||n FROM counter; SELECT count(b) FROM t WHERE k<20;\n", n, n%rows, rows)
}

// A SQLite database in WAL mode that is written to all the time, with its index of
// the log and its file mapped: each generation is the database as it was in the
// freeze, to the byte, sound, and with every transaction that had been committed.
func TestSQLiteWithMappings(t *testing.T) {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Fatal("this test needs sqlite3: apt-get install sqlite3 (make deps installs all)")
	}
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			r := newRig(t, treetest.Mount(t, fs))
			db := filepath.Join(r.src, "app.db")
			sqlite(t, db, fmt.Sprintf(`PRAGMA journal_mode=WAL;
				CREATE TABLE t(k INTEGER PRIMARY KEY, n INTEGER, b BLOB); CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES(%d);
				WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<%[1]d) INSERT INTO t SELECT n%%%[1]d, n, randomblob(3000) FROM c;`, rows))
			r.watch(t)
			w := start(t, exec.Command("sqlite3", "-batch", "-bail", db))
			_, err := io.WriteString(w.in, "PRAGMA mmap_size=1073741824; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=60;\n")
			treetest.Must(t, err)
			w.feed(transaction)
			content, done := r.frozenFiles(w, "app.db", "app.db-wal", "app.db-shm")
			w.may.Store(10)
			w.await(rows + 1)
			mapped(t, w.cmd.Process.Pid, db, db+"-shm")
			for range 5 {
				w.may.Add(150) // not as fast as it can: on a busy machine that would be all of the database
				w.await(w.done.Load() + 20)
				if !r.capture(t) {
					t.Fatal("no change was seen")
				}
				r.ship(t)
				r.apply(t)
				r.arrived(t, content)
				sound(t, r.dst, *done)
			}
			w.end()
		})
	}
}

// mapped makes sure that the test tests what it is for.
func mapped(t testing.TB, pid int, files ...string) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	treetest.Must(t, err)
	for _, f := range files {
		if !bytes.Contains(maps, []byte(f+"\n")) {
			t.Errorf("sqlite3 has not mapped %s", f)
		}
	}
}

// sound opens a copy of the database that the standby has: it is as a takeover would
// find it, and the standby's stays as it is.
func sound(t testing.TB, from string, least uint64) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"app.db", "app.db-wal", "app.db-shm"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		treetest.Must(t, err)
		treetest.Write(t, filepath.Join(dir, name), b)
	}
	out := strings.Fields(sqlite(t, filepath.Join(dir, "app.db"), "PRAGMA integrity_check; SELECT n FROM counter; SELECT max(n) FROM t; SELECT count(*) FROM t;"))
	if len(out) != 4 || out[0] != "ok" || out[1] != out[2] || out[3] != strconv.Itoa(rows) {
		t.Fatalf("the database says %q", out)
	}
	if n, err := strconv.ParseUint(out[1], 10, 64); err != nil || n < least {
		t.Errorf("it is at transaction %d (%v), %d was committed before the freeze", n, err, least)
	}
}
