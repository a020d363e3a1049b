package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshServer shows a host key on loopback to whoever asks.
func sshServer(t *testing.T) (addr string, key ssh.PublicKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	conf := &ssh.ServerConfig{NoClientAuth: true}
	conf.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _, _, _ = ssh.NewServerConn(c, conf)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), signer.PublicKey()
}

func TestHostKeyIsTakenOnlyWhenConfirmed(t *testing.T) {
	addr, key := sshServer(t)
	right := ssh.FingerprintSHA256(key)
	tests := []struct {
		name string
		run  trustRun
		want string // in the error; empty: taken
	}{
		{"right fingerprint", trustRun{fingerprint: right}, ""},
		{"wrong fingerprint", trustRun{fingerprint: "SHA256:other"}, right},
		{"told not to ask", trustRun{yes: true}, ""},
		{"nobody to ask", trustRun{}, "add --yes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.run.app = newApp(strings.NewReader("y\n"), t.Output(), t.Output())
			got, err := tt.run.findHostKey(t.Context(), addr)
			if tt.want == "" && (err != nil || ssh.FingerprintSHA256(got) != right) {
				t.Errorf("key %v, err %v", got, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("err = %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestNobodyAnswersWithAHostKey(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	if _, err := scanHostKey(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "--host-key") {
		t.Errorf("err = %v", err)
	}
}
