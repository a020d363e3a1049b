//go:build lab

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// testConsistency: commands run in a container around each capture, and only
// there; one that fails stops captures and is said; without any pause replication
// goes on too. All of it is changed while the service runs.
func testConsistency(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	update := func(params string) { c.sh(t, active, "pcs resource update registry "+params) }
	problem := func() string { return strings.Join(c.mustService(t, active).Warnings, "; ") }
	defer func() {
		update("consistency= before-capture= after-capture=")
		c.settle(t)
		c.sameLedger(t)
	}()
	update(`consistency=hooks before-capture="ledger touch /before" after-capture="ledger touch /after"`)
	w := c.writing(t)
	eventually(t, 30*time.Second, "both commands to have run", func() error {
		_, err := active.Shell(limited(t, 10*time.Second), "podman exec ledger ls /before /after")
		return err
	})
	if lost := c.lost(t, w.stop()); len(lost) > 0 {
		t.Errorf("%d writes are lost", len(lost))
	}
	c.sameLedger(t)

	c.sh(t, active, "podman exec ledger rm /after")
	update(`before-capture="ledger false"`)
	w = c.writing(t)
	eventually(t, 30*time.Second, "status to say that the command fails", func() error {
		if said := problem(); !strings.Contains(said, "before-capture of service registry") || !strings.Contains(said, "code 1") {
			return fmt.Errorf("it says %q", said)
		}
		return nil
	})
	at := c.level(t).Committed
	w.more(t, 20)
	if now := c.mustService(t, standby).Committed; now != at {
		t.Errorf("generation %s was captured although the command before it fails; %s was the last", now, at)
	}
	c.sh(t, active, "podman exec ledger ls /after") // what undoes the other ran nevertheless

	update("consistency=none before-capture= after-capture=")
	eventually(t, 30*time.Second, "replication to go on", func() error {
		sv := c.mustService(t, standby)
		if sv.Committed == at {
			return errors.New("nothing new has come")
		}
		return nil
	})
	if lost := c.lost(t, w.stop()); len(lost) > 0 {
		t.Errorf("%d writes are lost", len(lost))
	}
	c.sameLedger(t)
	if said := problem(); strings.Contains(said, "before-capture") {
		t.Errorf("status still says %q", said)
	}
	if role := c.mustService(t, active).Role; role != api.RoleActive {
		t.Errorf("%s is %s: a change of parameters moved the service", active.Name(), role)
	}
}
