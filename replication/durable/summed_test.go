package durable

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever bit flips, what is read is what was written, or an error, or nothing that a parser
// of a number or of JSON accepts: longer than what was written.
func TestSummed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "head")
	for _, text := range []string{"3.41", "0", "", `{"term":7}`} {
		if err := WriteSummed(path, []byte(text), 0o600, nil); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadSummed(path); err != nil || string(got) != text {
			t.Errorf("%q, %v; written was %q", got, err, text)
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(whole) {
			damaged := append([]byte(nil), whole...)
			damaged[bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ReadSummed(path)
			if err == nil && string(got) != text && (len(got) <= len(text)+8 || strings.Trim(string(got), "0123456789.") == "") {
				t.Errorf("of %q, bit %d flipped, was read %q", whole, bit, got)
			}
		}
	}
	if err := os.WriteFile(path, []byte("3.41\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadSummed(path); err != nil || string(got) != "3.41" {
		t.Errorf("without a sum: %q, %v", got, err)
	}
}
