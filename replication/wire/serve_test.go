package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
)

// raw is a bare SFTP client: a sender that does not keep to the rules.
func (r *receiver) raw(t testing.TB, tune ...func(*ServerOptions)) *sftp.Client {
	t.Helper()
	conn := r.pipe(t, tune...)
	c, err := sftp.NewClientPipe(conn, conn)
	ok(t, err)
	t.Cleanup(func() { _ = conn.Close(); _ = c.Close() })
	return c
}

func packName(n byte) string {
	return "/" + svc + "/incoming/" + replication.Hash{n}.String() + suffixPack
}

// create opens a file for writing and fails the test when that is refused.
func create(t testing.TB, c *sftp.Client, path string) *sftp.File {
	t.Helper()
	f, err := c.OpenFile(path, os.O_WRONLY|os.O_CREATE)
	ok(t, err)
	return f
}

func TestHostilePaths(t *testing.T) {
	r := pipeReceiver(t)
	seal(t, r.s, id(1, 1), id(0, 0), noise(1, 100))
	before := r.committed(t)
	c := r.raw(t)
	h := replication.Hash{1}.String()
	for _, p := range []string{
		"/", "/" + svc, "/" + svc + "/incoming", "/" + svc + "/incoming/", "/" + svc + "/state", "/" + svc + "/nothing",
		"/" + svc + "/incoming/" + strings.ToUpper(replication.Hash{0xab}.String()) + ".pack",
		"/" + svc + "/incoming/" + h, "/" + svc + "/incoming/" + h + ".pack.pack", "/" + svc + "/incoming/" + h[1:] + ".pack",
		"/" + svc + "/incoming/0.0.manifest", "/" + svc + "/incoming/none.manifest", "/" + svc + "/incoming/.manifest",
		"/" + svc + "/incoming/01.1.manifest", "/" + svc + "/incoming/1.1.manifest/x", "/" + svc + "/incoming/1.1.manifest\x00",
		"/" + svc + "/packs/" + h + ".pack", "/" + svc + "/generations/9.9.manifest", "/" + svc + "/images/" + h + ".image",
		"/" + svc + "/incoming/../../../../etc/passwd", "/../../etc/passwd", "/" + svc + "/../../x/incoming/" + h + ".pack",
		"/.hidden/incoming/" + h + ".pack", "/-rf/incoming/" + h + ".pack", "/a\nb/incoming/" + h + ".pack",
		"/" + strings.Repeat("a", 300) + "/incoming/" + h + ".pack", "/nobody/incoming/" + h + ".pack",
		"/" + svc + "/term", "/" + svc + "/head", "/" + svc + "/lock", "/" + svc + "/have.json", "/" + svc + "/diverged/1.1.0.manifest",
	} {
		if f, err := c.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC); err == nil {
			t.Errorf("%q was opened for writing as %q", p, f.Name())
		}
		if err := c.Remove(p); err == nil {
			t.Errorf("%q was removed", p)
		}
		if err := c.Rename(p, "/"+svc+"/packs/"+h+".pack"); err == nil {
			t.Errorf("%q was renamed", p)
		}
	}
	es, err := os.ReadDir(r.s.IncomingDir())
	ok(t, err)
	if len(es) > 0 {
		t.Errorf("incoming has %v", es)
	}
	r.unchanged(t, before)
}

func TestRefusalsAreLogged(t *testing.T) {
	r := pipeReceiver(t)
	c := r.raw(t)
	if err := c.RemoveDirectory("/" + svc + "/packs"); err == nil || !strings.Contains(err.Error(), "only grows") {
		t.Errorf("the sender read: %v", err)
	}
	if !r.log.has("verb=rmdir") || !r.log.has("only grows") {
		t.Errorf("the receiver logged: %s", r.log)
	}
}

func TestRenameOnlyToItsPlace(t *testing.T) {
	r := pipeReceiver(t)
	c := r.raw(t)
	f := create(t, c, packName(1))
	ok(t, f.Close())
	for _, to := range []string{
		packName(2), "/" + svc + "/packs/" + replication.Hash{2}.String() + ".pack", "/other/packs/" + replication.Hash{1}.String() + ".pack",
		"/" + svc + "/generations/1.1.manifest", "/" + svc + "/images/" + replication.Hash{1}.String() + ".image", "/x",
	} {
		for verb, rename := range map[string]func(a, b string) error{"rename": c.Rename, "posix-rename": c.PosixRename} {
			if err := rename(packName(1), to); err == nil || !strings.Contains(err.Error(), "can become") {
				t.Errorf("%s to %s: %v", verb, to, err)
			}
		}
	}
}

func TestWritesInOrder(t *testing.T) {
	r := pipeReceiver(t)
	c := r.raw(t)
	path := filepath.Join(r.s.IncomingDir(), filepath.Base(packName(1)))
	size := func() int64 {
		fi, err := os.Stat(path)
		ok(t, err)
		return fi.Size()
	}
	at := func(f *sftp.File, off int64, b string) error {
		_, err := f.WriteAt([]byte(b), off)
		return err
	}
	f := create(t, c, packName(1))
	ok(t, at(f, 0, "aaaa"))
	ok(t, at(f, 8, "cccc")) // early: waits
	if got := size(); got != 4 {
		t.Errorf("the file has %d bytes with a hole after 4", got)
	}
	ok(t, at(f, 4, "bbbb"))
	if b, _ := os.ReadFile(path); string(b) != "aaaabbbbcccc" {
		t.Errorf("the file is %q", b)
	}
	if err := at(f, 0, "XXXX"); err == nil || !strings.Contains(err.Error(), "out-of-order") {
		t.Errorf("an overwrite: %v", err)
	}
	if err := f.Close(); err == nil {
		t.Error("a failed write, and the close says nothing")
	}

	f = create(t, c, packName(1))
	ok(t, at(f, 20, "late"))
	if err := f.Close(); err == nil || !strings.Contains(err.Error(), "hole after the first 12 bytes") {
		t.Errorf("closed over a hole: %v", err)
	}
	if got := size(); got != 12 {
		t.Errorf("the file has %d bytes, 12 are good", got)
	}
}

func TestEndlessUploads(t *testing.T) {
	r := pipeReceiver(t)
	c := r.raw(t, func(o *ServerOptions) { o.MaxPack, o.MaxManifest, o.MaxOpen = 1000, 500, 3 })
	for path, limit := range map[string]int64{packName(1): 1000, "/" + svc + "/incoming/1.1.manifest": 500} {
		f := create(t, c, path)
		_, err := f.WriteAt(make([]byte, limit), 0)
		ok(t, err)
		if _, err := f.WriteAt([]byte{1}, limit); err == nil || !strings.Contains(err.Error(), "too-large") {
			t.Errorf("byte %d of %s: %v", limit+1, path, err)
		}
		_ = f.Close()
	}
	f := create(t, c, packName(2)) // a far write is not a sparse file
	if _, err := f.WriteAt([]byte{1}, 1<<62); err == nil {
		t.Error("a write at 2⁶² was taken")
	}
	_ = f.Close()
	f = create(t, c, "/"+svc+"/want")
	if _, err := f.WriteAt([]byte{1}, maxWant*int64(hashLine)); err == nil {
		t.Error("an endless want was taken")
	}
	_ = f.Close()
	for i := range byte(3) {
		create(t, c, packName(10+i))
	}
	if _, err := c.OpenFile(packName(20), os.O_WRONLY|os.O_CREATE); err == nil || !strings.Contains(err.Error(), "too-large") {
		t.Errorf("a fourth file: %v", err)
	}
}

func TestAheadIsBounded(t *testing.T) {
	r := pipeReceiver(t)
	c := r.raw(t)
	f := create(t, c, packName(1))
	b := make([]byte, 32<<10)
	for off := int64(1); off < 2*maxAhead; off += int64(len(b)) {
		if _, err := f.WriteAt(b, off); err != nil {
			if off < maxAhead/2 || !strings.Contains(err.Error(), "out-of-order") {
				t.Errorf("at %d: %v", off, err)
			}
			return
		}
	}
	t.Error("as much as it likes is kept in memory")
}

func TestTwoSenders(t *testing.T) {
	r := pipeReceiver(t, func(o *ServerOptions) { o.StallTimeout = 300 * time.Millisecond })
	p, b := onePack(t, noise(1, 1000))
	path := "/" + svc + "/incoming/" + p.Hash.String() + suffixPack
	slow := r.raw(t, func(o *ServerOptions) { o.StallTimeout = 300 * time.Millisecond })
	f := create(t, slow, path)
	_, err := f.WriteAt(b[:10], 0)
	ok(t, err)

	c := r.dial(t)
	wantErr(t, c.PutPack(t.Context(), svc, p, nil), ErrBusy)
	if err := c.sftp.Rename(path, "/"+svc+"/packs/"+p.Hash.String()+suffixPack); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("renamed while it was written: %v", err)
	}
	ok(t, r.put(t, p)) // the first one stalls, and loses the file
	if _, err := f.WriteAt(b[10:], 10); err == nil {
		t.Error("a stalled upload went on")
	}
	got, err := os.ReadFile(filepath.Join(r.s.Dir(), "packs", p.Hash.String()+suffixPack))
	ok(t, err)
	if !slices.Equal(got, b) {
		t.Error("the pack is not what was sent")
	}
}

func TestIdleSessionEnds(t *testing.T) {
	r := pipeReceiver(t)
	conn := r.pipe(t, func(o *ServerOptions) { o.IdleTimeout = 50 * time.Millisecond })
	ok(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the session did not end: %v", err)
	}
}

func TestServeEndsWithContext(t *testing.T) {
	r := pipeReceiver(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() { ended <- Serve(ctx, theirs, serverOptions(r.root)) }()
	cancel()
	wantErr(t, <-ended, context.Canceled)
}

func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	r := pipeReceiver(t)
	seal(t, r.s, id(1, 1), id(0, 0), noise(1, 1000))
	before := r.committed(t)
	in := r.s.IncomingDir()
	ok(t, unix.Mount("understudy-test", in, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { _ = unix.Unmount(in, unix.MNT_DETACH) })
	p, _ := onePack(t, noise(2, 900_000), noise(3, 900_000), noise(4, 900_000), noise(5, 900_000), noise(6, 900_000))
	c := r.dial(t)
	wantErr(t, c.PutPack(t.Context(), svc, p, nil), ErrNoSpace)
	_, err := c.State(t.Context(), svc) // the session lives on
	ok(t, err)

	floor := pipeReceiver(t, func(o *ServerOptions) { o.MinFree = 1 << 60 })
	small, _ := onePack(t, noise(7, 100))
	wantErr(t, floor.dial(t).PutPack(t.Context(), svc, small, nil), ErrNoSpace)
	r.unchanged(t, before)
}

func TestRefusalRoundTrip(t *testing.T) {
	for _, c := range codes {
		sent := refuse(fmt.Errorf("generation 3.1: %w: with \"quotes\"\nand lines", c.err))
		var r *Refusal
		err := remote("n2", "commit", &sftp.StatusError{Code: 4})
		if !errors.As(err, &r) {
			t.Fatalf("%v is not a refusal", err)
		}
		if want := c.code + ": generation 3.1: " + c.err.Error() + ": with \"quotes\" and lines"; sent.Error() != want {
			t.Errorf("got %q, want %q", sent, want)
		}
	}
	if got := refuse(fmt.Errorf("write: %w", unix.ENOSPC)).Error(); !strings.HasPrefix(got, "no-space: ") {
		t.Errorf("a full disk is %q", got)
	}
}

func TestPokes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "commit.sock")
	Poke(path, svc) // nobody listens: nothing happens
	for range 2 {   // a second agent replaces a dead one's socket
		p, err := ListenPokes(path, -1)
		ok(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan string, 10)
		ended := make(chan error)
		go func() { ended <- p.Run(ctx, func(s string) { got <- s }) }()
		Poke(path, "../../etc")
		Poke(path, svc)
		if s := <-got; s != svc {
			t.Errorf("poked with %q", s)
		}
		cancel()
		ok(t, <-ended)
	}
}
