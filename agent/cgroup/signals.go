package cgroup

import (
	ossignal "os/signal"
	"syscall"
)

// ignoreSignals keeps the guard alive while systemd ends the agent's unit: it
// ends with its input, right after the agent.
func ignoreSignals() {
	ossignal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
}
