//go:build lab

package e2e

import (
	_ "embed" // the corpus
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/lab"
)

//go:embed testdata/parity.sh
var parityCorpus string

// standIns mount a tmpfs where NFS and CIFS would be: the lab has no file server, and what
// is tested is that the definition arrives and that the content is left alone.
const standIns = `for type in nfs cifs; do
printf '#!/bin/sh\nexec mount -i -t tmpfs none "$2"\n' >/sbin/mount.$type
chmod 755 /sbin/mount.$type
done`

// parityNames is how the names of the corpus begin: one network is of Podman's making.
const parityNames = "(par|podman-default-kube)"

// parityGone removes the corpus.
const parityGone = `podman pod rm -af -t 0 >/dev/null 2>&1 || true
podman ps -aq --filter name='^par-' | xargs -r podman rm -f -v -t 0 >/dev/null
podman volume ls -q | grep '^par-' | xargs -r podman volume rm -f >/dev/null || true
podman network ls -q | grep -E '^(par-|podman-default-kube)' | xargs -r podman network rm -f >/dev/null || true
podman secret ls --format '{{.Name}}' | grep '^par-' | xargs -r podman secret rm >/dev/null || true
rm -rf /srv/parity /etc/parity /srv/.understudy-stage* /sbin/mount.nfs /sbin/mount.cifs`

// testParity: containers, pods, networks, volumes and secrets of every kind that is
// carried are made on one node, as people make them, some from Kubernetes YAML. The agents
// make them on the other, and podman inspect says the same on both, there and back again.
func testParity(t *testing.T, c *cluster) {
	n1 := c.Node("n1")
	s := service{c, "parity"}
	t.Cleanup(func() { s.remove(t, parityGone+"\n"+imagesGone) })
	must(t, n1.LoadImage(limited(t, time.Minute), "busybox"))
	must(t, c.EachNode(func(n *lab.Node) error { _, err := n.Shell(limited(t, time.Minute), standIns); return err }))
	must(t, n1.WriteFile(limited(t, time.Minute), "/root/parity.sh", []byte(parityCorpus), 0o700))
	c.sh(t, n1, "/root/parity.sh 2>&1")
	must(t, n1.WriteFile(limited(t, time.Minute), kubePath, []byte(kubeYAML), 0o600))
	c.sh(t, n1, kubePlayed)
	c.sh(t, n1, imagesMade)
	c.sh(t, c.Node("n2"), "mkdir -p /srv/parity/www; echo mine >/srv/parity/www/own")
	objects := corpus(t, c, n1, parityNames)
	total := 0
	for _, names := range objects {
		total += len(names)
	}
	if total < 40 {
		t.Fatalf("the corpus has %d objects only", total)
	}
	containers := c.sh(t, n1, `podman ps -a --filter name='^par-' --format '{{.Names}} {{.Pod}}' | awk 'NF==1 {print $1}' | xargs`)
	s.create(t, fmt.Sprintf(`containers="%s" pods="par-pod par-netpod par-loose" kube=%s bind-mounts=replicate`, containers, kubePath))
	began := time.Now()
	was, now := s.ready(t)
	waiting(t, c, now, objects["container"])
	t.Logf("%d objects: ready for a takeover after %v", total, time.Since(began).Round(time.Second))
	alike(t, c, was, now, parityNames, objects)
	named(t, c, was, now)
	served(t, c, was, now)
	if sv, err := c.serviceCalled(now, s.name); err != nil || len(sv.Diverged) != 1 {
		t.Errorf("what %s had in a directory that is replicated is not archived: %q, %v", now.Name(), sv.Diverged, err)
	}
	c.sh(t, was, "understudy switchover parity --yes")
	s.ready(t)
	if s.role(t, now) != api.RoleActive {
		t.Fatalf("%s did not become active", now.Name())
	}
	waiting(t, c, was, objects["container"])
	alike(t, c, was, now, parityNames, objects)
	content(t, c, now)
	c.sh(t, now, unusedSoon)
	old := c.sh(t, now, "podman image inspect --format '{{.Id}}' localhost/par-img:stable")
	anew(t, c, now, was)
	s.ready(t)
	unused(t, c, now, was, old)
}

// waiting returns when all containers are set up; those of pods' namespaces run.
func waiting(t *testing.T, c *cluster, n *lab.Node, names []string) {
	t.Helper()
	eventually(t, 5*time.Minute, "containers set up on "+n.Name(), func() error {
		states := strings.Fields(c.sh(t, n, "podman ps -a --format '{{.Names}}={{.State}}'"))
		for _, name := range names {
			if !slices.Contains(states, name+"=initialized") && !slices.Contains(states, name+"=running") {
				return fmt.Errorf("%s is not set up in %v", name, states)
			}
		}
		return nil
	})
}

// content: what is mounted is what it was on the first node.
func content(t *testing.T, c *cluster, n *lab.Node) {
	for command, want := range map[string]string{
		"podman exec par-binds cat /www/index.html /bound/file":                                            "hello\nbound",
		"podman exec par-secret cat /run/secrets/par-first":                                                "first secret",
		"podman exec par-secret sh -c 'echo $PASSWORD'":                                                    "first secret",
		"podman exec par-secret od -An -c /etc/key | tr -s ' '":                                            `k e y 377 \0 o f b y t e s`,
		"podman exec par-pod-web sh -c 'echo shared >/dev/shm/x'; podman exec par-pod-side cat /dev/shm/x": "shared",
		"podman exec par-pod-web cat /run/secrets/par-first /etc/hostname":                                 "first secret",
		"podman exec par-kube-web sh -c 'cat /files/file /conf/file; echo $COLOUR $PASSWORD $TOKEN'":       "file from the map blue first t0ken",
		"podman exec par-kube-api-pod-api hostname":                                                        "par-kube-api-pod",
		"podman exec par-several ip -o address show dev data0 | grep -c 203.0.113":                         "1",
	} {
		if got := c.sh(t, n, command); !strings.Contains(strings.Join(strings.Fields(got), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// kinds are what podman inspect knows, and how to list those whose name begins with PREFIX-.
var kinds = []struct{ name, list, inspect string }{
	{"container", `podman ps -a --filter name='^PREFIX-' --format '{{.Names}}'; podman ps -a --filter name='-infra$' --format '{{.Names}}'`, "podman container inspect"},
	{"pod", `podman pod ps --filter name='^PREFIX-' --format '{{.Name}}'`, "podman pod inspect"},
	{"network", `podman network ls -q | grep -E '^PREFIX-'`, "podman network inspect"},
	{"volume", `podman volume ls -q | grep -E '^(PREFIX-|[0-9a-f]{64}$)'`, "podman volume inspect"},
	{"secret", `podman secret ls --format '{{.Name}}' | grep -E '^PREFIX-'`, "podman secret inspect --showsecret"},
}

// corpus lists the names by kind.
func corpus(t *testing.T, c *cluster, n *lab.Node, prefix string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, k := range kinds {
		names := strings.Fields(c.sh(t, n, "("+strings.ReplaceAll(k.list, "PREFIX", prefix)+") || true"))
		slices.Sort(names)
		out[k.name] = slices.Compact(names)
	}
	return out
}

// differs is all in which the two nodes may differ. IDs do not stand here: they are
// replaced by the names of what they are of before anything is compared.
var differs = map[string]map[string]string{
	"container": {
		"Created":                    "time",
		"State":                      "the moment: running on one node, initialised on the other",
		"RestartCount":               "the moment",
		"ExecIDs":                    "the moment",
		"lockNumber":                 "identity: a slot of the node's Podman",
		"GraphDriver.Data":           "identity: directories of the node's storage",
		"NetworkSettings.SandboxKey": "identity: of the network namespace",
		"ImageDigest":                "of the manifest, which says how layers were compressed when the image came; Image, the ID, is compared",
	},
	"pod": {
		"Created":    "time",
		"State":      "the moment",
		"Containers": "the moment: their states; the names are compared",
		"LockNumber": "identity: a slot of the node's Podman",
	},
	"network": {
		"created":    "time",
		"containers": "the moment: addresses of those that run",
	},
	"volume": {
		"CreatedAt":  "time",
		"LockNumber": "identity: a slot of the node's Podman",
		"MountCount": "the moment",
		"NeedsChown": "the moment: whether it was mounted before",
	},
	"secret": {
		"CreatedAt": "time",
		"UpdatedAt": "time",
	},
}

// infraDiffers is in what containers may differ besides that only hold a pod's namespaces.
var infraDiffers = map[string]string{
	"Image":               "identity: each node's Podman builds it for itself",
	"Config.Umask":        "Podman's API takes no such setting for it; all it runs is a process that waits",
	"Config.sdNotifyMode": "the same",
}

// served: what a file server keeps is not carried from node to node.
func served(t *testing.T, c *cluster, was, now *lab.Node) {
	t.Helper()
	c.sh(t, was, "podman exec par-elsewhere sh -c 'echo x >/nfs/own; echo x >/cifs/own'")
	c.sh(t, was, "podman exec par-volumes sh -c 'echo x >/data/own'") // this one is
	_, err := c.Agent(was).Replicate(limited(t, time.Minute), "parity")
	must(t, err)
	eventually(t, time.Minute, "par-data's file on "+now.Name(), func() error {
		_, err := os.Stat(now.HostPath(filepath.Join(volumes, "par-data/_data/own")))
		return err
	})
	for _, volume := range []string{"par-nfs", "par-cifs"} {
		if _, err := os.Stat(now.HostPath(filepath.Join(volumes, volume, "_data/own"))); err == nil {
			t.Errorf("the content of volume %s was carried", volume)
		}
	}
}

// byDigest are the containers whose image was named by digest, and digestDiffers is in what they may differ besides.
var byDigest = []string{"par-digest", "par-kube-api-pod-api"}

var digestDiffers = map[string]string{
	"ImageName":    "the digest is of the manifest, as ImageDigest; such an image goes by its ID, or a name that it has, on the other node",
	"Config.Image": "the same",
}

// alike compares everything on both nodes.
func alike(t *testing.T, c *cluster, a, b *lab.Node, prefix string, objects map[string][]string) {
	t.Helper()
	if there := corpus(t, c, b, prefix); fmt.Sprint(there) != fmt.Sprint(objects) {
		t.Errorf("the nodes have other objects:\n%s: %v\n%s: %v", a.Name(), objects, b.Name(), there)
		return
	}
	ids := strings.NewReplacer(append(identities(t, c, a, objects), identities(t, c, b, objects)...)...)
	for _, k := range kinds {
		x, y := described(t, c, a, ids, k.name, k.inspect, objects), described(t, c, b, ids, k.name, k.inspect, objects)
		for i, name := range objects[k.name] {
			for _, where := range different("", x[i], y[i]) {
				t.Errorf("podman inspect of %s %s differs at %s", k.name, name, where)
			}
		}
	}
}

// described is what podman inspect says of all objects of a kind, by their order.
func described(t *testing.T, c *cluster, n *lab.Node, ids *strings.Replacer, kind, inspect string, objects map[string][]string) []any {
	t.Helper()
	if len(objects[kind]) == 0 {
		return nil
	}
	text := c.sh(t, n, inspect+" "+strings.Join(objects[kind], " "))
	var list []any
	must(t, json.Unmarshal([]byte(ids.Replace(text)), &list))
	if len(list) != len(objects[kind]) {
		t.Fatalf("%d of %d objects of the kind %s are described on %s", len(list), len(objects[kind]), kind, n.Name())
	}
	for _, d := range list {
		for path := range differs[kind] {
			omit(d, strings.Split(path, "."))
		}
		m, _ := d.(map[string]any)
		if m["IsInfra"] == true {
			for path := range infraDiffers {
				omit(d, strings.Split(path, "."))
			}
		}
		if name, _ := m["Name"].(string); kind == "container" && slices.Contains(byDigest, name) {
			for path := range digestDiffers {
				omit(d, strings.Split(path, "."))
			}
		}
		settle(d)
	}
	return list
}

// identities are pairs: the IDs of containers, pods, networks and secrets, long and short,
// and the names to replace them by, also in paths.
func identities(t *testing.T, c *cluster, n *lab.Node, objects map[string][]string) (pairs []string) {
	t.Helper()
	for _, k := range kinds {
		field, ok := map[string]string{"container": ".Id", "pod": ".ID", "network": ".ID", "secret": ".ID"}[k.name]
		if !ok || len(objects[k.name]) == 0 {
			continue
		}
		ids := strings.Fields(c.sh(t, n, strings.TrimSuffix(k.inspect, " --showsecret")+" --format '{{"+field+"}}' "+strings.Join(objects[k.name], " ")))
		for i, id := range ids {
			name := "<" + k.name + " " + objects[k.name][i] + ">"
			pairs = append(pairs, id, name, id[:12], name)
		}
	}
	return pairs
}

// omit removes what is at a path.
func omit(d any, path []string) {
	m, ok := d.(map[string]any)
	if !ok {
		return
	}
	if len(path) == 1 {
		delete(m, path[0])
		return
	}
	omit(m[path[0]], path[1:])
}

// settle orders what Podman lists in no particular order, and removes the addresses
// that nobody chose: Podman gives them out anew at every start.
func settle(d any) {
	m, ok := d.(map[string]any)
	if !ok {
		return
	}
	ordered(m["SharedNamespaces"])
	config, _ := m["Config"].(map[string]any)
	ordered(config["Env"])
	host, _ := m["HostConfig"].(map[string]any)
	ordered(host["Binds"])
	ordered(m["Mounts"])
	if infra, ok := m["InfraConfig"].(map[string]any); ok {
		ordered(infra["Networks"])
	}
	if host["UTSMode"] == "host" { // the node's own name
		delete(config, "Hostname")
		config["Env"] = slices.DeleteFunc(config["Env"].([]any), func(v any) bool { return strings.HasPrefix(fmt.Sprint(v), "HOSTNAME=") })
	}
	command := fmt.Sprint(config["CreateCommand"])
	net, _ := m["NetworkSettings"].(map[string]any)
	networks, _ := net["Networks"].(map[string]any)
	for _, n := range append([]any{net}, slices.Collect(maps.Values(networks))...) {
		n, _ := n.(map[string]any)
		for _, field := range []string{"IPAddress", "GlobalIPv6Address", "MacAddress"} {
			if a, _ := n[field].(string); !strings.Contains(command, a) {
				delete(n, field)
			}
		}
	}
}

func ordered(v any) {
	list, _ := v.([]any)
	slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
}
