package podman

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNodeImagesPruned: what Understudy brought goes when nobody needs it, and nothing else.
func TestNodeImagesPruned(t *testing.T) {
	c, ctx := imagesClient(t)
	own, _ := makeImage(ctx, t, c, "localhost/img-own:1")
	id, archive := makeImage(ctx, t, c, "localhost/img-a:1")
	now := time.Now()
	bring := func() {
		t.Helper()
		podman(t, "rmi", "localhost/img-a:1")
		if got, err := c.Bring(ctx, archive, id); err != nil || got != id {
			t.Fatalf("%s, %v", got, err)
		}
		if err := errors.Join(c.record.gave(id, []string{"localhost/img-a:1"}), c.Tag(ctx, id, []string{"localhost/img-a:1"})); err != nil {
			t.Fatal(err)
		}
	}
	prune := func(after time.Duration, needed ...string) []string {
		t.Helper()
		now = now.Add(after)
		gone, err := c.PruneImages(ctx, needed, time.Hour, now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Image(ctx, own); err != nil {
			t.Fatalf("the operator's own image: %v", err)
		}
		return gone
	}
	bring()
	for _, step := range []struct {
		what   string
		after  time.Duration
		needed []string
	}{
		{"it is needed", 2 * time.Hour, []string{id}},
		{"it is not needed just now", 0, nil},
		{"it is needed again", 2 * time.Hour, []string{id}},
		{"it is not needed any more", 0, nil},
		{"it was needed a minute ago", time.Minute, nil},
	} {
		if gone := prune(step.after, step.needed...); len(gone) > 0 {
			t.Fatalf("%s, and it was removed", step.what)
		}
	}
	podman(t, "create", "--name", "img-user", "localhost/img-a:1", "true")
	if gone := prune(2 * time.Hour); len(gone) > 0 {
		t.Error("a container uses it, and it was removed")
	}
	podman(t, "rm", "img-user")
	if gone := prune(0); !slices.Equal(gone, []string{id}) {
		t.Errorf("nobody needs it, and %q went", gone)
	}
	if _, err := c.Image(ctx, id); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is still there: %v", err)
	}
	for what, take := range map[string][]string{
		"the operator gave it a name":   {"tag", "localhost/img-a:1", "localhost/img-mine:1"},
		"the operator had it before us": nil,
	} {
		if take == nil {
			if _, err := c.Load(ctx, archive, id); err != nil {
				t.Fatal(err)
			}
			podman(t, "tag", id, "localhost/img-a:1")
			if _, err := c.Bring(ctx, archive, id); err != nil {
				t.Fatal(err)
			}
		} else {
			if _, err := c.Load(ctx, archive, id); err != nil {
				t.Fatal(err)
			}
			podman(t, "tag", id, "localhost/img-a:1")
			bring()
			podman(t, "create", "--name", "img-user", "localhost/img-a:1", "true")
			podman(t, take...)
			podman(t, "rm", "img-user")
		}
		prune(0)
		if gone := prune(2 * time.Hour); len(gone) > 0 {
			t.Errorf("%s, and it was removed", what)
		}
		for _, name := range []string{"localhost/img-mine:1", "localhost/img-built:1"} {
			_ = exec.Command("podman", "rmi", name).Run()
		}
		_ = exec.Command("podman", "rmi", "-f", id).Run()
		if err := c.forgetImage(id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNodeImagesBuiltOn: an image that was built on one that goes stays whole.
func TestNodeImagesBuiltOn(t *testing.T) {
	c, ctx := imagesClient(t)
	id, archive := makeImage(ctx, t, c, "localhost/img-a:1")
	podman(t, "rmi", "localhost/img-a:1")
	if _, err := c.Bring(ctx, archive, id); err != nil {
		t.Fatal(err)
	}
	podman(t, "create", "--name", "img-user", id, "true")
	podman(t, "commit", "-q", "img-user", "localhost/img-built:1")
	podman(t, "rm", "img-user")
	for range 2 {
		if _, err := c.PruneImages(ctx, nil, 0, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	built, err := c.Image(ctx, "localhost/img-built:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.VerifyImage(ctx, built.ID); err != nil {
		t.Error(err)
	}
}

// layerOf is the directory of the topmost layer of an image.
func layerOf(t *testing.T, name string) string {
	t.Helper()
	return podman(t, "image", "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", name)
}

// TestNodeImagesDamaged: whatever a power cut does to a layer is noticed, and the image is
// what it was after it was loaded anew, with its names, and the operator's if it was his.
func TestNodeImagesDamaged(t *testing.T) {
	c, ctx := imagesClient(t)
	id, archive := makeImage(ctx, t, c, "localhost/img-a:1")
	podman(t, "tag", "localhost/img-a:1", "localhost/img-other:2")
	if err := c.VerifyImage(ctx, id); err != nil {
		t.Fatalf("a whole image: %v", err)
	}
	for name, harm := range map[string]string{
		"truncated":      "truncate -s 4096 random",
		"empty":          ": >text",
		"zeroes":         "dd if=/dev/zero of=random bs=4096 count=1 seek=3 conv=notrunc",
		"file gone":      "rm text",
		"layer gone":     "cd ..; rm -rf diff; mkdir diff",
		"directory gone": "d=$(dirname $PWD); cd /; rm -rf $d",
	} {
		if out, err := exec.Command("sh", "-ec", "cd "+layerOf(t, id)+"; "+harm+" 2>&1").CombinedOutput(); err != nil {
			t.Fatalf("%s: %s", name, out)
		}
		if err := c.VerifyImage(ctx, id); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if err := c.DropDamaged(ctx, []string{id}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := c.Bring(ctx, archive, id); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		names := []string{"localhost/img-a:1", "localhost/img-other:2"}
		if name == "directory gone" { // Podman cannot tell them; see Realise
			if err := c.Tag(ctx, id, names); err != nil {
				t.Fatal(err)
			}
		}
		img, err := c.Image(ctx, id)
		if err != nil || !slices.Equal(img.Names, names) {
			t.Errorf("%s: names %q, %v", name, img.Names, err)
		}
		if err := c.VerifyImage(ctx, id); err != nil {
			t.Errorf("%s, loaded anew: %v", name, err)
		}
		if b, err := c.brought(); err != nil || len(b) > 0 {
			t.Errorf("%s: it counts as brought: %v, %v", name, b, err)
		}
	}
	podman(t, "create", "--name", "img-user", id, "true")
	if err := c.DropDamaged(ctx, []string{id}); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "img-user") {
		t.Errorf("a container of the operator's uses it: %v", err)
	}
	if err := c.record.setContainer("img-user", entry{}); err != nil {
		t.Fatal(err)
	}
	podman(t, "run", "-d", "--name", "img-runs", id, "sleep", "1000")
	if err := c.DropDamaged(ctx, []string{id}); !errors.Is(err, ErrRunning) {
		t.Errorf("a container of it runs: %v", err)
	}
	podman(t, "rm", "-f", "-t", "0", "img-runs")
	// Killed after the names were taken, and before it was loaded.
	if err := c.DropDamaged(ctx, []string{id}); err != nil {
		t.Fatal(err)
	}
	if err := c.DropDamaged(ctx, []string{id}); err != nil {
		t.Fatal(err)
	}
	again := killed(t, c)
	if _, err := again.Bring(ctx, archive, id); err != nil {
		t.Fatal(err)
	}
	if img, err := again.Image(ctx, id); err != nil || len(img.Names) != 2 {
		t.Errorf("after a kill: names %q, %v", img.Names, err)
	}
}
