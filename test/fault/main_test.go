package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/agent/cgroup"
	"github.com/understudy-ha/understudy/replication"
)

// What a child of the test is told by its environment.
const (
	roleEnv     = "FAULT_ROLE"     // a replication.Process, or guard; empty: the test itself
	dirEnv      = "FAULT_DIR"      // of the node
	jobEnv      = "FAULT_JOB"      // JSON of a job
	isolatedEnv = "FAULT_ISOLATED" // set in the namespace
)

const guard = "guard"

func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleEnv); role {
	case "":
		if err = isolate(); err == nil {
			os.Exit(m.Run())
		}
	case guard:
		err = cgroup.GuardMain(os.Stdin, os.Stdout)
	default:
		err = child(replication.Process(role))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// self runs the test's own binary, wherever its file is.
const self = "/proc/self/exe"

// isolate has the test run in a mount namespace of its own, with its temporary files in
// memory: they go with the last of its processes, however that ends. Only root can.
func isolate() error {
	if os.Getuid() != 0 {
		return nil
	}
	dir := filepath.Join(os.TempDir(), "understudy-fault") // the mount point: it stays, and is empty
	if os.Getenv(isolatedEnv) == "" {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("a mount namespace: %w", err)
		}
		if err := os.Setenv(isolatedEnv, "1"); err != nil {
			return err
		}
		return syscall.Exec(self, os.Args, os.Environ())
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("a private mount namespace: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("understudy-fault", dir, "tmpfs", 0, "size=2g,mode=700"); err != nil {
		return fmt.Errorf("a file system in memory: %w", err)
	}
	return os.Setenv("TMPDIR", dir)
}
