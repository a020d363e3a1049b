package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The freezer of cgroup v1, where the machine has it mounted.
func TestV1Freezer(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	mount := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 3 && f[2] == "cgroup" && strings.Contains(","+f[3]+",", ",freezer,") {
			mount = f[1]
		}
	}
	if mount == "" {
		t.Skip("no v1 freezer is mounted")
	}
	dir, err := os.MkdirTemp(mount, "understudy-test-")
	if err != nil {
		t.Skipf("no right to make a cgroup: %v", err)
	}
	t.Cleanup(func() { removeTree(t, dir) })
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() { // v1 counts a zombie as a member
		defer close(reaped)
		cmd.Wait()
	}()
	t.Cleanup(func() { cmd.Process.Kill(); <-reaped })
	if err := writeFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}

	run := t.TempDir()
	f := NewFreezer(FreezerOptions{Dir: run, Guard: keeper(t).Guard})
	z, err := f.Freeze(t.Context(), FreezeRequest{Service: "s", Cgroups: []string{dir}, Max: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if !isFrozen(dir) {
		t.Error("not frozen")
	}
	if err := z.Thaw(); err != nil || isFrozen(dir) {
		t.Errorf("thaw: %v", err)
	}
	if err := freeze(dir); err != nil {
		t.Fatal(err)
	}
	if alive, err := Alive(dir); !alive || err != nil {
		t.Errorf("alive: %v, %v", alive, err)
	}
	if err := Kill(soon(t), dir); err != nil { // a frozen process dies only when thawed
		t.Fatal(err)
	}
}
