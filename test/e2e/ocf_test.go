//go:build lab

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
)

// agentPath is the resource agent on a node.
const agentPath = "/usr/lib/ocf/resource.d/understudy/service"

// OCF's exit codes by the names that the matrix uses.
const (
	success          = 0
	errGeneric       = 1
	notRunning       = 7
	runningPromoted  = 8
	failedPromoted   = 9
	degradedPromoted = 191
)

// order is one run of the resource agent by hand, as Pacemaker would run it.
type order struct {
	service, action string
	interval        time.Duration // of a monitor; 0: a probe
	timeout         time.Duration // default patient
	params          []string      // name=value
}

// outcome is what became of an order.
type outcome struct {
	code int
	said string // on stderr: reasons and warnings
	took time.Duration
}

// run carries the order out on the node. It fails the test if it overruns its timeout.
func (o order) run(t *testing.T, n *lab.Node) outcome {
	t.Helper()
	if o.timeout == 0 {
		o.timeout = patient
	}
	env := []string{
		"OCF_ROOT=/usr/lib/ocf", "OCF_RESOURCE_INSTANCE=" + o.service, "OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=1",
		fmt.Sprintf("OCF_RESKEY_CRM_meta_timeout=%d", o.timeout.Milliseconds()),
		fmt.Sprintf("OCF_RESKEY_CRM_meta_interval=%d", o.interval.Milliseconds()),
	}
	for _, p := range o.params {
		name, value, _ := strings.Cut(p, "=")
		env = append(env, "OCF_RESKEY_"+strings.ReplaceAll(name, "-", "_")+"="+value)
	}
	began := time.Now()
	_, err := n.Exec(limited(t, o.timeout+20*time.Second), append(append([]string{"env"}, env...), agentPath, o.action)...)
	out := outcome{took: time.Since(began)}
	var failed *lab.CommandError
	if errors.As(err, &failed) {
		out.code, out.said = failed.ExitCode(), failed.Stderr
	} else {
		must(t, err)
	}
	if out.took > o.timeout {
		t.Errorf("%s of %s took %v, its timeout is %v", o.action, o.service, out.took, o.timeout)
	}
	return out
}

// hand is a service that the tests order about by hand on one node, apart from
// the cluster's: a container of busybox with a HEALTHCHECK that a file makes fail,
// and a restart policy that would start it behind Pacemaker's back.
type hand struct {
	c    *cluster
	node *lab.Node
	name string
	// limit is the timeout of all orders but stop.
	limit time.Duration
}

const handAddress = "192.0.2.110"

// Timeouts of orders by hand: the short one where some of them can only wait for it.
const (
	patient = 6 * time.Second
	short   = 2500 * time.Millisecond
)

// byHand makes the service's container; Pacemaker keeps its hands off everything meanwhile.
func byHand(t *testing.T, c *cluster, n *lab.Node, name string) *hand {
	t.Helper()
	h := &hand{c, n, name, patient}
	must(t, n.LoadImage(limited(t, time.Minute), "busybox"))
	c.sh(t, n, "pcs property set maintenance-mode=true\n"+forget(name)+fmt.Sprintf(`
podman volume create %[1]s-data >/dev/null
podman create --name %[1]s --restart=always -v %[1]s-data:/data --health-cmd 'test ! -e /tmp/sick' --health-interval 1s --health-retries 1 localhost/busybox:1 >/dev/null`, name))
	t.Cleanup(func() {
		if _, err := n.Shell(limited(t, time.Minute), `systemctl kill -s CONT podman.service || true
systemctl start podman.socket understudy`); err != nil {
			t.Error(err)
		}
		eventually(t, 30*time.Second, "a stop", func() error {
			if out := h.do(t, "stop"); out.code != success {
				return errors.New(out.said)
			}
			return nil
		})
		c.sh(t, n, forget(name)+"\npcs property set maintenance-mode=false")
	})
	return h
}

// do carries an action out, "probe" and "monitor" being the two ways to monitor.
func (h *hand) do(t *testing.T, action string, params ...string) outcome {
	t.Helper()
	o := order{service: h.name, action: action, timeout: h.limit, params: append([]string{"vip=" + handAddress + "/24", "containers=" + h.name}, params...)}
	switch action {
	case "probe":
		o.action = "monitor"
	case "monitor":
		o.interval = 10 * time.Second
	case "stop":
		o.timeout = 20 * time.Second
	}
	return o.run(t, h.node)
}

// want carries actions out and compares the exit codes, in the order given.
func (h *hand) want(t *testing.T, wants ...want) {
	t.Helper()
	for _, w := range wants {
		out := h.do(t, w.action, w.params...)
		if out.code != w.code {
			t.Errorf("%s %v: exit code %d, want %d: %s", w.action, w.params, out.code, w.code, out.said)
		}
		quiet := slices.Contains([]int{success, notRunning, runningPromoted}, out.code)
		if !quiet && !strings.Contains(out.said, "ocf-exit-reason:") {
			t.Errorf("%s: exit code %d without a reason: %q", w.action, out.code, out.said)
		}
	}
}

// want is a line of the matrix.
type want struct {
	action string
	code   int
	params []string
}

// to waits until a monitor gives the code: some states take a moment to be noticed.
func (h *hand) to(t *testing.T, code int) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("monitor to give %d", code), func() error {
		if out := h.do(t, "monitor"); out.code != code {
			return fmt.Errorf("%d: %s", out.code, out.said)
		}
		return nil
	})
}
