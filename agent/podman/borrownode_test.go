package podman

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNodeNamesBorrowed: a name is given back to whoever had it, unless somebody took it.
func TestNodeNamesBorrowed(t *testing.T) {
	c, ctx := imagesClient(t)
	first, _ := makeImage(ctx, t, c, "localhost/img-a:1")
	second, _ := makeImage(ctx, t, c, "localhost/img-b:1")
	third, _ := makeImage(ctx, t, c, "localhost/img-c:1")
	owner := func() string {
		img, err := c.Image(ctx, "localhost/img-x:1")
		if ignoreNotFound(err) != nil {
			t.Fatal(err)
		}
		return img.ID
	}
	lend := func() {
		t.Helper()
		if lent, err := c.borrow(ctx, "localhost/img-x:1", second); err != nil || !lent || owner() != second {
			t.Fatalf("%v, %v", lent, err)
		}
	}
	back := func() {
		t.Helper()
		c = killed(t, c)
		if err := c.giveBack(ctx); err != nil {
			t.Fatal(err)
		}
	}
	lend()
	back()
	if got := owner(); got != "" {
		t.Errorf("nobody had it, and %s has it", got)
	}
	podman(t, "tag", first, "localhost/img-x:1")
	lend()
	back()
	if got := owner(); got != first {
		t.Errorf("%s has it, not %s", got, first)
	}
	lend()
	podman(t, "tag", third, "localhost/img-x:1")
	back()
	if got := owner(); got != third {
		t.Errorf("somebody gave it to %s, and %s has it", third, got)
	}
	for _, name := range []string{"localhost/busybox@sha256:" + strings.Repeat("0", 64), "sha256:" + first, first[:12]} {
		if lent, err := c.borrow(ctx, name, second); err != nil || lent {
			t.Errorf("%s was borrowed: %v", name, err)
		}
	}
}

// makeImage makes an image with a layer of its own, and an archive of it.
func makeImage(ctx context.Context, t *testing.T, c *Client, name string) (id, archive string) {
	t.Helper()
	podman(t, "run", "--name", "img-tmp", image, "sh", "-c", "head -c 300000 /dev/urandom >/random; seq 20000 >/text")
	podman(t, "commit", "-q", "img-tmp", name)
	podman(t, "rm", "img-tmp")
	img, err := c.Image(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	archive = filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.ExportOCI(ctx, img.ID, f), f.Close()); err != nil {
		t.Fatal(err)
	}
	return img.ID, archive
}

// imagesClient has a record of its own; another client of the same test shares it.
func imagesClient(t *testing.T) (*Client, context.Context) {
	_, ctx := nodeClient(t)
	c := New(Options{Record: filepath.Join(t.TempDir(), "record.json")})
	t.Cleanup(func() { _ = c.Close() })
	t.Cleanup(func() {
		_ = exec.Command("sh", "-c", "podman ps -aq --filter name='^img-' | xargs -r podman rm -f -t 0; podman images --format '{{.Repository}}:{{.Tag}}' | grep localhost/img | xargs -r podman rmi -f; podman image prune -f").Run()
	})
	return c, ctx
}

// killed is a client that knows no more than the record of the one before.
func killed(t *testing.T, before *Client) *Client {
	c := New(before.opts)
	t.Cleanup(func() { _ = c.Close() })
	return c
}
