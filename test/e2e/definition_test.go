//go:build lab

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// testDefinition: containers are kept alike on both nodes, and nobody but
// Pacemaker starts them. A container that is made anew on the active node, with
// another environment, is made anew on the standby; one that somebody starts on the standby is noticed and stopped;
// what cannot be carried is refused by name.
func testDefinition(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	t.Run("refused by name", func(t *testing.T) {
		must(t, active.LoadImage(limited(t, time.Minute), "busybox"))
		defer c.sh(t, active, forget("refused"))
		c.sh(t, active, "podman create --name refused -v /etc/hosts:/hosts localhost/busybox:1 >/dev/null")
		out := order{service: "refused", action: "validate-all", params: []string{"containers=refused"}}.run(t, active)
		if out.code == success {
			t.Error("a bind mount of the node's own file is accepted")
		}
		contains(t, "validate-all", out.said, "container refused", "/etc/hosts")
	})
	t.Run("changed", func(t *testing.T) {
		c.sh(t, active, `pcs property set maintenance-mode=true
podman rm -f -t 2 ledger >/dev/null
podman create --name ledger -e COLOUR=blue -v ledger-data:/data -p 8080:8080 localhost/ledger:1 >/dev/null
podman start ledger >/dev/null
pcs property set maintenance-mode=false`)
		eventually(t, 60*time.Second, "the container to be made anew on the standby", func() error {
			return lacks(c.sh(t, standby, "podman inspect --format '{{.Config.Env}}' ledger || true"), "COLOUR=blue")
		})
		c.settle(t)
		parity(t, c, active, standby, "ledger")
	})
	t.Run("started behind Pacemaker's back", func(t *testing.T) {
		c.settle(t)
		active, standby := c.roles(t)
		c.sh(t, standby, "podman start ledger >/dev/null")
		if look(standby).programs["ledger"] == 0 {
			t.Fatal("the container does not run")
		}
		eventually(t, 60*time.Second, "Pacemaker to stop it", func() error {
			if look(standby).programs["ledger"] != 0 {
				return fmt.Errorf("it still runs")
			}
			return nil
		})
		contains(t, "the cluster's status", c.sh(t, active, "crm_mon -1 --include=failures"), "behind Pacemaker's back")
		c.sh(t, active, "pcs resource cleanup registry >/dev/null")
		c.settle(t)
		if look(active).active() != true {
			t.Error("the active node was disturbed")
		}
	})
}
