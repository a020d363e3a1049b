package wire

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/understudy-ha/understudy/replication/store"
)

// TestUnprivilegedReceiver has the two owners of a real store: the agent, root,
// that made it, and a receiver that is nobody but a member of its group.
func TestUnprivilegedReceiver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	const uid, gid = 65534, 65534
	root, bin := t.TempDir(), t.TempDir()
	ok(t, os.Chmod(filepath.Dir(root), 0o711))
	ok(t, os.Chown(root, 0, gid))
	ok(t, os.Chmod(root, 0o770|os.ModeSetgid)) // as the package installs it
	s := openStore(t, root)
	ok(t, s.Fence(1))
	ok(t, s.SetHave(nil, []string{"sha256:aa"}))

	self, err := os.Executable()
	ok(t, err)
	b, err := os.ReadFile(self)
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(bin, "receive"), b, 0o755)) // where nobody may run it
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "umask 007; exec "+filepath.Join(bin, "receive"))
	cmd.Env = append(os.Environ(), receiveEnv+"="+root, "TMPDIR="+bin)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	ok(t, errors.Join(err1, err2, cmd.Start()))
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	c, err := NewClient(t.Context(), stdio{out, in}, ClientOptions{Name: "n2"})
	ok(t, err)
	defer c.Close()

	src := openStore(t, t.TempDir())
	seal(t, src, id(2, 1), id(1, 9), noise(1, 100_000))
	sh := NewShipper(ShipperOptions{Source: src})
	_, err = sh.Ship(t.Context(), c)
	ok(t, err)
	seal(t, src, id(2, 2), id(2, 1), noise(2, 100_000))
	_, err = sh.Ship(t.Context(), c)
	ok(t, err)
	f := file(t, noise(3, 1000))
	ok(t, c.PutImage(t.Context(), svc, f, nil))

	// And root goes on with what the other has written.
	if head, err := s.Head(); err != nil || head != id(2, 2) {
		t.Errorf("the head is %s, %v", head, err)
	}
	if term, err := s.Term(); err != nil || term != 2 {
		t.Errorf("the term is %d, %v", term, err)
	}
	ok(t, s.Fence(3))
	_, err = s.Prune(store.Policy{KeepLast: 1})
	ok(t, err)
	seal(t, src, id(2, 3), id(2, 2), noise(3, 100))
	if _, err := sh.Ship(t.Context(), c); err == nil {
		t.Error("a stale sender got through after root had fenced the store")
	}
}
