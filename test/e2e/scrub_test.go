//go:build lab

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// testScrub: the standby's disk forgets a bit of a pack, of a manifest and of the live
// data. All three are found, and mended: the live data from the store, the other two,
// which nothing here has any more, from the active.
func testScrub(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	began := time.Now()
	const name = "rot"
	file := filepath.Join(volumes, "ledger-data/_data", name)
	defer func() { _ = os.Remove(active.HostPath(file)) }()
	kept := filepath.Join("/var/lib/understudy/services", stack.Service)
	var contents [][]byte
	var ids []string
	for range 4 { // the agent remembers the last two manifests; the first is to be on the disk alone
		text := make([]byte, 300<<10)
		for i := range text {
			text[i] = byte(rand.Uint32())
		}
		contents = append(contents, text)
		before := list(t, standby, filepath.Join(kept, "packs"))
		must(t, active.WriteFile(limited(t, time.Minute), file, text, 0o644))
		id, err := c.Agent(active).Replicate(limited(t, time.Minute), stack.Service)
		must(t, err)
		ids = append(ids, id.Generation)
		must(t, c.EachNode(func(n *lab.Node) error {
			_, err := n.Shell(limited(t, time.Minute), "understudy pin "+stack.Service+" "+id.Generation)
			return err
		}))
		if len(ids) == 1 {
			rotPack(t, standby, filepath.Join(kept, "packs"), before)
		}
	}
	newest := contents[len(contents)-1]
	eventually(t, time.Minute, "the newest data on "+standby.Name(), func() error {
		if b, err := os.ReadFile(standby.HostPath(file)); err != nil || !bytes.Equal(b, newest) {
			return fmt.Errorf("%d bytes, %w", len(b), err)
		}
		return nil
	})
	must(t, standby.Rot(limited(t, time.Minute), filepath.Join(kept, "generations", ids[0]+".manifest"), 30))
	must(t, standby.Rot(limited(t, time.Minute), file, 123456))

	// Exit code 1 as long as something is lost. The pack of the newest generation may share
	// the live file's blocks, and be damaged with it.
	_, _ = standby.Shell(limited(t, 2*time.Minute), "understudy scrub "+stack.Service)
	eventually(t, 2*time.Minute, "what was lost to come from "+active.Name(), func() error {
		st, err := c.Agent(standby).Scrub(limited(t, 10*time.Second), stack.Service, api.ScrubRequest{})
		if err == nil && st.Lacks > 0 {
			err = fmt.Errorf("%d are lacking", st.Lacks)
		}
		return err
	})
	out := c.sh(t, standby, "understudy scrub --json "+stack.Service) // exit code 0: all of it is as it was
	var st api.ScrubStatus
	must(t, json.Unmarshal([]byte(out), &st))
	found := ""
	for _, d := range st.Found {
		if d.At.After(began) {
			found += fmt.Sprintf("%s: %s\n", d.What, d.Repair)
		}
	}
	contains(t, "what was found", found, "pack ", "the manifest of generation "+ids[0]+" was damaged", `"`+name+`": has other content`)
	c.sh(t, standby, "rm -rf /root/back; understudy restore "+stack.Service+" --generation "+ids[0]+" --to /root/back")
	back, err := filepath.Glob(standby.HostPath("/root/back/*/" + name))
	if err != nil || len(back) != 1 {
		t.Fatalf("restored: %v, %v", back, err)
	}
	for path, want := range map[string][]byte{back[0]: contents[0], standby.HostPath(file): newest} {
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s is not what it was, %v", path, err)
		}
	}
	contains(t, "the journal", c.journal(t, standby, began), "was damaged", `"`+name+`": has other content: written anew from the store`)
	for _, id := range ids {
		must(t, c.EachNode(func(n *lab.Node) error {
			_, err := n.Shell(limited(t, time.Minute), "understudy unpin "+stack.Service+" "+id)
			return err
		}))
	}
}

// volumes is where Podman keeps them.
const volumes = "/var/lib/containers/storage/volumes"

func list(t *testing.T, n *lab.Node, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(n.HostPath(dir))
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// rotPack flips a bit in the middle of the largest pack that has come since.
func rotPack(t *testing.T, n *lab.Node, dir string, before []string) {
	t.Helper()
	path, size := "", int64(0)
	for _, name := range list(t, n, dir) {
		fi, err := os.Stat(n.HostPath(filepath.Join(dir, name)))
		if errors.Is(err, os.ErrNotExist) || slices.Contains(before, name) {
			continue
		}
		must(t, err)
		if fi.Size() > size {
			path, size = filepath.Join(dir, name), fi.Size()
		}
	}
	if size < 300<<10 {
		t.Fatalf("no pack has come that holds the file: %s, %d bytes", path, size)
	}
	must(t, n.Rot(limited(t, time.Minute), path, size/2))
}
