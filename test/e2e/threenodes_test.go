//go:build lab

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

// TestThreeNodes: one active node keeps two standbys. One that cannot keep up holds up neither the
// other nor the service, and when the active node is lost the survivors agree: one takes over, with
// what it had said to have, and the other follows it.
func TestThreeNodes(t *testing.T) {
	c := upCluster(t, "e2ethree", "xfs", "n1", "n2", "n3")
	n1, n2, n3 := c.Node("n1"), c.Node("n2"), c.Node("n3")
	truths := c.watching(t, 50*time.Millisecond)

	// What is sent to n3 is not answered, as by a node whose disk hangs.
	w := c.writing(t)
	c.sh(t, n3, `nft 'add table inet hang; add chain inet hang in { type filter hook input priority 0; }; add rule inet hang in tcp dport 22 drop'`)
	var stuck string
	for same := 0; same < 10; same++ { // until what was under way has arrived, and is applied
		if now := c.mustService(t, n3).Applied; now != stuck || now == "" {
			stuck, same = now, 0
		}
		pause(t, 200*time.Millisecond)
	}
	was := c.mustService(t, n2).Applied
	for range 3 {
		w.more(t, 20)
		eventually(t, 20*time.Second, "n2 to go on", func() error {
			if now := c.mustService(t, n2).Applied; now == was || now == "" {
				return fmt.Errorf("it is still at %s", now)
			}
			return nil
		})
		was = c.mustService(t, n2).Applied
	}
	if there := c.mustService(t, n3).Applied; there != stuck {
		t.Errorf("n3 went from %s to %s although nothing reaches it", stuck, there)
	}
	c.sh(t, n3, "nft delete table inet hang")
	c.settle(t)

	third := time.Unix(0, c.mustService(t, n3).FreshAt)
	harm, fresh := cutPower(t, c, n1, n2)
	if third.Before(fresh) {
		fresh = third
	}
	var now, other *lab.Node
	eventually(t, 90*time.Second, "one of the others to take over", func() error {
		for _, pair := range [][2]*lab.Node{{n2, n3}, {n3, n2}} {
			if sv, err := c.service(pair[0]); err == nil && sv.Role == api.RoleActive {
				now, other = pair[0], pair[1]
				return nil
			}
		}
		return fmt.Errorf("none is active")
	})
	w.more(t, 10)
	acked := w.stop()
	lost := c.lost(t, acked)
	lostIsTail(t, lost, acked, fresh, harm)
	t.Logf("%s took over from n1; %d writes acknowledged, %d lost: the last %v", now.Name(), len(acked), len(lost), span(lost))
	c.settle(t)
	truths.neverTwo(t)
	for _, n := range []*lab.Node{n1, other} {
		c.waitRole(t, n, api.RoleStandby)
		eventually(t, 30*time.Second, n.Name()+" to follow "+now.Name(), func() error {
			if there, here := c.mustService(t, n).Applied, c.mustService(t, now).Applied; there != here {
				return fmt.Errorf("it is at %s, not %s", there, here)
			}
			return nil
		})
	}
}
