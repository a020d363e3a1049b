//go:build lab

package e2e

import (
	"context"
	_ "embed" // the application
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

//go:embed testdata/threetier.sh
var threeTier string

const (
	shopURL  = "http://192.0.2.103:8090/cgi-bin/order"
	shopGone = `podman ps -aq --filter name='^shop-' | xargs -r podman rm -f -v -t 0 >/dev/null
systemctl stop 'shop-*' 2>/dev/null || true
rm -rf /etc/containers/systemd/shop-* /etc/systemd/system/shop-* /srv/shop /srv/.understudy-stage*
systemctl daemon-reload
podman volume ls -q | grep '^shop-' | xargs -r podman volume rm -f >/dev/null || true
podman network ls -q | grep '^shop-' | xargs -r podman network rm -f >/dev/null || true
podman secret rm shop-user >/dev/null 2>&1 || true
podman rmi localhost/shop-web:1 >/dev/null 2>&1 || true`
)

// testThreeTier: a web server, an application and a database, on networks of their own,
// are Quadlet units that systemd runs. They become one service: systemd lets go of
// them, and they move and fail over together, with the database's data, the application's
// files, which are a bind mount, and its secret. The database knows nothing of all this: it
// recovers from a generation as from a crash. What the power cut has done to an image
// of theirs is made good without the other node.
func testThreeTier(t *testing.T, c *cluster) {
	n1, n2 := c.Node("n1"), c.Node("n2")
	s := service{c, "shop"}
	t.Cleanup(func() { s.remove(t, shopGone) })
	takeOver(t, c, s)
	orders := ordering(t, c)
	c.sh(t, n1, "understudy switchover shop --yes")
	if now, _ := s.ready(t); now != n2 {
		t.Fatalf("%s did not become active", n2.Name())
	}
	orders.more(t, 3)
	whole := c.sh(t, n2, webBig)
	c.sh(t, n2, `cd $(podman image inspect --format '{{.GraphDriver.Data.UpperDir}}' localhost/shop-web:1); test -s big; truncate -s 4096 big; sync`)
	if c.sh(t, n2, webBig) == whole {
		t.Fatal("the image is not damaged")
	}
	sv, err := c.serviceCalled(n1, s.name)
	must(t, err)
	fresh := time.Unix(0, sv.FreshAt)
	must(t, n2.PowerOff(limited(t, 30*time.Second)))
	harm := time.Now()
	orders.more(t, 3) // by the node that took over: all three tiers answer
	kept(t, c, orders.stop(), fresh, harm)

	eventually(t, 4*time.Minute, "the image to be repaired", func() error {
		if !n2.Running() {
			return errors.New("the node is off")
		}
		list, err := c.Agent(n2).Log(limited(t, 10*time.Second), api.LogQuery{Since: harm})
		if err != nil {
			return err
		}
		return lacks(fmt.Sprint(list), "loaded anew from what was kept")
	})
	s.ready(t)
	if after := c.sh(t, n2, webBig); after != whole {
		t.Errorf("the image's file is %s, was %s", after, whole)
	}
	if sent := c.sh(t, n1, fmt.Sprintf("journalctl -u understudy -o cat --since @%d | grep 'image sent' || true", harm.Unix())); sent != "" {
		t.Errorf("the active node sent an image: %s", sent)
	}
	// Back again, and nothing but Pacemaker has started anything.
	if got := look(n2).programs; got["httpd"] != 0 || got["perl"] != 0 || got["postgres"] != 0 {
		t.Errorf("on %s, the standby, run %v", n2.Name(), got)
	}
	apart(t, c, n1)
	objects := corpus(t, c, n1, "shop")
	waiting(t, c, n2, objects["container"])
	alike(t, c, n1, n2, "shop", objects)
}

// webBig is a file that only the web server's image has, and nobody reads.
const webBig = "podman run --rm localhost/shop-web:1 sha256sum /big"

// takeOver makes the tiers, as systemd runs them, and hands them to Pacemaker.
func takeOver(t *testing.T, c *cluster, s service) {
	t.Helper()
	n1 := c.Node("n1")
	for _, image := range []string{"busybox", "postgres"} {
		must(t, n1.LoadImage(limited(t, 5*time.Minute), image))
	}
	began := time.Now()
	must(t, n1.WriteFile(limited(t, time.Minute), "/root/threetier.sh", []byte(threeTier), 0o700))
	c.sh(t, n1, "/root/threetier.sh 2>&1")
	if state := strings.Fields(c.sh(t, n1, "systemctl is-active shop-db shop-app shop-web || true")); !slices.Equal(state, []string{"active", "active", "active"}) {
		t.Fatalf("systemd does not run the tiers: %s", state)
	}
	const quadlet = "shop-db.container shop-app.container shop-web.container"
	c.sh(t, n1, "OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=shop OCF_RESKEY_quadlet='"+quadlet+"' "+agentPath+" validate-all 2>&1")
	s.create(t, `vip=192.0.2.103/24 quadlet="`+quadlet+`" bind-mounts=replicate`)
	if was, _ := s.ready(t); was != n1 {
		t.Fatalf("%s is active, not n1 where the units are", was.Name())
	}
	for _, unit := range []string{"shop-db", "shop-app", "shop-web"} {
		contains(t, unit+" of systemd", c.sh(t, n1, "systemctl is-enabled "+unit+".service || true; systemctl is-active "+unit+".service || true"), "masked", "inactive")
	}
	contains(t, "the journal", c.journal(t, n1, began), "unit shop-web.service: stopped and masked")
}

// kept: of the orders that were acknowledged only the last ones before the harm may be lost.
func kept(t *testing.T, c *cluster, acked []write, fresh, harm time.Time) {
	t.Helper()
	present := map[string]bool{}
	for _, n := range strings.Fields(mustAsk(t, c, shopURL)) {
		present[n] = true
	}
	var lost []write
	for _, w := range acked {
		if !present[strconv.Itoa(w.n)] {
			lost = append(lost, w)
		}
	}
	lostIsTail(t, lost, acked, fresh, harm)
	t.Logf("%d orders acknowledged, %d lost: the last %v", len(acked), len(lost), span(lost))
}

// apart: the web server cannot reach the database.
func apart(t *testing.T, c *cluster, n *lab.Node) {
	t.Helper()
	address := c.sh(t, n, `podman inspect --format '{{(index .NetworkSettings.Networks "shop-back").IPAddress}}' shop-db`)
	if out, err := n.Shell(limited(t, 30*time.Second), "podman exec shop-web timeout 3 nc -z "+address+" 5432"); err == nil {
		t.Errorf("the web server reaches the database at %s: %s", address, out)
	}
	c.sh(t, n, "podman exec shop-app perl -e 'use IO::Socket::INET; IO::Socket::INET->new(PeerAddr => q(shop-db:5432), Timeout => 3) or die'")
}

func mustAsk(t *testing.T, c *cluster, url string) (body string) {
	t.Helper()
	eventually(t, 60*time.Second, url, func() (err error) {
		body, err = c.ask(http.MethodGet, url, 5*time.Second)
		return err
	})
	return body
}

// ordering sends order after order through all tiers.
func ordering(t *testing.T, c *cluster) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(interrupted)
	w := &writer{stopping: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for n := 1; ctx.Err() == nil; n++ {
			body, err := c.ask(http.MethodGet, fmt.Sprintf("%s?add?n=%d", shopURL, n), 2*time.Second)
			if err == nil && !strings.Contains(body, "INSERT") {
				err = errors.New(body)
			}
			if err == nil {
				w.mu.Lock()
				w.acked = append(w.acked, write{n, time.Now()})
				w.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { w.stop() })
	w.more(t, 10)
	return w
}
