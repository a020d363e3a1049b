package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// tools are the programs of the machine that a lab needs, and the Debian packages that have them.
var tools = []struct{ program, pkg string }{
	{"mmdebstrap", "mmdebstrap"},
	{"ip", "iproute2"},
	{"nft", "nftables"},
	{"mkfs.xfs", "xfsprogs"},
	{"mkfs.btrfs", "btrfs-progs"},
	{"mkfs.ext4", "e2fsprogs"},
	{"nsenter", "util-linux"},
	{"unshare", "util-linux"},
	{"setpriv", "util-linux"},
}

// needTools makes sure that the machine can carry a lab: root, and the tools, which it installs with
// apt where they are missing.
func needTools(ctx context.Context, say func(string, ...any)) error {
	if os.Geteuid() != 0 {
		return errors.New("a lab needs root: it makes namespaces, mounts and cgroups")
	}
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	lk, err := lock(ctx, cacheDir+"/tools.lock")
	if err != nil {
		return err
	}
	defer lk.unlock()
	say("installing %s on this machine", strings.Join(missing, ", "))
	install := append([]string{"DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends"}, missing...)
	err = run(ctx, "", "apt-get", "-q", "update")
	if err == nil {
		err = run(ctx, "", "env", install...)
	}
	if err != nil {
		return fmt.Errorf("a lab needs the Debian packages %s on this machine: %w", strings.Join(missing, ", "), err)
	}
	return nil
}
