//go:build lab

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
)

// testDefinition: containers are kept alike on both nodes, and nobody but
// Pacemaker starts them. A container that is made anew on the active node, with
// another environment or on another network, is made anew on the standby; one that somebody starts on the standby is noticed and stopped;
// what cannot be carried is refused by name.
func testDefinition(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	t.Run("refused by name", func(t *testing.T) {
		must(t, active.LoadImage(limited(t, time.Minute), "busybox"))
		defer c.sh(t, active, forget("refused"))
		c.sh(t, active, "podman create --name refused --device /dev/null localhost/busybox:1 >/dev/null")
		out := order{service: "refused", action: "validate-all", params: []string{"containers=refused"}}.run(t, active)
		if out.code == success {
			t.Error("a device of the node is accepted")
		}
		contains(t, "validate-all", out.said, "container refused", "--device")
	})
	t.Run("listed by name", func(t *testing.T) {
		defer c.sh(t, active, forget("listed"))
		c.sh(t, active, "podman create --name listed -v /etc/hosts:/hosts localhost/busybox:1 >/dev/null")
		out := c.sh(t, active, "OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=listed OCF_RESKEY_containers=listed "+agentPath+" validate-all 2>&1")
		contains(t, "validate-all", out, "container listed", "/etc/hosts", "not replicated")
		list := order{service: "listed", action: "validate-all", params: []string{"containers=listed", "bind-mounts=replicate"}}
		if out := list.run(t, active); out.code == success || !strings.Contains(out.said, "/etc/hosts") {
			t.Errorf("a file of the system is to be replicated, and it is accepted: %s", out.said)
		}
	})
	t.Run("changed", func(t *testing.T) {
		c.sh(t, active, `pcs property set maintenance-mode=true
podman rm -f -t 2 ledger >/dev/null
podman create --name ledger -e COLOUR=blue -v ledger-data:/data -p 8080:8080 localhost/ledger:1 >/dev/null
podman start ledger >/dev/null
`+registryOnBoth+`
pcs property set maintenance-mode=false`)
		eventually(t, 60*time.Second, "the containers to be made anew on the standby", func() error {
			return errors.Join(lacks(c.sh(t, standby, "podman inspect --format '{{.Config.Env}}' ledger || true"), "COLOUR=blue"), onBoth(t, c, standby))
		})
		c.settle(t)
		parity(t, c, active, standby, "ledger", "registry")
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

// registryOnBoth makes the registry's container anew on a network that has IPv6
// too: Podman's default one has not, and forwards no port of an IPv6 address.
const registryOnBoth = `podman network create --ignore --ipv6 --subnet 203.0.113.128/27 --subnet 2001:db8:0:1::/64 both >/dev/null
podman rm -f -t 2 registry >/dev/null
podman create --name registry --network both -v registry-data:/var/lib/registry -p 5000:5000 localhost/registry:1 >/dev/null
podman start registry >/dev/null`

func onBoth(t *testing.T, c *cluster, n *lab.Node) error {
	t.Helper()
	return lacks(c.sh(t, n, "podman inspect --format '{{.NetworkSettings.Networks}}' registry || true"), "both:")
}
