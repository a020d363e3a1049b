//go:build lab

package e2e

import _ "embed" // the YAML

//go:embed testdata/kube.yaml
var kubeYAML string

const (
	kubePath = "/etc/parity/kube.yaml"
	// kubePlayed makes the pods of the YAML, and a secret that it does not define.
	kubePlayed = `mkdir -p /srv/parity/files; echo file >/srv/parity/files/file
printf '{"apiVersion":"v1","kind":"Secret","metadata":{"name":"par-kube-outside"},"stringData":{"token":"t0ken"}}' | podman kube play - >/dev/null
podman kube play --start=false ` + kubePath + " >/dev/null"
)
