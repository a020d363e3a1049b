package main

import (
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
)

// What is kept is found without a configuration; what may go is not known without one.
func TestBrokenNodeDropsNothing(t *testing.T) {
	f, c := keptFlags{}, &cobra.Command{}
	f.add(c)
	f.config = filepath.Join(t.TempDir(), "agent.toml") // as if it was the default
	if _, err := f.open(c, "registry"); err != nil {
		t.Error(err)
	}
	if p, err := f.retention(); err == nil {
		t.Errorf("without a configuration it would drop by %+v", p)
	}
}
