//go:build lab

package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// testRestore takes the service back in place, forth again from what was kept of it, and back once more
// by a switchover to a standby on which that was armed. Each time the other node follows.
func testRestore(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	write := func() []write {
		w := c.writing(t)
		w.more(t, 20)
		return w.stop()
	}
	restore := func(n *lab.Node, generation string) {
		t.Helper()
		c.sh(t, n, "understudy restore registry --yes --in-place --generation "+generation)
	}
	early := write()
	back, err := c.Agent(active).Replicate(limited(t, time.Minute), stack.Service)
	must(t, err)
	late := write()
	has := func(all bool) {
		t.Helper()
		c.settle(t)
		if lost := c.lost(t, early); len(lost) > 0 {
			t.Errorf("%d of %d writes of before are lost", len(lost), len(early))
		}
		want := len(late)
		if all {
			want = 0
		}
		if lost := c.lost(t, late); len(lost) != want {
			t.Errorf("of %d later writes %d are not there, not %d", len(late), len(lost), want)
		}
		c.sameLedger(t)
	}

	restore(active, back.Generation)
	has(false)
	kept := ""
	var h api.History
	must(t, json.Unmarshal([]byte(c.sh(t, active, "understudy history registry --json")), &h))
	for _, g := range h.Generations {
		if g.Pinned != "" {
			kept = g.ID // the newest of those
		}
	}
	if kept == "" {
		t.Fatal("what the service had written before it was taken back is not pinned")
	}
	restore(active, kept)
	has(true)

	restore(standby, back.Generation)
	c.sh(t, active, "understudy switchover registry --yes")
	if now, _ := c.roles(t); now != standby {
		t.Fatalf("%s is active", now.Name())
	}
	has(false)
}

// testVolumeRemoved removes a volume of the active node, and its container with it. No generation
// goes without it: the service comes up again with all that was captured, on one node or the other.
func testVolumeRemoved(t *testing.T, c *cluster) {
	active, _ := c.roles(t)
	w := c.writing(t)
	w.more(t, 20)
	acked := w.stop()
	_, err := c.Agent(active).Replicate(limited(t, time.Minute), stack.Service)
	must(t, err)
	since := time.Now()
	c.sh(t, active, "podman volume rm --force ledger-data")
	eventually(t, time.Minute, "the node to say so", func() error {
		return lacks(c.journal(t, active, since), "volume ledger-data is not here any more, or not what the containers had: this node goes on from the last generation")
	})
	c.settle(t)
	if lost := c.lost(t, acked); len(lost) > 0 {
		t.Errorf("lost are %s", extent(lost))
	}
	c.level(t)
	c.sameLedger(t)
	for _, n := range c.Nodes() {
		if s := c.mustService(t, n).Suspects; len(s) > 0 {
			t.Errorf("%s: %+v", n.Name(), s)
		}
	}
}

// testDirectoryReplaced: somebody moves the directory of a volume away. On the standby it is made
// and filled again, and the container that was set up with the other one must not write there after a
// takeover. On the active node nothing is captured of what stands in its place.
func testDirectoryReplaced(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	dir := filepath.Dir(strings.TrimSpace(c.sh(t, standby, "podman volume inspect --format '{{.Mountpoint}}' ledger-data")))
	for _, lost := range []string{dir + "/_data", dir} {
		c.sh(t, standby, "mv "+lost+" "+dir+".moved")
		eventually(t, time.Minute, "the standby to have made it again", func() error {
			return sameFile(volumeFile(standby, "ledger-data", "ledger"), volumeFile(active, "ledger-data", "ledger"))
		})
		c.settle(t)
		c.sh(t, standby, "rm -r "+dir+".moved")
	}
	w := c.writing(t)
	for range 2 { // there, where it writes, and back with what it wrote
		from, _ := c.roles(t)
		c.sh(t, from, "understudy switchover registry --yes")
		w.more(t, 20)
		c.settle(t)
	}
	if lost := c.lost(t, w.stop()); len(lost) > 0 {
		t.Errorf("lost are %s", extent(lost))
	}

	c.sh(t, active, "cd "+dir+" && mv _data moved && cp -a moved _data")
	if _, err := c.Agent(active).Replicate(limited(t, time.Minute), stack.Service); err == nil || !strings.Contains(err.Error(), "what is at its path is not what its containers have") {
		t.Errorf("captured was what no container has: %v", err)
	}
	c.sh(t, active, "cd "+dir+" && rm -r _data && mv moved _data")
	if _, err := c.Agent(active).Replicate(limited(t, time.Minute), stack.Service); err != nil {
		t.Error(err)
	}
	c.level(t)
	c.sameLedger(t)

	since := time.Now()
	c.sh(t, standby, "pcs node standby "+standby.Name()+" --wait=60")
	c.sh(t, standby, "cd "+dir+" && mv _data moved && mkdir _data && pcs node unstandby "+standby.Name())
	eventually(t, time.Minute, "the start to be refused", func() error {
		return lacks(c.journal(t, standby, since), "is an empty directory on "+standby.Name()+", and another than the one that its data was in")
	})
	c.sh(t, standby, "cd "+dir+" && echo stale > _data/stale && pcs resource cleanup "+stack.Service)
	c.settle(t)
	c.level(t)
	c.sameLedger(t)
	names := c.mustService(t, standby).Diverged
	if len(names) == 0 {
		t.Fatal("nothing is archived")
	}
	out := c.sh(t, standby, "rm -rf /var/tmp/stale && understudy restore "+stack.Service+" --generation "+names[len(names)-1]+" --to /var/tmp/stale && cat /var/tmp/stale/ledger-data/stale; rm -rf "+dir+"/moved /var/tmp/stale")
	contains(t, "what was archived of the directory", out, "stale")
}
