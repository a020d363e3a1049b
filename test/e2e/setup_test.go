//go:build lab

package e2e

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// testSetup: what README's `pcs resource create` comes to. One node is active, the
// other has a prepared replica: same containers, created and initialised, not
// started; the resource agent passes the checks of those who define what one is.
func testSetup(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	if active.Name() != "n1" {
		t.Errorf("%s is active, not n1 where the containers were made", active.Name())
	}
	if tr := look(active); !tr.active() || tr.programs["registry"] == 0 {
		t.Errorf("n1 does not hold the address and run the containers: %+v", tr)
	}
	tr := look(standby)
	tr.nothing(t, standby, stack.VIP, "registry", "ledger")
	if tr.waiting == 0 {
		t.Error("no process waits in the standby's containers: they are not initialised")
	}
	if out := c.sh(t, active, "understudy ready registry"); out == "" {
		t.Error("understudy ready says nothing")
	}
	t.Run("parity", func(t *testing.T) { parity(t, c, active, standby, "registry", "ledger") })
	t.Run("describe", func(t *testing.T) { describe(t, c, active) })
	t.Run("schema", func(t *testing.T) {
		c.sh(t, active, "OCF_ROOT=/usr/lib/ocf "+agentPath+" meta-data >/tmp/meta.xml\n"+
			"xmllint --noout --nonet --relaxng /usr/share/pacemaker/api/ocf-ra-1.1.rng /tmp/meta.xml 2>&1")
		// Pacemaker itself has read it by now.
		if odd := c.sh(t, active, "grep -E 'assert|XML Error' /var/log/pacemaker/pacemaker.log || true"); odd != "" {
			t.Errorf("Pacemaker stumbles:\n%s", odd)
		}
	})
	t.Run("ocf-tester", func(t *testing.T) { ocfTester(t, c, standby) })
}

// parity: `podman inspect` on both nodes agrees on everything but identity and time.
func parity(t *testing.T, c *cluster, a, b *lab.Node, names ...string) {
	t.Helper()
	for _, name := range names {
		x, y := inspected(t, c, a, name), inspected(t, c, b, name)
		for _, where := range different("", x, y) {
			t.Errorf("podman inspect %s differs at %s", name, where)
		}
	}
}

// inspected is what podman inspect says, without what belongs to the node or the moment.
func inspected(t *testing.T, c *cluster, n *lab.Node, name string) any {
	t.Helper()
	text := c.sh(t, n, "podman inspect "+name)
	id := c.sh(t, n, "podman inspect --format '{{.Id}}' "+name)[:12]
	var list []map[string]any
	must(t, json.Unmarshal([]byte(strings.ReplaceAll(text, id, "ID")), &list))
	d := list[0]
	for _, key := range []string{
		"Id", "Created", "State", "NetworkSettings", "SizeRw", "LockNumber", "RestartCount", "Image", "ImageDigest",
		"ResolvConfPath", "HostnamePath", "HostsPath", "StaticDir", "OCIConfigPath", "ConmonPidFile", "PidFile", "GraphDriver", "ExecIDs", "ProcessLabel", "MountLabel",
	} {
		delete(d, key)
	}
	config := d["Config"].(map[string]any)
	delete(config, "CreateCommand")
	if env, ok := config["Env"].([]any); ok { // Podman lists it in no particular order
		slices.SortFunc(env, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
	if hc, ok := d["HostConfig"].(map[string]any); ok {
		if lc, ok := hc["LogConfig"].(map[string]any); ok {
			delete(lc, "Path") // has the id in it
		}
		delete(hc, "CgroupConf")
	}
	return d
}

// different names the places where two values of JSON differ.
func different(at string, x, y any) []string {
	mx, okx := x.(map[string]any)
	my, oky := y.(map[string]any)
	if okx && oky {
		var out []string
		for k := range mx {
			out = append(out, different(at+"."+k, mx[k], my[k])...)
		}
		for k := range my {
			if _, ok := mx[k]; !ok {
				out = append(out, fmt.Sprintf("%s.%s: only on the second: %v", at, k, my[k]))
			}
		}
		return out
	}
	a, _ := json.Marshal(x)
	b, _ := json.Marshal(y)
	if string(a) != string(b) {
		return []string{fmt.Sprintf("%s: %s and %s", at, a, b)}
	}
	return nil
}

// describe: every parameter is shown by pcs with its meaning, and its default where it has one.
func describe(t *testing.T, c *cluster, n *lab.Node) {
	text := c.sh(t, n, "pcs resource describe ocf:understudy:service --full")
	var meta struct {
		Parameters []struct {
			Name    string `xml:"name,attr"`
			Content struct {
				Default string `xml:"default,attr"`
			} `xml:"content"`
		} `xml:"parameters>parameter"`
	}
	must(t, xml.Unmarshal([]byte(c.sh(t, n, agentPath+" meta-data")), &meta))
	if len(meta.Parameters) < 8 {
		t.Fatalf("the meta-data has %d parameters", len(meta.Parameters))
	}
	for _, p := range meta.Parameters {
		contains(t, "pcs resource describe", text, "\n  "+p.Name)
		if p.Content.Default != "" {
			contains(t, "pcs resource describe", text, "Default: "+p.Content.Default)
		}
	}
}

// ocfTester runs resource-agents' own test on a service of its own.
func ocfTester(t *testing.T, c *cluster, n *lab.Node) {
	must(t, n.LoadImage(limited(t, time.Minute), "busybox"))
	defer c.sh(t, n, forget("tester"))
	out := c.sh(t, n, `podman volume create tester-data >/dev/null
podman create --name tester -v tester-data:/data localhost/busybox:1 >/dev/null
export OCF_RESKEY_CRM_meta_timeout=30000
ocf-tester -n tester -o vip=192.0.2.120/24 -o containers=tester `+agentPath+` 2>&1`)
	contains(t, "ocf-tester", out, "passed all tests")
	if strings.Contains(out, "* Your agent does not support") {
		t.Logf("ocf-tester remarks:\n%s", out)
	}
	sv, err := c.serviceCalled(n, "tester")
	must(t, err)
	if sv.Role != api.RoleStopped {
		t.Errorf("after ocf-tester the service is %s", sv.Role)
	}
	look(n).nothing(t, n, "192.0.2.120", "sleep")
}

// forget removes a service that was only made by hand.
func forget(name string) string {
	return fmt.Sprintf("podman rm -f -t 0 %[1]s >/dev/null 2>&1 || true; podman volume rm -f %[1]s-data >/dev/null 2>&1 || true", name)
}
