package wire

import (
	"os"
	"strings"
	"testing"
)

func TestHostKeyAlarm(t *testing.T) {
	d := startSSHD(t)
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", d.path("other"))
	good := d.read(t, "known")
	where := strings.Fields(good)[0]
	other := strings.Join(strings.Fields(d.read(t, "other.pub"))[:2], " ")
	cases := map[string]struct {
		known string
		says  []string
	}{
		"changed": {"# a comment\n" + where + " " + other + "\n", []string{d.path("known") + ":2", "another is pinned", "replace that line", "SHA256:"}},
		"unknown": {"elsewhere " + other + "\n", []string{d.path("known"), "pins none", "add the line \"" + where + " ssh-ed25519 "}},
		"revoked": {"@revoked " + good, []string{"revokes", ":1"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d.write(t, "known", c.known)
			_, err := Dial(t.Context(), d.options)
			wantErr(t, err, ErrHostKey)
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("it does not say %q: %v", s, err)
				}
			}
		})
	}
	d.write(t, "known", strings.Replace(good, where, "n2", 1))
	o := d.options
	o.HostAlias = "n2"
	c, err := Dial(t.Context(), o)
	ok(t, err)
	_ = c.Close()
	ok(t, os.Remove(d.path("known")))
	if _, err := Dial(t.Context(), d.options); err == nil || !strings.Contains(err.Error(), "ssh-keyscan") {
		t.Errorf("without a file: %v", err)
	}
}

func TestPrivateKey(t *testing.T) {
	dir := t.TempDir()
	key := func(name string, args ...string) string {
		run(t, "ssh-keygen", append([]string{"-q", "-f", dir + "/" + name}, args...)...)
		return dir + "/" + name
	}
	good := key("good", "-t", "ed25519", "-N", "")
	if _, err := privateKey(good); err != nil {
		t.Fatal(err)
	}
	open := key("open", "-t", "ed25519", "-N", "")
	ok(t, os.Chmod(open, 0o640))
	garbage := dir + "/garbage"
	ok(t, os.WriteFile(garbage, []byte("not a key"), 0o600))
	for path, says := range map[string]string{
		open: "chmod 600",
		key("locked", "-t", "ed25519", "-N", "secret"): "passphrase",
		key("ecdsa", "-t", "ecdsa", "-N", ""):          "ed25519",
		dir + "/absent":                                "ssh-keygen -t ed25519",
		garbage:                                        "garbage",
		dir:                                            "mode",
	} {
		if _, err := privateKey(path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v; want %q in it", path, err, says)
		}
	}
	if os.Geteuid() == 0 {
		ok(t, os.Chown(good, 65534, 65534))
		if _, err := privateKey(good); err == nil || !strings.Contains(err.Error(), "chown") {
			t.Errorf("somebody else's key: %v", err)
		}
	}
}

// TestOldCiphersAreNotUsed, whatever the peer would agree to; the error names both sides'.
func TestOldCiphersAreNotUsed(t *testing.T) {
	for config, fits := range map[string]bool{
		"Ciphers aes128-gcm@openssh.com":                                 true,
		"Ciphers aes256-gcm@openssh.com":                                 true,
		"Ciphers chacha20-poly1305@openssh.com":                          true,
		"Ciphers aes128-ctr,aes256-ctr":                                  false,
		"KexAlgorithms curve25519-sha256":                                true,
		"KexAlgorithms ecdh-sha2-nistp256,diffie-hellman-group14-sha256": false,
	} {
		d := startSSHD(t, config)
		c, err := Dial(t.Context(), d.options)
		if err == nil {
			ok(t, c.Close())
		}
		if (err == nil) != fits {
			t.Errorf("%s: %v", config, err)
		}
		if err != nil && !strings.Contains(err.Error(), "no common algorithm") {
			t.Errorf("%s: it does not say what is the matter: %v", config, err)
		}
	}
}
