//go:build lab

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// testSuspect: files on the active are encrypted. The standby has that, and with
// on-suspect=hold goes on to stand where it was before, until a person releases it.
// Both nodes tell of it.
func testSuspect(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	began := time.Now()
	dir := filepath.Join(volumes, "ledger-data/_data/docs")
	must(t, os.Mkdir(active.HostPath(dir), 0o755))
	defer func() {
		must(t, os.RemoveAll(active.HostPath(dir)))
		c.sh(t, active, "pcs resource update registry on-suspect=alarm")
	}()
	c.sh(t, active, "pcs resource update registry on-suspect=hold --wait=60") // until the standby knows
	doc := func(n *lab.Node, i int) string { return n.HostPath(filepath.Join(dir, fmt.Sprint("page", i))) }
	var plain [][]byte
	for i := range 16 {
		var b bytes.Buffer
		for line := range 200 {
			fmt.Fprintf(&b, "page %d line %d says that %d is a number\n", i, line, line*line*7919%104729)
		}
		plain = append(plain, b.Bytes())
		must(t, os.WriteFile(doc(active, i), b.Bytes(), 0o644))
	}
	same := func(most int) error { // so many may be otherwise
		other := 0
		for i := range plain {
			if b, err := os.ReadFile(doc(standby, i)); err != nil || !bytes.Equal(b, plain[i]) {
				other++
			}
		}
		if other > most {
			return fmt.Errorf("%d pages are not there as they were", other)
		}
		return nil
	}
	_, err := c.Agent(active).Replicate(limited(t, time.Minute), stack.Service)
	must(t, err)
	eventually(t, time.Minute, "the pages on "+standby.Name(), func() error { return same(0) })
	before := c.mustService(t, standby).Committed
	for i := range plain { // aside, then all at once: it is one generation, or two
		out, err := exec.CommandContext(limited(t, time.Minute), "openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-pass", "pass:x", "-in", doc(active, i), "-out", active.HostPath(fmt.Sprint("/root/enc", i))).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	c.sh(t, active, "for i in $(seq 0 15); do mv /root/enc$i "+dir+"/page$i; done")
	eventually(t, time.Minute, "the alarm", func() error {
		sv, err := c.service(standby)
		if err == nil && (len(sv.Suspects) != 1 || sv.Held != sv.Suspects[0].Before || sv.Applied != sv.Held) {
			err = fmt.Errorf("suspect %+v, held at %q, applied %s", sv.Suspects, sv.Held, sv.Applied)
		}
		return err
	})
	must(t, same(7)) // eight would have been told
	held := c.mustService(t, standby)
	contains(t, "history", c.sh(t, standby, "understudy history registry"), "SUSPECT: volume ledger-data", "pinned: before suspect generation "+held.Suspects[0].First)
	contains(t, "the journal", c.journal(t, standby, began), held.Suspects[0].First+" looks like an attack", "not applied until understudy release")
	for _, n := range c.Nodes() {
		eventually(t, time.Minute, n.Name()+" to tell of it", func() error {
			out, err := n.Shell(limited(t, time.Minute), "understudy status")
			if err == nil && (!strings.Contains(out, "SUSPECT: generation "+held.Suspects[0].First) || !strings.Contains(out, "held at generation "+held.Held)) {
				err = fmt.Errorf("it says:\n%s", out)
			}
			return err
		})
	}
	contains(t, "the metrics", c.sh(t, standby, "understudy metrics"), `understudy_suspect{service="registry"} 1`, `understudy_held{service="registry"} 1`, `understudy_generation_age_seconds{service="registry"} `)
	if _, err := active.Shell(limited(t, time.Minute), "understudy switchover registry --yes"); err == nil || !strings.Contains(err.Error(), "understudy release") {
		t.Errorf("a planned move would have left behind what is held: %v", err)
	}
	c.sh(t, standby, "understudy release registry --yes")
	eventually(t, time.Minute, "what was released to be applied", func() error {
		sv, err := c.service(standby)
		if err == nil && (len(sv.Suspects) > 0 || sv.Applied != sv.Committed) {
			err = fmt.Errorf("suspect %+v, applied %s of %s", sv.Suspects, sv.Applied, sv.Committed)
		}
		return err
	})
	if same(len(plain)-1) == nil || slices.Contains([]string{"", "none"}, before) {
		t.Error("nothing was held back")
	}
	c.sh(t, standby, "understudy unpin registry "+held.Held)
}
