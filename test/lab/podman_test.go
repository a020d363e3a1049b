//go:build lab

package lab

import (
	"strings"
	"testing"
	"time"
)

// clientGet asks for a page by HTTP/1.0 from the client's network.
func clientGet(t *testing.T, l *Lab, method, host, port, path string) string {
	t.Helper()
	out, _ := l.Client().Exec(t.Context(), "timeout", "5", "bash", "-c",
		`exec 3<>"/dev/tcp/$0/$1" && printf '%s %s HTTP/1.0\r\n\r\n' "$2" "$3" >&3 && cat <&3`, host, port, method, path)
	return string(out)
}

func TestPodman(t *testing.T) {
	l := upLab(t, "pod", Options{FS: "ext4"})
	n1, n2 := l.Node("n1"), l.Node("n2")
	if got := shell(t, n1, "stat -f -c %T /var/lib/containers"); got != "ext2/ext3" {
		t.Errorf("file system %q", got)
	}
	for _, name := range []string{"busybox", "registry", "ledger"} {
		must(t, n1.LoadImage(t.Context(), name))
	}
	must(t, n2.LoadImage(t.Context(), "busybox"))
	shell(t, n1, `
podman network create shop
podman run -d --name registry --network shop -p 5000:5000 -v registry:/var/lib/registry localhost/registry:1
podman run -d --name ledger --network shop -p 8080:8080 -v ledger:/data localhost/ledger:1
curl -sf --unix-socket /run/podman/podman.sock http://d/v5.0.0/libpod/info >/dev/null`)
	eventually(t, 10*time.Second, "the registry answers the client", func() bool {
		return strings.Contains(clientGet(t, l, "GET", n1.IP(), "5000", "/v2/"), "200 OK")
	})
	eventually(t, 10*time.Second, "containers find each other by name", func() bool {
		return shell(t, n1, "podman run --rm --network shop localhost/busybox:1 wget -qO- http://ledger:8080/healthz || true") == "ok"
	})
	shell(t, n2, `podman push -q --tls-verify=false localhost/busybox:1 192.0.2.1:5000/busybox:pushed`)
	shell(t, n2, `podman rmi -af; podman pull -q --tls-verify=false 192.0.2.1:5000/busybox:pushed`)

	shell(t, n1, "podman pause ledger; podman unpause ledger; sync")
	if got := clientGet(t, l, "POST", n1.IP(), "8080", "/append?n=42"); !strings.Contains(got, "200 OK") {
		t.Fatalf("append: %q", got)
	}
	// What the ledger has acknowledged it has synced: it survives the power cut.
	must(t, n1.Reset(t.Context()))
	shell(t, n1, "podman start ledger")
	eventually(t, 10*time.Second, "the ledger remembers", func() bool {
		return strings.HasSuffix(clientGet(t, l, "GET", n1.IP(), "8080", "/list"), "\r\n\r\n42\n")
	})
	if got := shell(t, n1, "podman stop -t 5 ledger >/dev/null; podman inspect -f '{{.State.ExitCode}}' ledger"); got != "0" {
		t.Errorf("the ledger ends on SIGTERM with %s", got)
	}
}
