//go:build lab

package e2e

import "testing"

func testMatrix(*testing.T, *cluster)           {}
func testStopAlone(*testing.T, *cluster)        {}
func testDuplicateAddress(*testing.T, *cluster) {}
func testStaleSender(*testing.T, *cluster)      {}
func testDefinition(*testing.T, *cluster)       {}
func testPostgres(*testing.T, *cluster)         {}
