package engine

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// victim is a pair whose active has a tree of text, logs and a database, and some habits.
func victim(t *testing.T) (a, b *side) {
	t.Helper()
	a, b = newSide(t), newSide(t)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		dir := filepath.Join(a.tree, "docs", fmt.Sprint("d", i%6))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		a.write(filepath.Join("docs", fmt.Sprint("d", i%6), fmt.Sprintf("page%d.txt", i)), prose(r, 300+r.IntN(3000)))
	}
	if err := os.MkdirAll(filepath.Join(a.tree, "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		a.write(fmt.Sprintf("log/app%d.log", i), prose(r, 4000))
		a.write(fmt.Sprintf("log/app%d.log.1", i), prose(r, 4000))
	}
	a.script(`sqlite3 db.sqlite "create table t(id integer primary key, name text, note text);
with recursive n(i) as (select 1 union all select i+1 from n where i < 20000)
insert into t select i, 'name '||(i*7919%10007), 'a note about '||i||' that is as long as notes are, and a bit longer still than that' from n;"`)
	a.send(b, a.seal(1))
	for i := range 6 {
		a.write("docs/d0/page0.txt", prose(r, 400+i))
		a.write("log/app0.log", prose(r, 4000+i*100))
		a.send(b, a.seal(1))
	}
	if list := b.Suspects(); len(list) > 0 {
		t.Fatalf("suspect before anything has happened: %+v", list)
	}
	return a, b
}

// prose is text of so many words.
func prose(r *rand.Rand, words int) string {
	known := strings.Fields("the service was moved to another node and its data came along which took less time than the clients noticed while an operator read the journal of what had been decided and why it was so")
	var b strings.Builder
	for range words {
		b.WriteString(known[r.IntN(len(known))])
		b.WriteByte(" \n"[r.IntN(20)/19])
	}
	return b.String()
}

// script runs in the tree.
func (s *side) script(text string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "bash", "-euc", text)
	cmd.Dir = s.tree
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
}

// enc encrypts each file that it is given, with $1 the file and $2 where to.
const enc = `enc() { openssl enc -aes-256-ctr -pbkdf2 -iter 1 -pass pass:secret -in "$1" -out "$2.tmp"; mv "$2.tmp" "$2"; }; `

func TestAttacks(t *testing.T) {
	for name, tt := range map[string]struct{ script, why string }{
		"encrypted in place":           {enc + `find docs -type f | while read f; do enc "$f" "$f"; done`, "noise now"},
		"encrypted and renamed":        {enc + `find docs -type f | while read f; do enc "$f" "$f.locked"; rm "$f"; done`, "noise now"},
		"encrypted under other names":  {enc + `n=0; find docs -type f | while read f; do n=$((n+1)); enc "$f" "docs/$n.x"; rm "$f"; done`, "noise now"},
		"encrypted, the old emptied":   {enc + `find docs -type f | while read f; do enc "$f" "$f.crypt"; : > "$f"; done`, "noise now"},
		"some encrypted":               {enc + `find docs/d1 -type f | while read f; do enc "$f" "$f"; done`, "noise now"},
		"the database encrypted":       {enc + `enc db.sqlite db.sqlite`, "noise now"},
		"encrypted, in letters":        {`find docs -type f | while read f; do openssl enc -aes-256-ctr -a -pbkdf2 -iter 1 -pass pass:secret -in "$f" -out "$f.tmp"; mv "$f.tmp" "$f"; done`, "noise now"},
		"half of each encrypted":       {`find docs -type f | while read f; do n=$(($(stat -c %s "$f")/2)); { head -c $n "$f" | openssl enc -aes-256-ctr -pbkdf2 -iter 1 -pass pass:secret; tail -c +$((n+1)) "$f"; } > "$f.tmp"; mv "$f.tmp" "$f"; done`, "of another kind"},
		"renamed":                      {`find docs log -type f | while read f; do mv "$f" "$f.pwned"; done`, `have another name, most by the suffix ".pwned"`},
		"renamed beyond recognition":   {`n=0; find docs log -type f | while read f; do n=$((n+1)); mv "$f" "docs/x$n"; done`, "have another name"},
		"deleted":                      {`rm -r docs`, "gone or empty"},
		"emptied":                      {`find docs -type f | while read f; do : > "$f"; done`, "gone or empty"},
		"overwritten with nothing":     {`find docs -type f | while read f; do dd if=/dev/zero of="$f" bs=$(stat -c %s "$f") count=1 conv=notrunc status=none; done`, "gone or empty"},
		"encrypted with little before": {enc + `echo more >> docs/d0/page0.txt; find log -type f | while read f; do enc "$f" "$f"; done`, "noise now"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := victim(t)
			good, err := b.Head()
			if err != nil {
				t.Fatal(err)
			}
			a.script(tt.script)
			bad := a.seal(1)
			a.send(b, bad)
			list := b.Suspects()
			if len(list) != 1 || list[0].First != bad || list[0].Before != good || !strings.Contains(list[0].Why, tt.why) {
				t.Fatalf("not seen, or not as what it is: %+v", list)
			}
			wantPinned(t, b, good, bad)
			if len(a.Suspects()) > 0 {
				t.Error("the sender judges itself")
			}
		})
	}
}

// wantPinned checks that retention leaves what was before.
func wantPinned(t *testing.T, s *side, good, bad replication.ID) {
	t.Helper()
	pins, err := s.Store().Pins()
	if err != nil || len(pins) != 1 || pins[0].ID != good || !strings.HasPrefix(pins[0].Why, "before suspect generation "+bad.String()) {
		t.Fatalf("pins %+v, %v", pins, err)
	}
	if _, err := s.Store().Prune(store.Policy{KeepLast: 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckRestore(t.Context(), good.String()); err != nil {
		t.Error(err)
	}
}

func TestInnocentChanges(t *testing.T) {
	for name, script := range map[string]string{
		"upgrade in place": `find docs -type f | while read f; do tac "$f" | sed s/node/system/ | rev > "$f.new"; echo "a new line of $f" >> "$f.new"; mv "$f.new" "$f"; done
rm docs/d1/page1.txt; seq 1000 > docs/d1/changelog.txt`,
		"upgrade to another directory":  `cp -r docs next; find next -type f | while read f; do tac "$f" > "$f.new"; mv "$f.new" "$f"; done; rm -r docs`,
		"moved":                         `mv docs documents`,
		"upgrade with new names":        `n=0; find docs -type f | while read f; do n=$((n+1)); tac "$f" > "docs/asset.$n.txt"; rm "$f"; done`,
		"vacuum":                        `sqlite3 db.sqlite "delete from t where id % 3 = 0; vacuum;"`,
		"vacuum into and swap":          `sqlite3 db.sqlite "delete from t where id % 2 = 0; vacuum into 'new';"; mv new db.sqlite`,
		"rotated":                       `cd log; for i in $(seq 0 11); do mv app$i.log.1 app$i.log.2; gzip app$i.log.2; mv app$i.log app$i.log.1; : > app$i.log; done`,
		"rotated, copied and truncated": `cd log; for i in $(seq 0 11); do gzip -c app$i.log > app$i.log-20261122.gz; : > app$i.log; done`,
		"all logs compressed":           `cd log; gzip *`,
		"photographs":                   `mkdir photos; for i in $(seq 100); do head -c 20000 /dev/urandom > photos/$i.jpg; done`,
		"a backup beside":               `tar c docs | gzip > backup.tar.gz; rm -r docs/d1 docs/d2`,
		"metadata":                      `chmod -R o-rwx docs; find . -type f -exec touch {} +`,
		"mail is read":                  `mkdir cur; for i in $(seq 200); do echo "text $i" > cur/$i; done; cd cur; for i in *; do mv $i $i:2,S; done`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := victim(t)
			a.script(script)
			a.send(b, a.seal(1))
			if list := b.Suspects(); len(list) > 0 {
				t.Errorf("suspect: %s", list[0].Why)
			}
			if pins, err := b.Store().Pins(); err != nil || len(pins) > 0 {
				t.Errorf("pins %+v, %v", pins, err)
			}
		})
	}
}

// TestSlowAttack: a few files in each generation add up, until a person has looked.
func TestSlowAttack(t *testing.T) {
	a, b := victim(t)
	step := func(i int) {
		a.script(enc + fmt.Sprintf(`for i in 0 1 2 3; do f=$(find docs -name page$((%d*4+i)).txt); enc "$f" "$f"; done`, i))
		a.send(b, a.seal(1))
	}
	for i := range 8 {
		step(i)
	}
	list := b.Suspects()
	if len(list) != 1 || !strings.Contains(list[0].Why, "being encrypted") {
		t.Fatalf("not seen: %+v", list)
	}
	if _, err := b.Store().Release(); err != nil {
		t.Fatal(err)
	}
	step(8)
	if list := b.Suspects(); len(list) > 0 {
		t.Errorf("what was released counts on: %+v", list)
	}
}

// TestSuspectIsTakenBack: what goes on from an attack belongs to it, content from before
// ends it, and it is told until a person releases it.
func TestSuspectIsTakenBack(t *testing.T) {
	a, b := victim(t)
	good, err := b.Head()
	if err != nil {
		t.Fatal(err)
	}
	a.script(enc + `find docs/d1 docs/d2 -type f | while read f; do enc "$f" "$f"; done`)
	a.send(b, a.seal(1))
	a.script(enc + `find docs/d3 docs/d4 -type f | while read f; do enc "$f" "$f"; done`)
	second := a.seal(1)
	a.send(b, second)
	if list := b.Suspects(); len(list) != 1 || list[0].Last != second || !list[0].Open() {
		t.Fatalf("%+v", list)
	}
	wantPinned(t, b, good, b.Suspects()[0].First)
	back, _, err := a.Revert(good.String(), a.request(1))
	if err != nil {
		t.Fatal(err)
	}
	a.send(b, back)
	if list := b.Suspects(); len(list) != 1 || list[0].Open() || list[0].Undone != back {
		t.Errorf("%+v", list)
	}
	if _, err := b.Store().Release(); err != nil {
		t.Fatal(err)
	}
	if list := b.Suspects(); len(list) > 0 {
		t.Errorf("after the release: %+v", list)
	}
	if pins, err := b.Store().Pins(); err != nil || !slices.ContainsFunc(pins, func(p store.Pin) bool { return p.ID == good }) {
		t.Errorf("pins after the release: %+v, %v", pins, err)
	}
}
