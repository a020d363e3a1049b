package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

// receiver is a running `understudy receive`, the test being its sshd.
type receiver struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	line   io.ReadWriteCloser
}

type pipes struct {
	io.Reader
	io.WriteCloser
}

func startReceive(t *testing.T, asked, root, socket string) *receiver {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{cmd: exec.CommandContext(t.Context(), self)}
	r.cmd.Args = []string{"understudy", "receive", "--store", root, "--notify", socket}
	r.cmd.Env = append(os.Environ(), "SSH_ORIGINAL_COMMAND="+asked, "SSH_CONNECTION=192.0.2.1 40000 192.0.2.2 22")
	r.cmd.Stderr = &r.stderr
	in, err1 := r.cmd.StdinPipe()
	out, err2 := r.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, r.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	r.line = pipes{out, in}
	t.Cleanup(func() { _ = r.cmd.Process.Kill(); _ = r.cmd.Wait() })
	return r
}

// openedStore is what the agent has made before a sender comes.
func openedStore(t *testing.T, root string) *store.Store {
	t.Helper()
	s, err := store.Open(root, "registry", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestReceiveCommits(t *testing.T) {
	root, socket := t.TempDir(), filepath.Join(t.TempDir(), "s")
	s := openedStore(t, root)
	poked, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer poked.Close()
	r := startReceive(t, "understudy receive", root, socket)
	c, err := wire.NewClient(t.Context(), r.line, wire.ClientOptions{Name: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	id := replication.ID{Term: 1, Seq: 1}
	encoded, err := store.EncodeManifest(&replication.Manifest{
		Format: replication.FormatVersion, Service: "registry", ID: id, CapturedAt: time.Unix(1, 0),
		Volumes: []replication.Volume{{Name: "data", Entries: replication.NewEntries(&replication.Entry{Path: ".", Type: replication.TypeDir, Mode: 0o755})}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(t.Context(), "registry", id, encoded); err != nil {
		t.Fatal(err)
	}
	if head, err := s.Head(); err != nil || head != id {
		t.Errorf("the head is %s, %v", head, err)
	}
	name := make([]byte, 100)
	_ = poked.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := poked.Read(name); err != nil || string(name[:n]) != "registry" {
		t.Errorf("the agent heard %q, %v", name[:n], err)
	}
	if err := c.Commit(t.Context(), "registry", replication.ID{Term: 1, Seq: 2}, encoded); !errors.Is(err, replication.ErrFormat) {
		t.Errorf("a manifest under another name: %v", err)
	}
	if _, err := c.State(t.Context(), "other"); !errors.Is(err, wire.ErrNoService) {
		t.Errorf("a service that nobody stands by for: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "services", "other")); err == nil {
		t.Error("a sender made a store")
	}
	_ = c.Close()
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("the peer hung up, and receive says %v", err)
	}
	if out := r.stderr.String(); strings.Count(out, "msg=refused") != 2 || !strings.Contains(out, "from=192.0.2.1") {
		t.Errorf("standard error is:\n%s", out)
	}
}

func TestReceiveSharesWithTheAgent(t *testing.T) {
	root := t.TempDir()
	s := openedStore(t, root)
	r := startReceive(t, "", root, "")
	c, err := wire.NewClient(t.Context(), r.line, wire.ClientOptions{Name: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	image := []byte("an image")
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	f := wire.File{Path: path, Hash: blake3.Sum256(image), Size: int64(len(image))}
	if err := c.PutImage(t.Context(), "registry", f, nil); err != nil {
		t.Fatal(err)
	}
	got := filepath.Join(s.Dir(), "images", f.Hash.String()+".image")
	for path, want := range map[string]os.FileMode{got: 0o660, filepath.Dir(got): 0o770} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v for the group", path, fi, err, want)
		}
	}
}

func TestReceiveDoesNothingElse(t *testing.T) {
	r := startReceive(t, "rsync --server . /", t.TempDir(), "")
	out, _ := io.ReadAll(r.line)
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	if len(out) > 0 || !strings.Contains(r.stderr.String(), "can do nothing but SFTP") {
		t.Errorf("standard output %q, error %q", out, r.stderr.String())
	}
}

func TestReceiveEndsOnSignal(t *testing.T) {
	root := t.TempDir()
	openedStore(t, root)
	r := startReceive(t, "", root, "")
	c, err := wire.NewClient(t.Context(), r.line, wire.ClientOptions{Name: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	ended := make(chan error, 1)
	go func() { ended <- r.cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("it goes on after SIGTERM")
	}
}
