//go:build lab

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// testStaleSender: whoever has a sender's key can append and nothing else
// (invariant 4), and only to the newest generation in the newest term (2). Each
// refusal says why in both logs, and the replica is as good as before.
func testStaleSender(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	c.sameLedger(t)
	_, err := c.Agent(active).Replicate(limited(t, time.Minute), stack.Service)
	must(t, err)
	before := c.level(t)
	head, err := replication.ParseID(before.Committed)
	must(t, err)
	stale := forge(t, active, head, func(m *replication.Manifest) {
		m.Parent, m.ID = replication.ID{Term: 1, Seq: 998}, replication.ID{Term: 1, Seq: 999}
	})
	orphan := forge(t, active, head, func(m *replication.Manifest) {
		m.ID.Seq += 2
		m.Parent = replication.ID{Term: m.ID.Term, Seq: m.ID.Seq - 1}
	})
	began := time.Now().Format("2006-01-02 15:04:05")
	in, gen := "/"+stack.Service+"/incoming/", "/"+stack.Service+"/generations/"
	out := asSender(t, c, active, standby,
		"put "+stale+" "+in+"1.999.manifest", "rename "+in+"1.999.manifest "+gen+"1.999.manifest",
		"put "+orphan+" "+in+next(head)+".manifest", "rename "+in+next(head)+".manifest "+gen+next(head)+".manifest",
		"rm "+gen+head.String()+".manifest",
		"put /etc/hostname "+gen+head.String()+".manifest",
		"rename "+gen+head.String()+".manifest "+in+head.String()+".manifest",
		"put /etc/hostname /"+stack.Service+"/term",
		"mkdir /"+stack.Service+"/new",
	)
	reasons := []string{"stale", "parent", "there is no remove", "only want and files in incoming can be written", "only files in incoming can be renamed", "there is no mkdir"}
	contains(t, "what the sender is told", out, reasons...)
	contains(t, "the receiver's log", c.sh(t, standby, "journalctl --no-pager -o cat --since '"+began+"'"), reasons...)
	after := c.mustService(t, standby)
	if after.Committed != before.Committed || after.Applied != before.Applied || after.Term != before.Term {
		t.Errorf("the replica changed: %+v, was %+v", after, before)
	}
	c.settle(t)
	w := c.writing(t) // and the true sender is not hindered
	if lost := c.lost(t, w.stop()); len(lost) > 0 {
		t.Errorf("%d writes are lost", len(lost))
	}
	c.sameLedger(t)
}

func next(id replication.ID) string {
	return replication.ID{Term: id.Term, Seq: id.Seq + 2}.String()
}

// forge makes a manifest out of the newest one, on the sender's node.
func forge(t *testing.T, n *lab.Node, head replication.ID, change func(*replication.Manifest)) (path string) {
	t.Helper()
	s, err := store.Open(n.HostPath("/var/lib/understudy"), stack.Service, store.Options{})
	must(t, err)
	defer s.Close()
	loaded, err := s.Load(head)
	must(t, err)
	m := *loaded
	m.Delta = nil
	change(&m)
	b, err := store.EncodeManifest(&m)
	must(t, err)
	path = fmt.Sprintf("/root/forged-%s", m.ID)
	must(t, n.WriteFile(limited(t, time.Minute), path, b, os.FileMode(0o600)))
	return path
}

// asSender gives commands to sftp with the agent's own key; it goes on after a failure.
func asSender(t *testing.T, c *cluster, from, to *lab.Node, commands ...string) string {
	t.Helper()
	return c.sh(t, from, "sftp -s /sftp-server -b - -i /etc/understudy/ssh_key -o UserKnownHostsFile=/etc/understudy/known_hosts -o StrictHostKeyChecking=yes understudy@"+
		to.IP()+" 2>&1 <<'END'\n-"+strings.Join(commands, "\n-")+"\nEND")
}
