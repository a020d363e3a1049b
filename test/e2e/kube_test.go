//go:build lab

package e2e

import (
	_ "embed" // the YAML
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
)

//go:embed testdata/kube.yaml
var kubeYAML string

const (
	kubePath = "/etc/parity/kube.yaml"
	// kubePlayed makes the pods of the YAML, and a secret that it does not define.
	kubePlayed = `mkdir -p /srv/parity/files; echo file >/srv/parity/files/file
printf '{"apiVersion":"v1","kind":"Secret","metadata":{"name":"par-kube-outside"},"stringData":{"token":"t0ken"}}' | podman kube play - >/dev/null
sed -i "s/@DIGEST/@$(podman image inspect --format '{{.Digest}}' localhost/busybox:1)/" ` + kubePath + `
podman kube play --start=false ` + kubePath + " >/dev/null"
)

// anew: with the service in maintenance a container is made of another image, and the pods
// are played again from a changed file, which the standby has not got. It follows.
func anew(t *testing.T, c *cluster, active, standby *lab.Node) {
	t.Helper()
	must(t, active.WriteFile(limited(t, time.Minute), kubePath, []byte(strings.Replace(kubeYAML, "colour: blue", "colour: green", 1)), 0o600))
	c.sh(t, active, `pcs property set maintenance-mode=true
sed -i "s/@DIGEST/@$(podman image inspect --format '{{.Digest}}' localhost/busybox:1)/" `+kubePath+`
podman kube play --replace --start=false `+kubePath+` >/dev/null
podman pod start par-kube par-kube-api-pod >/dev/null
podman rm -f -t 0 par-img-a >/dev/null
podman create --name par-img-a localhost/busybox:1 sleep 100000 >/dev/null
podman start par-img-a >/dev/null
pcs property set maintenance-mode=false`)
	eventually(t, 2*time.Minute, "the pods to be played anew on the standby", func() error {
		seen := c.sh(t, standby, "podman inspect --format '{{.Config.Env}} {{.State.Status}}' par-kube-web || true")
		return errors.Join(lacks(seen, "COLOUR=green"), lacks(seen, "initialized"))
	})
}
