package podman

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestNodeExec: a command's end is waited for and its code is heeded; one that takes
// too long is ended, and leaves no session that would be in the way of a stop.
func TestNodeExec(t *testing.T) {
	c, ctx := nodeClient(t)
	podman(t, "run", "-d", "--name", "x1", image, "sleep", "1000")
	t.Cleanup(func() { podman(t, "rm", "-f", "-t", "0", "x1") })
	if err := c.Exec(ctx, "x1", []string{"sh", "-c", "sleep 0.2; echo done > /done"}); err != nil {
		t.Fatal(err)
	}
	if got := podman(t, "exec", "x1", "cat", "/done"); got != "done" {
		t.Errorf("Exec returned before the command had ended: %q", got)
	}
	if err := c.Exec(ctx, "x1", []string{"sh", "-c", "exit 3"}); err == nil || !strings.Contains(err.Error(), "code 3") || !strings.Contains(err.Error(), "x1") {
		t.Errorf("exit code 3: %v", err)
	}
	if err := c.Exec(ctx, "x1", []string{"no-such-program"}); err == nil {
		t.Error("a program that there is not")
	}
	short, cancel := context.WithTimeout(ctx, 3*time.Second) // a slow machine has started it by then
	defer cancel()
	if err := c.Exec(short, "x1", []string{"sh", "-c", "trap '' TERM; sleep 300"}); !errors.Is(err, context.DeadlineExceeded) && (err == nil || !strings.Contains(err.Error(), "in time")) {
		t.Errorf("a command that does not end: %v", err)
	}
	for end := time.Now().Add(time.Minute); strings.Contains(podman(t, "top", "x1", "args"), "sleep 300"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the command that took too long still runs")
		}
	}
	for end := time.Now().Add(time.Minute); podman(t, "inspect", "-f", "{{len .ExecIDs}}", "x1") != "0"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("exec sessions are left")
		}
	}
	if err := c.Exec(ctx, "x-none", []string{"true"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("in no container: %v", err)
	}
}
