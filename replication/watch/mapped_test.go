package watch

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// asChild makes the test binary do one of the things below instead of testing,
// say a line about it, and stay until its standard input ends.
const asChild = "UNDERSTUDY_TEST_CHILD"

func TestMain(m *testing.M) {
	if what := os.Getenv(asChild); what != "" {
		if err := children[what](os.Args[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin) // until it ends
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var children = map[string]func(path string) error{
	"mapped": func(p string) error { return mapFile(p, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED) },
	"mapped for reading, could be writable": func(p string) error {
		return mapFile(p, os.O_RDWR, unix.PROT_READ, unix.MAP_SHARED)
	},
	"mapped for reading": func(p string) error { return mapFile(p, os.O_RDONLY, unix.PROT_READ, unix.MAP_SHARED) },
	"mapped privately": func(p string) error {
		return mapFile(p, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	},
	"mapped by a child": func(p string) error {
		if err := mapFile(p, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
		return fork()
	},
	"open": func(p string) error { _, err := os.OpenFile(p, os.O_RDWR, 0); return err },
	"open, with asynchronous I/O": func(p string) error {
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return aioWrite(f)
	},
	"open for reading, with asynchronous I/O": func(p string) error {
		if _, err := os.Open(p); err != nil {
			return err
		}
		_, err := aioSetup()
		return err
	},
	"no rights": func(string) error {
		if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
			return fmt.Errorf("New: %w", err)
		}
		if _, err := Mapped([]int{1}); err == nil || !strings.Contains(err.Error(), "CAP_SYS_PTRACE") {
			return fmt.Errorf("Mapped: %w", err)
		}
		return nil
	},
}

// mapFile maps the file for good, and closes it.
func mapFile(path string, flags, prot, kind int) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = unix.Mmap(int(f.Fd()), 0, 4096, prot, kind)
	return err
}

// fork makes a process that has this one's mappings and nothing else, says its
// ID, and ends when standard input does.
func fork() error {
	runtime.LockOSThread()
	var b [1]byte
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 { // nothing of Go's runtime works here
		syscall.RawSyscall(syscall.SYS_READ, 0, uintptr(unsafe.Pointer(&b)), 1)
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
	fmt.Println(pid)
	os.Exit(0) // the child's mappings are its own now
	return nil
}

func aioSetup() (ctx uintptr, err error) {
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&ctx)), 0); errno != 0 {
		return 0, os.NewSyscallError("io_setup", errno)
	}
	return ctx, nil
}

// aioWrite writes a byte as libaio does.
func aioWrite(f *os.File) error {
	ctx, err := aioSetup()
	if err != nil {
		return err
	}
	data := []byte{'a'}
	cb := struct { // struct iocb
		data         uint64
		key, rwFlags uint32
		op, prio     uint16
		fd           uint32
		buf, n, off  uint64
		_            [2]uint64
	}{op: 1, fd: uint32(f.Fd()), buf: uint64(uintptr(unsafe.Pointer(&data[0]))), n: 1}
	cbs, events := &cb, [4]uint64{}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, ctx, 1, uintptr(unsafe.Pointer(&cbs))); errno != 0 {
		return os.NewSyscallError("io_submit", errno)
	}
	if _, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, ctx, 1, 1, uintptr(unsafe.Pointer(&events)), 0, 0); errno != 0 {
		return os.NewSyscallError("io_getevents", errno)
	}
	runtime.KeepAlive(data)
	if events[2] != 1 {
		return fmt.Errorf("written: %d", int64(events[2]))
	}
	return nil
}

// child runs one of children until the test ends it.
func child(t testing.TB, what, path string, how func(*exec.Cmd)) (pid int, end func()) {
	t.Helper()
	c := exec.Command(os.Args[0], path)
	c.Env = append(os.Environ(), asChild+"="+what)
	c.Stderr = os.Stderr
	if how != nil {
		how(c)
	}
	in, err := c.StdinPipe()
	treetest.Must(t, err)
	out, err := c.StdoutPipe()
	treetest.Must(t, err)
	treetest.Must(t, c.Start())
	end = func() { in.Close(); _ = c.Wait() }
	t.Cleanup(end)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
		return pid, end
	}
	if line != "ready\n" {
		t.Fatalf("%s: %s", what, line)
	}
	return c.Process.Pid, end
}

func TestMapped(t *testing.T) {
	for what, want := range map[string]bool{
		"mapped": true, "mapped for reading, could be writable": true, "mapped for reading": false,
		"mapped privately": false, "mapped by a child": true, "open": true,
		"open, with asynchronous I/O": true, "open for reading, with asynchronous I/O": false,
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a\nfile") // which maps shows as \012
			treetest.Write(t, path, make([]byte, 4096))
			pid, end := child(t, what, path, nil)
			var st unix.Stat_t
			treetest.Must(t, unix.Stat(path, &st))
			found, err := Mapped([]int{pid})
			treetest.Must(t, err)
			if _, ok := found[Inode{Dev: uint64(st.Dev), Ino: st.Ino}]; ok != want {
				t.Errorf("found: %v, want %v", ok, want)
			}
			end()
			if found, err = Mapped([]int{pid}); err != nil || len(found) > 0 && what != "mapped by a child" {
				t.Errorf("after its end: %v, %v", found, err)
			}
		})
	}
	if found, err := Mapped(nil); err != nil || len(found) > 0 {
		t.Errorf("of no process: %v, %v", found, err)
	}
}

// On btrfs maps shows another device number than stat.
func TestMappedOnBtrfs(t *testing.T) {
	mnt := treetest.Mount(t, "btrfs")
	sub := filepath.Join(mnt, "sub")
	if out, err := exec.Command("btrfs", "subvolume", "create", sub).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	path := filepath.Join(sub, "f")
	treetest.Write(t, path, make([]byte, 4096))
	pid, end := child(t, "mapped", path, nil)
	defer end()
	var st unix.Stat_t
	treetest.Must(t, unix.Stat(path, &st))
	found, err := Mapped([]int{pid})
	if _, ok := found[Inode{Dev: uint64(st.Dev), Ino: st.Ino}]; !ok || err != nil {
		t.Errorf("%v is not in %v (%v)", st.Ino, found, err)
	}
}

func TestWithoutRights(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("gives up root's rights; run the tests as root")
	}
	child(t, "no rights", "", func(c *exec.Cmd) {
		bin, err := os.ReadFile(c.Path) // the test binary's directory is root's own
		treetest.Must(t, err)
		dir, err := os.MkdirTemp("", "watch")
		treetest.Must(t, err)
		t.Cleanup(func() { treetest.Must(t, os.RemoveAll(dir)) })
		treetest.Must(t, os.Chmod(dir, 0o755))
		c.Path = filepath.Join(dir, "test")
		treetest.Must(t, os.WriteFile(c.Path, bin, 0o755))
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
}

func FuzzMapping(f *testing.F) {
	for _, line := range []string{
		"7f65c4332000-7f65c4333000 rw-s 00000000 00:13 3688147                    /[aio] (deleted)",
		"00400000-00452000 r--s 00001000 fd:01 173521      /a b\\012c",
		"7f-8f rw-s 0 00:00 0", "a rwxs b c:d 1", "", "    ", "x  s", "- ---s  : 1",
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, ok := parseMapping(line)
		if ok && (m.inode.Ino == 0 || m.writable != (strings.SplitN(string(line), " ", 3)[1][1] == 'w')) {
			t.Errorf("%q: %+v", line, m)
		}
		trimZeros(m.span)
	})
}
