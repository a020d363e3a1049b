package wire

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/replication/store"
)

// TestKeyCanOnlyAppend takes the key as a thief would, with the usual programs,
// against the real sshd: whatever is tried, the committed state stays.
func TestKeyCanOnlyAppend(t *testing.T) {
	d := startSSHD(t)
	data := noise(1, 5000)
	seal(t, d.s, id(3, 1), id(0, 0), data)
	ok(t, os.MkdirAll(filepath.Join(d.s.Dir(), "images"), 0o770))
	ps, err := filepath.Glob(filepath.Join(d.s.Dir(), "packs", "*"))
	ok(t, err)
	pack := "/" + svc + "/packs/" + filepath.Base(ps[0])
	gen := "/" + svc + "/generations/3.1.manifest"
	incoming := "/" + svc + "/incoming/"
	evil := filepath.Join(t.TempDir(), "evil")
	ok(t, os.WriteFile(evil, noise(2, 100), 0o600))
	l, err := net.Listen("tcp", "127.0.0.1:0") // something to forward to
	ok(t, err)
	defer l.Close()
	before := d.committed(t)

	sftp := map[string]string{ // command → what the receiver says
		"rm " + pack:                         "not-allowed: not allowed: this store only grows; there is no remove",
		"rm " + gen:                          "there is no remove",
		"rmdir /" + svc + "/packs":           "there is no rmdir",
		"mkdir /" + svc + "/new":             "there is no mkdir",
		"mkdir /other":                       "there is no mkdir",
		"ln " + pack + " /x":                 "there is no link",
		"ln -s /etc/passwd /x":               "there is no symlink",
		"chmod 777 " + pack:                  "there is no setstat",
		"put " + evil + " " + pack:           "only want and files in incoming can be written",
		"put " + evil + " " + gen:            "only want and files in incoming can be written",
		"put " + evil + " /etc/cron.d/x":     "not-allowed",
		"put " + evil + " /x":                "not-allowed",
		"put " + evil + " " + incoming + "x": "not-allowed",
		"put " + evil + " " + incoming + "../../../../../../tmp/x": "not-allowed",
		"put " + evil + " /" + svc + "/term":                       "not-allowed",
		"put " + evil + " /" + svc + "/head":                       "not-allowed",
		"get " + pack + " " + evil + ".got":                        "only state and want can be read",
		"get " + gen + " " + evil + ".got":                         "only state and want can be read",
		"rename " + gen + " " + incoming + "3.1.manifest":          "only files in incoming can be renamed",
		"rename " + pack + " /x":                                   "only files in incoming can be renamed",
		"ls /" + svc + "/diverged":                                 "not-allowed",
		"ls /etc":                                                  "no-service",
	}
	// One session for all of them: with a minus it goes on after a failure. The
	// reasons come over standard error, which sshd drops for a subsystem: hence -s.
	var batch strings.Builder
	for cmd := range sftp {
		batch.WriteString("-" + cmd + "\n")
	}
	out, err := d.client(t, batch.String()+"ls /\n", "sftp", "-s", "/sftp-server", "-b", "-", d.user+"@127.0.0.1")
	if err != nil {
		t.Errorf("the session ended early: %v\n%s", err, out)
	}
	for cmd, says := range sftp {
		if !strings.Contains(out, says) {
			t.Errorf("sftp %q: it did not say %q", cmd, says)
		}
	}
	if n := strings.Count(out, "msg=refused"); n < len(sftp) {
		t.Errorf("%d refusals for %d commands:\n%s", n, len(sftp), out)
	}

	_, port, _ := net.SplitHostPort(d.addr)
	at := d.user + "@127.0.0.1"
	others := map[string][]string{
		"shell":          {"ssh", at, "rm -rf " + d.root + "; touch " + evil + ".shell"},
		"pty":            {"ssh", "-tt", at},
		"remote forward": {"ssh", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:" + port, at},
		"local forward":  {"ssh", "-W", l.Addr().String(), at},
		"scp":            {"scp", evil, at + ":" + pack},
		"scp elsewhere":  {"scp", evil, at + ":/tmp/understudy-scp"},
		"old scp":        {"scp", "-O", evil, at + ":" + evil + ".scp"},
		"rsync":          {"rsync", "-a", "--timeout=5", evil, at + ":" + evil + ".rsync"},
		"rsync delete":   {"rsync", "-a", "--timeout=5", "--delete", filepath.Dir(evil) + "/", at + ":" + d.root + "/"},
	}
	for name, c := range others {
		if out, err := d.client(t, "", c[0], c[1:]...); err == nil {
			t.Errorf("%s succeeded:\n%s", name, out)
		}
	}
	if left, _ := filepath.Glob(evil + ".*"); len(left) > 0 {
		t.Errorf("these were made: %v", left)
	}
	if _, err := os.Stat("/tmp/understudy-scp"); err == nil {
		t.Error("scp wrote where it likes")
	}
	d.unchanged(t, before)
}

// TestByHand does a shipment with the sftp program, as a person would look at it.
func TestByHand(t *testing.T) {
	d := startSSHD(t)
	data := noise(1, 5000)
	p, _ := onePack(t, data)
	b, err := store.EncodeManifest(manifest(id(1, 1), id(0, 0), data))
	ok(t, err)
	m := file(t, b)
	dir := t.TempDir()
	want := file(t, formatHashes([]hash{{1}, hashOf(data)}))
	name := p.Hash.String() + ".pack"
	out, err := d.client(t, strings.Join([]string{
		"ls /", "cd /" + svc, "ls -l", "get state " + dir + "/before",
		"put " + want.Path + " want", "get want " + dir + "/missing",
		"put " + p.Path + " incoming/" + name, "ls -l incoming", "rename incoming/" + name + " packs/" + name,
		"put " + m.Path + " incoming/1.1.manifest", "rename incoming/1.1.manifest generations/1.1.manifest",
		"ls packs", "get state " + dir + "/after", "",
	}, "\n"), "sftp", "-q", "-b", "-", d.user+"@127.0.0.1")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	after, err := os.ReadFile(dir + "/after")
	ok(t, err)
	st, err := parseState(after, svc)
	ok(t, err)
	if st.Head != id(1, 1) {
		t.Errorf("the head is %s\n%s", st.Head, out)
	}
	missing, err := os.ReadFile(dir + "/missing")
	ok(t, err)
	if string(missing) != string(formatHashes([]hash{{1}, hashOf(data)})) {
		t.Errorf("missing is %q", missing)
	}
}
