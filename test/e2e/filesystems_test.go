//go:build lab

package e2e

import (
	"os"
	"strings"
	"testing"
)

// TestExt4: the same failover where volumes cannot be cloned.
func TestExt4(t *testing.T) {
	c := upCluster(t, "e2eext4", "ext4")
	c.step(t, testFailover)
}

// TestBtrfs: the same where they can be, by another file system than XFS, which the other tests are on.
func TestBtrfs(t *testing.T) {
	known, err := os.ReadFile("/proc/filesystems")
	must(t, err)
	if !strings.Contains(string(known), "\tbtrfs\n") {
		t.Skip("this kernel has no btrfs")
	}
	c := upCluster(t, "e2ebtrfs", "btrfs")
	c.step(t, testFailover)
	c.step(t, testSwitchover)
	c.step(t, testAgentKilled)
	c.step(t, testConsistency)
}
