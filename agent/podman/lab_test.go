//go:build lab

package podman_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
)

// TestInLab takes this package's tests to two nodes of a lab, where they meet a
// real Podman: one is the origin of a definition, the other its replica.
//
//	go test -tags lab -run TestInLab ./agent/podman
func TestInLab(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	bin := filepath.Join(t.TempDir(), "podman.test")
	// The tags that the bindings need, without "lab".
	build := exec.CommandContext(ctx, "go", "test", "-tags", "remote,containers_image_openpgp,exclude_graphdriver_btrfs", "-c", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	l, err := lab.Up(ctx, lab.Options{Name: "podman"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	n1, n2 := l.Node("n1"), l.Node("n2")
	if err := n1.LoadImage(ctx, "busybox"); err != nil {
		t.Fatal(err)
	}
	for _, n := range l.Nodes() {
		if err := n.CopyIn(ctx, bin, "/root/podman.test", 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Exec(ctx, "mkdir", "-p", "/root/exchange"); err != nil {
			t.Fatal(err)
		}
	}
	run(ctx, t, n1, "TestNodeLifecycle|TestNodeExec|TestNodeRefuses|TestNodeOrigin|TestNodeInterrupted|TestNodeUnits|TestNodeImagesPruned|TestNodeImagesBuiltOn|TestNodeImagesDamaged|TestNodeNamesBorrowed")
	for _, name := range []string{"definition.json", "image.tar"} {
		here := filepath.Join(t.TempDir(), name)
		if err := n1.CopyOut(ctx, "/root/exchange/"+name, here); err != nil {
			t.Fatal(err)
		}
		if err := n2.CopyIn(ctx, here, "/root/exchange/"+name, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(ctx, t, n2, "TestNodeReplica")
	run(ctx, t, n2, "TestNodeRecreate")
}

// run runs tests on a node; none at all is a failure.
func run(ctx context.Context, t *testing.T, n *lab.Node, tests string) {
	t.Helper()
	out, err := n.Exec(ctx, "env", "UNDERSTUDY_PODMAN_TEST=1", "UNDERSTUDY_PODMAN_DIR=/root/exchange",
		"/root/podman.test", "-test.v", "-test.run", "^("+tests+")$")
	t.Logf("%s:\n%s", n.Name(), out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(out, []byte("--- PASS")) || bytes.Contains(out, []byte("--- SKIP")) {
		t.Fatalf("%s on %s: nothing was tested", tests, n.Name())
	}
}
