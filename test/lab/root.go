package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the recipe
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cacheDir is outside every checkout: roots and images outlive labs and branches.
const cacheDir = "/var/cache/understudy-lab"

//go:embed root.sh
var rootRecipe []byte

// Root returns the root file system that nodes share, building it if the cache does not have one for
// this recipe. Several processes may ask at once: one builds, the others wait.
func Root(ctx context.Context, out io.Writer) (string, error) {
	say := sayTo(out)
	path := filepath.Join(cacheDir, "root-"+shortHash(rootRecipe))
	err := cached(ctx, path, func(tmp string) error {
		if err := needTools(ctx, say); err != nil {
			return err
		}
		say("building the nodes' root file system from Debian packages, once (about a minute)")
		began := time.Now()
		if err := runRecipe(ctx, rootRecipe, tmp); err != nil {
			return fmt.Errorf("build the root file system: %w", err)
		}
		say("root file system built in %.0f s, kept in %s", time.Since(began).Seconds(), path)
		return nil
	})
	return path, err
}

// cached makes path by letting build make a temporary path beside it, which is renamed only when
// complete. An interrupted build leaves nothing that anybody would take for whole.
func cached(ctx context.Context, path string, build func(tmp string) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	lk, err := lock(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer lk.unlock()
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	tmp := path + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := build(tmp); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	// The file system is synced so that a machine that dies now does not leave a hollow cache.
	if f, err := os.Open(filepath.Dir(path)); err == nil {
		_ = unix.Syncfs(int(f.Fd()))
		f.Close()
	}
	return os.Rename(tmp, path)
}

// runRecipe runs a build script on target in mount and PID namespaces of its own: when it is killed,
// its mounts and processes are gone too.
func runRecipe(ctx context.Context, script []byte, target string) error {
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"bash", "-s", target)
	cmd.Stdin = bytes.NewReader(script)
	msg := &tail{max: 8192}
	cmd.Stdout, cmd.Stderr = msg, msg
	inGroup(cmd)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", errors.Join(context.Cause(ctx), err), strings.TrimSpace(msg.String()))
	}
	return nil
}

func shortHash(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d\n", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}
