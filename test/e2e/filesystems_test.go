//go:build lab

package e2e

import "testing"

// TestExt4: the same failover where volumes cannot be cloned.
func TestExt4(t *testing.T) {
	c := upCluster(t, "e2eext4", "ext4")
	c.step(t, testFailover)
}
