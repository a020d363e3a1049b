package cgroup

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the other processes of these tests.
func TestMain(m *testing.M) {
	switch os.Getenv("CGROUP_TEST") {
	case "":
		os.Exit(m.Run())
	case "conmon":
		fakeConmon()
	case "guard":
		if err := GuardMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "agent":
		fakeAgent()
	}
}

var ids = [...]string{strings.Repeat("ab12", 16), strings.Repeat("cd34", 16)}

// root makes a cgroup of this test's own in the machine's cgroup2 hierarchy and
// empties and removes it afterwards.
func root(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	mount := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			mount = f[1]
		}
	}
	if mount == "" {
		mount = t.TempDir()
		if err := unix.Mount("cgroup2", mount, "cgroup2", 0, ""); err != nil {
			t.Skipf("no cgroup2 here: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(mount, 0) })
	}
	dir, err := os.MkdirTemp(mount, "understudy-test-")
	if err != nil {
		t.Skipf("no right to make a cgroup: %v", err)
	}
	t.Cleanup(func() {
		thawTree(dir)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := Kill(ctx, dir); err != nil {
			t.Error(err)
		}
		removeTree(t, dir)
	})
	return dir
}

func thawTree(dir string) {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			thaw(path)
		}
		return nil
	})
}

func removeTree(t *testing.T, dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeTree(t, filepath.Join(dir, e.Name()))
		}
	}
	var err error
	for range 100 { // the last process is gone a little after the kernel says so
		if err = os.Remove(dir); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error(err)
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// in starts a command inside a cgroup; it is killed and reaped after the test.
func in(t *testing.T, cgroup string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	startIn(t, cgroup, cmd)
	go cmd.Wait() // a zombie would not count, but keeps its pid
	return cmd
}

func startIn(t *testing.T, cgroup string, cmd *exec.Cmd) {
	t.Helper()
	fd, err := unix.Open(cgroup, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
}

// fakeConmon starts a process in the cgroup that it is told and waits for it,
// as conmon does. CONMON_HANG: it stays when its container has ended.
// CONMON_RESTART: it starts it a second time, as a restart policy would.
func fakeConmon() {
	for again := os.Getenv("CONMON_RESTART") != ""; ; again = false {
		child := exec.Command("sh", "-c", `trap "" TERM; [ -n "$CONMON_GRACE" ] && trap "exit 0" TERM; while :; do sleep 0.05; done`)
		if dir := os.Getenv("CONMON_CGROUP"); dir != "" {
			fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				panic(err)
			}
			child.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
		}
		if err := child.Start(); err != nil {
			panic(err)
		}
		fmt.Println(child.Process.Pid)
		child.Wait()
		if !again {
			break
		}
	}
	if os.Getenv("CONMON_HANG") != "" {
		time.Sleep(time.Hour)
	}
}

// monitor is a conmon started by a test.
type monitor struct {
	cmd  *exec.Cmd
	init int
}

// conmonBinary copies this program under the name that the search goes by.
func conmonBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "conmon")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Another process writes it: a descriptor of ours would be inherited by what other
	// tests fork meanwhile, and a file that is open for writing cannot be executed.
	if out, err := exec.Command("cp", self, path).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	return path
}

// startConmon runs a fake conmon in cgroup own, its container's process in cgroup payload.
func startConmon(t *testing.T, binary, own, payload string, args []string, env ...string) monitor {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Args[0] = "/usr/bin/conmon"
	cmd.Env = append(append(os.Environ(), "CGROUP_TEST=conmon", "CONMON_CGROUP="+payload), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	startIn(t, own, cmd)
	m := monitor{cmd: cmd}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(line, &m.init)
	go cmd.Wait()
	return m
}

// podmanArgs is a conmon's command line as Podman 5 writes it.
func podmanArgs(name, id, session string) []string {
	return []string{
		"--api-version", "1", "-c", id, "-u", session, "-r", "/usr/bin/crun", "-b", "/var/lib/containers/x/userdata",
		"-p", "/run/containers/x/pidfile", "-n", name, "--exit-dir", "/run/libpod/exits", "--persist-dir", "/run/libpod/persist/" + id,
		"--full-attach", "-s", "-l", "journald", "--log-level", "warning", "--syslog", "--runtime-arg", "--log-format=json",
		"--conmon-pidfile", "/run/x/conmon.pid", "--exit-command", "/usr/bin/podman", "--exit-command-arg", "-n",
		"--exit-command-arg", "other", "--exit-command-arg", "container", "--exit-command-arg", "cleanup", "--exit-command-arg", id,
	}
}
