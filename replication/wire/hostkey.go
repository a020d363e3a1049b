package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// ErrHostKey is the alarm: the peer did not show the key that is pinned for it.
// It does not go away by trying again.
var ErrHostKey = errors.New("host key verification failed")

// pinned reads the known-hosts file: the callback accepts only a key that is in
// it for host (host:port, or an alias), and the algorithms are those of the keys
// that are, so that the peer shows one of them and not another of its keys.
func pinned(file, host string) (ssh.HostKeyCallback, []string, error) {
	check, err := knownhosts.New(file)
	if err != nil {
		return nil, nil, fmt.Errorf("known hosts: %w; write the peer's host keys there, as in \"ssh-keyscan -t ed25519 PEER\", after comparing them on the peer", err)
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(host, "22") // an alias; the file has it without a port as well
	}
	// Ask about a key that nobody has: the refusal lists those that are pinned.
	var known *knownhosts.KeyError
	if err := check(host, noAddr{}, nobody{}); err != nil && !errors.As(err, &known) {
		return nil, nil, fmt.Errorf("known hosts: %w", err)
	}
	var algos []string
	if known != nil {
		for _, k := range known.Want {
			algos = append(algos, algorithms(k.Key.Type())...)
		}
	}
	slices.Sort(algos)
	callback := func(_ string, addr net.Addr, key ssh.PublicKey) error {
		return alarm(check(host, noAddr{}, key), file, host, addr, key)
	}
	return callback, slices.Compact(algos), nil
}

// alarm puts a failed check into words that say what to do.
func alarm(err error, file, host string, addr net.Addr, key ssh.PublicKey) error {
	if err == nil {
		return nil
	}
	shown := fmt.Sprintf("%s (at %s) shows the %s key %s", host, addr, key.Type(), ssh.FingerprintSHA256(key))
	var ke *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &revoked):
		return fmt.Errorf("%w: %s, which %s:%d revokes; nothing is sent there. Give the peer a new host key and pin that", ErrHostKey, shown, revoked.Revoked.Filename, revoked.Revoked.Line)
	case errors.As(err, &ke) && len(ke.Want) > 0:
		var at []string
		for _, k := range ke.Want {
			at = append(at, fmt.Sprintf("%s:%d (%s)", k.Filename, k.Line, ssh.FingerprintSHA256(k.Key)))
		}
		return fmt.Errorf("%w: %s, but another is pinned at %s; nothing is sent there. Either somebody is in between, or the peer was installed anew: compare with \"ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\" on the peer, then replace that line",
			ErrHostKey, shown, strings.Join(at, ", "))
	case errors.As(err, &ke):
		return fmt.Errorf("%w: %s, and %s pins none for it; nothing is sent there. Compare with \"ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\" on the peer, then add the line \"%s\"",
			ErrHostKey, shown, file, knownhosts.Line([]string{host}, key))
	}
	return fmt.Errorf("%w: %s: %w", ErrHostKey, shown, err)
}

// algorithms are the signature algorithms of a key type.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512}
	}
	return []string{keyType}
}

// noAddr keeps the check to the name: an address that a name resolves to today
// is not what was pinned.
type noAddr struct{}

func (noAddr) Network() string { return "tcp" }
func (noAddr) String() string  { return "0.0.0.0:0" }

// nobody is a key that is in no file.
type nobody struct{}

func (nobody) Type() string                        { return "nobody" }
func (nobody) Marshal() []byte                     { return []byte("nobody") }
func (nobody) Verify([]byte, *ssh.Signature) error { return errors.New("nobody signs") }

// privateKey reads our ed25519 key, and refuses one that others could have read.
func privateKey(file string) (ssh.Signer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("SSH key: %w; make one with: ssh-keygen -t ed25519 -N '' -f %s", err, file)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("SSH key: %w", err)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() && sys.Uid != 0 {
		return nil, fmt.Errorf("SSH key %s belongs to user %d; it must belong to user %d: chown it", file, sys.Uid, os.Geteuid())
	}
	if mode := st.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("SSH key %s has mode %v: others can read it; chmod 600 it, and make a new one if somebody might have", file, mode)
	}
	const most = 64 << 10
	pem, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, fmt.Errorf("SSH key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(pem)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("SSH key %s has a passphrase, and nobody is there to type it; remove it with: ssh-keygen -p -N '' -f %s", file, file)
	}
	if err != nil {
		return nil, fmt.Errorf("SSH key %s: %w", file, err)
	}
	if t := key.PublicKey().Type(); t != ssh.KeyAlgoED25519 {
		return nil, fmt.Errorf("SSH key %s is %s; make an ed25519 one with: ssh-keygen -t ed25519 -N '' -f FILE", file, t)
	}
	return key, nil
}
