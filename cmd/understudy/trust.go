package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/config"
)

// trustRun is a call of `understudy trust`.
type trustRun struct {
	*app
	peer        string
	keyFrom     string
	hostKey     string
	fingerprint string
	config      string
	authorized  string
	program     string
	force, yes  bool
}

func trustCommand(a *app) *cobra.Command {
	r := &trustRun{app: a}
	c := &cobra.Command{
		Use:   "trust --peer NAME --key-from FILE",
		Short: "Let a peer send generations here, and pin its host key",
		Long: `Install the peer's public key, for the one thing it may do here, which is to send
generations, and pin the peer's SSH host key, so that generations go to it and to nobody else.

The host key is read from --host-key (a copy of the peer's /etc/ssh/ssh_host_ed25519_key.pub);
without it the peer is asked over the network, and the fingerprint is shown to be compared
with "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" there.

Doing it again changes nothing. A different key that is there is left alone unless --force is given.`,
		Example: "  understudy trust --peer n2 --key-from n2.pub --host-key n2-host.pub",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return r.run(c.Context()) },
	}
	fs := c.Flags()
	fs.StringVar(&r.peer, "peer", "", "the peer's name, as in the configuration")
	fs.StringVar(&r.keyFrom, "key-from", "", "file with the public key that init made on the peer")
	fs.StringVar(&r.hostKey, "host-key", "", "file with the peer's SSH host key (default: ask the peer)")
	fs.StringVar(&r.fingerprint, "fingerprint", "", "take the host key that the peer shows if it has this fingerprint (SHA256:…)")
	fs.StringVar(&r.config, "config", api.ConfigPath, "this node's configuration")
	fs.StringVar(&r.authorized, "authorized-keys", "/var/lib/understudy/.ssh/authorized_keys", "the receiving account's authorized_keys")
	fs.StringVar(&r.program, "program", "/usr/bin/understudy", "this program, as the forced command names it")
	fs.BoolVar(&r.force, "force", false, "replace another key of this peer")
	fs.BoolVarP(&r.yes, "yes", "y", false, "take the host key that the peer shows without asking")
	return c
}

// trustResult is what `understudy trust --json` prints.
type trustResult struct {
	Peer           string `json:"peer"`
	AuthorizedKeys string `json:"authorized_keys"`
	Key            string `json:"key"` // fingerprint
	KnownHosts     string `json:"known_hosts"`
	HostKey        string `json:"host_key"` // fingerprint
}

func (r *trustRun) run(ctx context.Context) error {
	if r.peer == "" || r.keyFrom == "" {
		return usageError{errors.New("trust needs --peer and --key-from")}
	}
	conf, err := config.Load(r.config)
	if err != nil {
		return err
	}
	peer, err := findPeer(conf, r.peer)
	if err != nil {
		return err
	}
	if conf.SSH.KnownHosts == "" {
		return fmt.Errorf("%s sets no ssh.known_hosts, so no host key can be pinned; set it", r.config)
	}
	key, err := readPublicKey(r.keyFrom)
	if err != nil {
		return err
	}
	addr := net.JoinHostPort(peer.Address, strconv.Itoa(peer.SSHPort))
	host, err := r.findHostKey(ctx, addr)
	if err != nil {
		return err
	}
	if err := r.authorize(conf, key); err != nil {
		return err
	}
	if err := pinHost(conf.SSH.KnownHosts, addr, host, r.force); err != nil {
		return err
	}
	res := trustResult{
		Peer: r.peer, AuthorizedKeys: r.authorized, Key: ssh.FingerprintSHA256(key),
		KnownHosts: conf.SSH.KnownHosts, HostKey: ssh.FingerprintSHA256(host),
	}
	if r.json {
		return r.printJSON(res)
	}
	fmt.Fprintf(r.out, "%s may send generations here (%s, in %s)\n", r.peer, res.Key, res.AuthorizedKeys)
	fmt.Fprintf(r.out, "%s is known as %s (in %s)\n", addr, res.HostKey, res.KnownHosts)
	return nil
}

func findPeer(conf *config.Config, name string) (config.Peer, error) {
	var names []string
	for _, p := range conf.Peers {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return config.Peer{}, fmt.Errorf("%s has no peer %s, only %s; add it there first", conf.Path, name, strings.Join(names, ", "))
}

// authorize puts the peer's line into authorized_keys. The line's comment says whose it is.
func (r *trustRun) authorize(conf *config.Config, key ssh.PublicKey) error {
	command := r.program + " receive"
	if conf.Store != api.DefaultStore {
		command += " --store " + conf.Store
	}
	if strings.ContainsAny(command, "\"\n\\") {
		return fmt.Errorf("the path in %q cannot be written into authorized_keys", command)
	}
	comment := "understudy@" + r.peer
	line := fmt.Sprintf("restrict,command=%q %s %s", command, keyText(key), comment)
	if err := makeSSHDir(filepath.Dir(r.authorized)); err != nil {
		return err
	}
	have, err := os.ReadFile(r.authorized)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s cannot be read: %w", r.authorized, err)
	}
	var lines []string
	for l := range strings.Lines(string(have)) {
		l = strings.TrimRight(l, "\r\n")
		if !strings.HasSuffix(l, " "+comment) {
			lines = append(lines, l)
			continue
		}
		if l != line && !r.force {
			return refusef("%s has another line for %s, and it was left as it is; replace it with --force", r.authorized, comment)
		}
	}
	return writeFile(r.authorized, []byte(strings.Join(append(lines, line), "\n")+"\n"), 0o644)
}

// makeSSHDir makes the directory, owned by root: the account must not be able to give itself
// keys. sshd ignores keys below a directory that others can write to.
func makeSSHDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("%s cannot be made: %w; run this as root", dir, err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		st, err := os.Stat(d)
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o022 != 0 {
			return refusef("%s is writable by others than its owner, so sshd would not take keys from it; run: chmod go-w %s", d, d)
		}
	}
	return nil
}

// pinHost puts the host key into known_hosts.
func pinHost(path, addr string, key ssh.PublicKey, force bool) error {
	have, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s cannot be read: %w", path, err)
	}
	name := knownhosts.Normalize(addr)
	var kept []string
	for l := range strings.Lines(string(have)) {
		l = strings.TrimRight(l, "\r\n")
		_, hosts, old, _, _, err := ssh.ParseKnownHosts([]byte(l))
		if err != nil || len(hosts) != 1 || hosts[0] != name || old.Type() != key.Type() {
			kept = append(kept, l)
			continue
		}
		if !bytes.Equal(old.Marshal(), key.Marshal()) && !force {
			return refusef("%s has another key for %s (%s, not %s), and it was left as it is; if that node was set up anew, replace it with --force",
				path, name, ssh.FingerprintSHA256(old), ssh.FingerprintSHA256(key))
		}
	}
	kept = append(kept, knownhosts.Line([]string{addr}, key))
	return writeFile(path, []byte(strings.Join(kept, "\n")+"\n"), 0o644)
}

// findHostKey takes the key from a file, or asks the peer and then a person.
func (r *trustRun) findHostKey(ctx context.Context, addr string) (ssh.PublicKey, error) {
	if r.hostKey != "" {
		return readPublicKey(r.hostKey)
	}
	key, err := scanHostKey(ctx, addr)
	if err != nil {
		return nil, err
	}
	shown := ssh.FingerprintSHA256(key)
	if r.fingerprint != "" {
		if shown != r.fingerprint {
			return nil, refusef("%s shows the host key %s, not %s; nothing was changed", addr, shown, r.fingerprint)
		}
		return key, nil
	}
	return key, r.confirm(ctx, r.yes, fmt.Sprintf("%s shows the %s host key %s. Is that the one that \"ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\" shows there?", addr, key.Type(), shown))
}

const scanTime = 10 * time.Second

// scanHostKey asks for the ed25519 key and goes no further than the key exchange.
func scanHostKey(ctx context.Context, addr string) (ssh.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, scanTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("the host key of %s cannot be asked for: %w; start sshd there, or give it with --host-key", addr, err)
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(d)
	}
	var found ssh.PublicKey
	errFound := errors.New("that is all we wanted")
	_, _, _, err = ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User:              "understudy",
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			found = key
			return errFound
		},
	})
	if found == nil {
		return nil, fmt.Errorf("%s shows no ed25519 host key: %w; give it with --host-key", addr, err)
	}
	return found, nil
}
