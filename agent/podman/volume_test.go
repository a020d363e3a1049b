package podman

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVolumeIsMadeAgain: where a volume's directory is gone it is made, but not where the file system of all
// volumes may not be mounted.
func TestVolumeIsMadeAgain(t *testing.T) {
	volumes := t.TempDir()
	dir := filepath.Join(volumes, "v", "_data")
	c := &Client{}
	if err := c.makeAgain("v", dir); err == nil || !strings.Contains(err.Error(), "mkdir "+filepath.Dir(dir)) {
		t.Errorf("made again in an empty directory: %v", err)
	}
	if err := os.Mkdir(filepath.Join(volumes, "another"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // with the one that it is in, and without
		if err := c.makeAgain("v", dir); err != nil {
			t.Error(err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
}
