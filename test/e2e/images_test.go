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

// imagesMade makes two images with a layer of their own, and containers of them. The
// first has two names and loses the one that its container was made with to another
// image; the second loses its only name.
const imagesMade = `
make() { # NAME
  podman run --name img-tmp localhost/busybox:1 dd if=/dev/urandom of=/big bs=1M count=1 2>/dev/null
  podman commit -q img-tmp $1 >/dev/null; podman rm img-tmp >/dev/null
}
make localhost/par-img:1
podman tag localhost/par-img:1 localhost/par-img:stable
podman create --name par-img-a localhost/par-img:1 sleep 100000 >/dev/null
podman tag localhost/busybox:1 localhost/par-img:1
make localhost/par-lost:1
podman create --name par-img-b localhost/par-lost:1 sleep 100000 >/dev/null
podman untag localhost/par-lost:1`

// imagesGone removes them, and the limit of unusedSoon.
const imagesGone = `podman untag localhost/par-img:1 localhost/par-img:1 >/dev/null 2>&1 || true
podman rmi localhost/par-img:stable localhost/par-own:1 >/dev/null 2>&1 || true
podman image prune -f >/dev/null
if grep -q ^unused_images /etc/understudy/agent.toml; then sed -i '/^unused_images/d' /etc/understudy/agent.toml; systemctl restart understudy; fi`

// unusedSoon lets an image that nobody needs stay for three seconds.
const unusedSoon = `grep -q '^\[limits\]' /etc/understudy/agent.toml || echo '[limits]' >>/etc/understudy/agent.toml
sed -i 's/^\[limits\]/&\nunused_images = "3s"/' /etc/understudy/agent.toml; systemctl restart understudy
tar -C /etc -c hostname | podman import -q - localhost/par-own:1 >/dev/null`

// named: images have the names on the standby that they have on the active node, and not
// those that they had.
func named(t *testing.T, c *cluster, active, standby *lab.Node) {
	t.Helper()
	const names = `podman images --format '{{.ID}} {{.Repository}}:{{.Tag}}' --no-trunc | grep localhost/par- | sort`
	here, there := c.sh(t, active, names), c.sh(t, standby, names)
	if here != there || !strings.Contains(there, "par-img:stable") || strings.Contains(there, "par-lost") {
		t.Errorf("names on %s:\n%s\non %s:\n%s", active.Name(), here, standby.Name(), there)
	}
}

// unused: what no service needs any more goes, if Understudy brought it, and nothing else.
func unused(t *testing.T, c *cluster, brought, origin *lab.Node, id string) {
	t.Helper()
	eventually(t, 2*time.Minute, "the image that nobody needs to be removed", func() error {
		if have := c.sh(t, brought, "podman images -q --no-trunc"); strings.Contains(have, id) {
			return fmt.Errorf("%s is still there", id)
		}
		return nil
	})
	_, err := brought.Shell(limited(t, 30*time.Second), "podman image exists localhost/par-own:1")
	_, err2 := origin.Shell(limited(t, 30*time.Second), "podman image exists "+id)
	if err := errors.Join(err, err2); err != nil {
		t.Errorf("an image of the operator's is gone: %v", err)
	}
}
