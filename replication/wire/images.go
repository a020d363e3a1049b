package wire

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// acceptImage verifies an image archive as a whole and moves it into dir, where
// the agent finds it, loads it and removes it. What is in the archive is for
// package image and Podman to judge.
func acceptImage(path, dir string, n node, hook durable.Hook) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := blake3.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	var got replication.Hash
	h.Sum(got[:0])
	if got != n.hash {
		return fmt.Errorf("%w: the image archive is %s, not %s", replication.ErrBadHash, got, n.hash)
	}
	if err := hook.At("sync " + n.base); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o770); err != nil {
		return err
	}
	err = durable.RenameNoReplace(path, filepath.Join(dir, n.base), hook)
	if errors.Is(err, fs.ErrExist) {
		return os.Remove(path) // the same bytes are there: somebody sent them before
	}
	return err
}
