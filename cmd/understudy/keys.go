package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/understudy-ha/understudy/replication/durable"
)

const gossipKeySize = 32 // bytes: AES-256

// writeFile makes the file appear whole, with that mode, or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := durable.WriteFile(path, data, mode, nil); err != nil {
		return fmt.Errorf("%s cannot be written: %w; run this as root", path, err)
	}
	return nil
}

func newGossipKey(path string) error {
	key := make([]byte, gossipKeySize)
	_, _ = rand.Read(key) // never fails
	return writeFile(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600)
}

// copyGossipKey installs the key that the other nodes have. A different one that is here is left alone.
func copyGossipKey(from, to string, force bool) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("the gossip key cannot be read: %w", err)
	}
	key := strings.TrimSpace(string(b))
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != gossipKeySize {
		return fmt.Errorf("%s holds no gossip key (%d bytes in base64); copy gossip.key from the first node", from, gossipKeySize)
	}
	have, err := os.ReadFile(to)
	if err == nil && strings.TrimSpace(string(have)) == key {
		return nil
	}
	if err == nil && !force {
		return refusef("%s holds another gossip key, and it was left as it is; replace it with --force, if the other nodes have the new one", to)
	}
	return writeFile(to, []byte(key+"\n"), 0o600)
}

func newSSHKey(path, comment string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return err
	}
	return writeFile(path, pem.EncodeToMemory(block), 0o600)
}

// publicLine is the private key's public half as ssh-keygen would write it.
func publicLine(private, comment string) (string, error) {
	b, err := os.ReadFile(private)
	if err != nil {
		return "", fmt.Errorf("the SSH key cannot be read: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return "", fmt.Errorf("%s is not an SSH key without a passphrase: %w; move it away, and init makes a new one", private, err)
	}
	return keyText(signer.PublicKey()) + " " + comment, nil
}

// keyText is type and base64 of a public key.
func keyText(k ssh.PublicKey) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(k)))
}

// readPublicKey reads a file with one public key; options and comment are not taken over.
func readPublicKey(path string) (ssh.PublicKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the public key cannot be read: %w", err)
	}
	if bytes.Contains(b, []byte("PRIVATE KEY")) {
		return nil, fmt.Errorf("%s is a private key, which never leaves its node; name the file that ends in .pub", path)
	}
	key, _, _, rest, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s holds no SSH public key: %w", path, err)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s holds more than one key; name a file with the peer's alone", path)
	}
	return key, nil
}
