//go:build lab

package cgroup

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
)

// TestInLab takes TestOnNode to a node of a lab, where there is a real Podman.
//
//	go test -tags lab -run TestInLab ./agent/cgroup
func TestInLab(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	bin := filepath.Join(t.TempDir(), "cgroup.test")
	build := exec.CommandContext(ctx, "go", "test", "-tags", "lab,remote,containers_image_openpgp,exclude_graphdriver_btrfs", "-c", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	l, err := lab.Up(ctx, lab.Options{Name: "cgroup", Nodes: []string{"n1"}, Out: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	n := l.Node("n1")
	if err := n.LoadImage(ctx, "busybox"); err != nil {
		t.Fatal(err)
	}
	if err := n.CopyIn(ctx, bin, "/root/cgroup.test", 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := n.Shell(ctx, "cd /root && CGROUP_ON_NODE=1 ./cgroup.test -test.v -test.run TestOnNode 2>&1")
	t.Log(out)
	if err != nil {
		t.Fatal(err)
	}
}

func podman(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "podman", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("podman %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestOnNode runs inside a node: what Podman says and what the kernel says of
// the same container agree, at every stage of its life.
func TestOnNode(t *testing.T) {
	if os.Getenv("CGROUP_ON_NODE") == "" {
		t.Skip("run by TestInLab")
	}
	h := NewHost(Options{})
	id := podman(t, "create", "--name", "web", "localhost/busybox:1", "sleep", "1000")
	if got, err := h.Find("web"); err != nil || len(got) != 0 {
		t.Errorf("created: %+v, %v", got, err)
	}
	podman(t, "init", "web")
	got, err := h.Find("web")
	if err != nil || len(got) != 1 || got[0].ID != id || got[0].Conmon == 0 || got[0].Init == 0 || len(got[0].Cgroups) != 1 {
		t.Fatalf("initialised: %+v, %v", got, err)
	}
	if h.Started(got[0].Init) {
		t.Error("an initialised container counts as started")
	}
	podman(t, "start", "web")
	if !h.Started(got[0].Init) {
		t.Error("a started container does not count as started")
	}

	f := NewFreezer(FreezerOptions{Dir: FreezeDir, Guard: keeper(t).Guard})
	var frozen []time.Duration
	for range 20 {
		began := time.Now()
		thaw, err := f.For("web", []string{"web"}, time.Second).Freeze(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !isFrozen(got[0].Cgroups[0]) {
			t.Error("not frozen")
		}
		if err := thaw(); err != nil {
			t.Error(err)
		}
		frozen = append(frozen, time.Since(began))
	}
	t.Logf("find, freeze and thaw: %v", frozen)
	podman(t, "exec", "web", "true")

	session := exec.Command("podman", "exec", "web", "sleep", "1000")
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	began := time.Now()
	ev, err := h.Evict(soon(t), EvictRequest{Names: []string{"web"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("in %v: %v", time.Since(began), ev)
	session.Wait()
	if got, err := h.Find("web"); err != nil || len(got) > 0 && (got[0].Conmon != 0 || got[0].Init != 0) {
		t.Errorf("evicted: %+v, %v", got, err)
	}
	if state := podman(t, "inspect", "--format", "{{.State.Status}}", "web"); state != "exited" {
		t.Errorf("Podman has it as %s", state)
	}
	podman(t, "start", "web") // and it can be started again
	if again, err := h.Find("web"); err != nil || len(again) != 1 || !h.Started(again[0].Init) {
		t.Errorf("started again: %+v, %v", again, err)
	}

	// conmon is killed first: the container is found by its name all the same.
	again, err := h.Find("web")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("kill", "-9", strconv.Itoa(again[0].Conmon)).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	awaitGone(t, again[0].Conmon)
	if ev, err = h.Evict(soon(t), EvictRequest{Names: []string{"web"}}); err != nil || len(ev.Killed) == 0 {
		t.Errorf("%+v, %v", ev, err)
	}
	awaitGone(t, again[0].Init)
}
