package cgroup

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]unix.Signal{"": unix.SIGTERM, "SIGINT": unix.SIGINT, "quit": unix.SIGQUIT, "3": unix.SIGQUIT, "nonsense": 0, "0": 0, "99": 0} {
		got, err := parseSignal(name)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("parseSignal(%q) = %v, %v", name, got, err)
		}
	}
}

func TestSignal(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start := StartTime(cmd.Process.Pid)
	if err := Signal(cmd.Process.Pid, start+1, "SIGKILL"); err != nil {
		t.Fatalf("another process with its PID: %v", err)
	}
	if StartTime(cmd.Process.Pid) != start {
		t.Fatal("a process that is not meant was ended")
	}
	if err := Signal(cmd.Process.Pid, start, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process was not signalled")
	}
	if err := Signal(cmd.Process.Pid, start, "SIGTERM"); err != nil {
		t.Errorf("a process that is gone: %v", err)
	}
}
