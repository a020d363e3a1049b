package config

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

var here = host{name: "n1", uid: uint32(os.Getuid())}

// keys is a directory with the files that the example names, as they should be.
func keys(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"gossip.key":  "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n",
		"ssh_key":     "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n",
		"known_hosts": "198.51.100.2 ssh-ed25519 AAAA\n",
	} {
		write(t, filepath.Join(dir, name), text, 0o600)
	}
	return dir
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestExampleLoads(t *testing.T) {
	dir := keys(t)
	path := filepath.Join(dir, "agent.toml")
	write(t, path, strings.ReplaceAll(Example(), "/etc/understudy/", dir+"/"), 0o644)
	c, err := load(path, here)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Path: path, Node: "n1", Store: api.DefaultStore, Socket: api.DefaultSocket, Podman: DefaultPodman,
		Gossip: Gossip{
			Bind: netip.MustParseAddrPort("198.51.100.1:7946"), KeyFile: dir + "/gossip.key",
			Key: Secret("0123456789abcdef0123456789abcdef"),
		},
		SSH:       SSH{User: "understudy", KeyFile: dir + "/ssh_key", KnownHosts: dir + "/known_hosts"},
		Peers:     []Peer{{Name: "n2", Address: "198.51.100.2", SSHPort: 22, Gossip: netip.MustParseAddrPort("198.51.100.2:7946")}},
		Limits:    Limits{JournalSize: 16 << 20, UnusedImages: DefaultUnusedImages},
		Retention: store.Policy{KeepLast: 20, Hourly: 24, Daily: 7, Weekly: 4},
		Scrub:     Scrub{Rate: 16 << 20, Every: 168 * time.Hour},
	}
	if d := cmp.Diff(want, c, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

// The commented-out lines of the example are its defaults: taken in, they
// change nothing. A default that moves must move there too.
func TestExampleShowsTheDefaults(t *testing.T) {
	var text strings.Builder
	for line := range strings.Lines(Example()) {
		if len(line) > 1 && line[0] == '#' && line[1] >= 'a' && line[1] <= 'z' {
			line = line[1:]
		}
		text.WriteString(line)
	}
	full, d := parse("x", []byte(text.String()), host{name: "other"})
	if err := d.err(); err != nil {
		t.Fatal(err)
	}
	plain, _ := parse("x", []byte(Example()), here)
	if d := cmp.Diff(plain, full, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
	for key := range places {
		if !strings.Contains(text.String(), key+" = ") {
			t.Errorf("the example does not show %s", key)
		}
	}
}

func TestEmptyFileIsANodeAlone(t *testing.T) {
	c, d := parse("x", nil, here)
	if err := d.err(); err != nil {
		t.Fatal(err)
	}
	if c.Node != "n1" || c.Gossip.Bind.IsValid() || c.Peers != nil {
		t.Errorf("got %+v", c)
	}
}

// TestRefusals compares every text in testdata/*.toml's refusal, word for word.
func TestRefusals(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) < 8 {
		t.Fatalf("testdata: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, d := parse("agent.toml", data, here)
			golden(t, strings.TrimSuffix(file, ".toml")+".golden", d.err())
		})
	}
}

func golden(t *testing.T, file string, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("it was accepted")
	}
	if api.KindOf(err) != api.KindArgs {
		t.Errorf("kind is %q", api.KindOf(err))
	}
	got := err.Error() + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}

func TestKeyFiles(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give files away")
	}
	for _, tc := range []struct {
		name  string
		spoil func(dir string) error
		want  []string // one per problem: "line: text"
	}{
		{"gossip key readable by others", func(d string) error { return os.Chmod(d+"/gossip.key", 0o644) }, []string{
			"GOSSIP: DIR/gossip.key has mode 0644: others than root can get at it; run: chmod 0600 DIR/gossip.key",
		}},
		{"ssh key readable by its group", func(d string) error { return os.Chmod(d+"/ssh_key", 0o640) }, []string{
			"KEY: DIR/ssh_key has mode 0640: others than root can get at it; run: chmod 0600 DIR/ssh_key",
		}},
		{"key of somebody else", func(d string) error { return os.Chown(d+"/ssh_key", 1000, 0) }, []string{
			"KEY: DIR/ssh_key belongs to user 1000; run: chown 0:0 DIR/ssh_key",
		}},
		{"known hosts writable by others", func(d string) error { return os.Chmod(d+"/known_hosts", 0o666) }, []string{
			"HOSTS: DIR/known_hosts has mode 0666: others than root can get at it; run: chmod 0644 DIR/known_hosts",
		}},
		{"known hosts readable by others is right", func(d string) error { return os.Chmod(d+"/known_hosts", 0o644) }, nil},
		{"a key nobody may write is right", func(d string) error { return os.Chmod(d+"/ssh_key", 0o400) }, nil},
		{"all missing", func(d string) error {
			return errors.Join(os.Remove(d+"/gossip.key"), os.Remove(d+"/ssh_key"), os.Remove(d+"/known_hosts"))
		}, []string{
			"GOSSIP: DIR/gossip.key does not exist; make it with `understudy init`, or correct the path",
			"KEY: DIR/ssh_key does not exist; make it with `understudy init`, or correct the path",
			"HOSTS: DIR/known_hosts does not exist; make it with `understudy init`, or correct the path",
		}},
		{"gossip key too short", func(d string) error { return os.WriteFile(d+"/gossip.key", []byte("c2hvcnQ=\n"), 0o600) }, []string{
			"GOSSIP: DIR/gossip.key holds a key of 5 bytes, not 32; make one key for all nodes with: head -c 32 /dev/urandom | base64 > DIR/gossip.key",
		}},
		{"gossip key not base64", func(d string) error { return os.WriteFile(d+"/gossip.key", []byte("hello!\n"), 0o600) }, []string{
			"GOSSIP: DIR/gossip.key does not hold a key in base64; make one key for all nodes with: head -c 32 /dev/urandom | base64 > DIR/gossip.key",
		}},
		{"public key for the private one", func(d string) error {
			return os.WriteFile(d+"/ssh_key", []byte("ssh-ed25519 AAAA\n"), 0o600)
		}, []string{
			"KEY: DIR/ssh_key is not an SSH private key; name the file without .pub, or make a key with: ssh-keygen -t ed25519 -N '' -f DIR/ssh_key",
		}},
		{"a directory", func(d string) error { return errors.Join(os.Remove(d+"/ssh_key"), os.Mkdir(d+"/ssh_key", 0o600)) }, []string{
			"KEY: DIR/ssh_key is not a regular file; put the right file there",
		}},
		{"configuration writable by others", func(d string) error { return os.Chmod(d+"/agent.toml", 0o666) }, []string{
			"FILE: DIR/agent.toml has mode 0666: others than root can get at it; run: chmod 0644 DIR/agent.toml",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := keys(t)
			path := filepath.Join(dir, "agent.toml")
			write(t, path, strings.ReplaceAll(Example(), "/etc/understudy/", dir+"/"), 0o644)
			if err := tc.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := load(path, host{name: "n1"})
			var e *Error
			errors.As(err, &e)
			var got []string
			if e != nil {
				for _, p := range e.Problems {
					got = append(got, strings.ReplaceAll(fmt.Sprintf("%s: %s; %s", exampleKey(p.Line), p.Message, p.Next), dir, "DIR"))
				}
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// exampleKey says which of the example's file keys is on a line.
func exampleKey(line int) string {
	if line == 0 {
		return "FILE"
	}
	text := strings.Split(Example(), "\n")[line-1]
	for name, file := range map[string]string{"GOSSIP": "gossip.key", "KEY": "ssh_key", "HOSTS": "known_hosts"} {
		if strings.Contains(text, " = ") && strings.Contains(text, "/"+file+`"`) {
			return name
		}
	}
	return text
}

func TestNoFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "agent.toml"))
	if api.KindOf(err) != api.KindInstalled || !strings.Contains(err.Error(), "understudy init") {
		t.Errorf("got %v", err)
	}
}

func TestSecretStaysSecret(t *testing.T) {
	c := Config{Gossip: Gossip{Key: Secret("hush")}}
	j, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	hidden := fmt.Sprintf("%v %+v %#v %s", c, c, c, j)
	for _, shown := range []string{"hush", "aHVzaA", "104"} {
		if strings.Contains(hidden, shown) {
			t.Errorf("%q shows in %s", shown, hidden)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(Example()))
	files, _ := filepath.Glob("testdata/*.toml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, d := parse("agent.toml", data, here)
		if err := d.err(); err != nil {
			last := strings.Count(string(data), "\n") + 1
			for _, p := range d.problems {
				if p.Line < 0 || p.Line > last || p.Message == "" || p.Next == "" {
					t.Errorf("problem %+v in a text of %d lines", p, last)
				}
			}
			return
		}
		if c == nil || c.Node == "" || !filepath.IsAbs(c.Store) || len(c.Socket) > maxSocket {
			t.Errorf("accepted: %+v", c)
		}
		for _, p := range c.Peers {
			if p.Name == "" || p.Address == "" || p.SSHPort < 1 || !p.Gossip.IsValid() || !c.Gossip.Bind.IsValid() || c.SSH.KeyFile == "" {
				t.Errorf("accepted: %+v", c)
			}
		}
	})
}
