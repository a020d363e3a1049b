package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// logCommands are run on every node that has power; the outputs become files of these names.
var logCommands = map[string]string{
	"journal.txt":        "journalctl --no-pager -o short-precise",
	"crm_mon.txt":        "crm_mon -1 -A -f -n -t -c -m 3",
	"cib.xml":            "cibadmin -Q",
	"corosync.txt":       "corosync-cfgtool -s; corosync-quorumtool -s",
	"podman.txt":         "timeout 5 podman ps -a --no-trunc; timeout 5 podman images; timeout 5 podman volume ls; timeout 5 podman network ls",
	"understudy-log.txt": "! command -v understudy >/dev/null || understudy log; ! command -v understudy >/dev/null || understudy status",
	"network.txt":        "ip -d address; ip route; ip -6 route; ip neighbour; ss -anp; nft list ruleset",
	"processes.txt":      "ps axfww -o pid,ppid,stat,lstart,wchan:20,args",
	"systemd.txt":        "systemctl --no-pager --failed; systemctl --no-pager list-units --all",
	"disk.txt":           "df -h; findmnt",
}

// logFiles are taken from a node's disk, whether it has power or not.
var logFiles = []string{
	"var/log/pacemaker", "var/log/corosync", "var/log/pcsd", "var/log/journal",
	"etc/corosync/corosync.conf", "etc/understudy/agent.toml",
}

// CollectLogs gathers what a person needs to find out why a test failed, a folder per node below dir.
// It takes what there is: a node that is off, paused or half broken costs only its part, and the
// error says what is missing.
func (l *Lab) CollectLogs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := copyFile(l.log.path, filepath.Join(dir, "power.jsonl"))
	return errors.Join(err, l.EachNode(func(n *Node) error {
		return n.collectLogs(ctx, filepath.Join(dir, n.name))
	}))
}

func (n *Node) collectLogs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs error
	if n.Running() && !n.cgroup().event("frozen 1") {
		for name, script := range logCommands {
			soon, cancel := context.WithTimeout(ctx, 15*time.Second)
			out, err := n.Exec(soon, "sh", "-c", "{ "+script+"; } 2>&1")
			cancel()
			if err != nil {
				// The command's own complaint is the log; a cluster that is not there is no error.
				out = fmt.Appendf(out, "\n(%v)\n", err)
			}
			errs = errors.Join(errs, os.WriteFile(filepath.Join(dir, name), out, 0o644))
		}
	} else {
		errs = errors.Join(errs, os.WriteFile(filepath.Join(dir, "OFF"), []byte("the node was off or paused\n"), 0o644))
	}
	_ = copyFile(n.path("console.log"), filepath.Join(dir, "console.log"))
	for _, f := range logFiles {
		errs = errors.Join(errs, copyTree(n.path("upper", f), filepath.Join(dir, filepath.Base(f))))
	}
	return errs
}

// copyTree copies the regular files at or below src, if there are any.
func copyTree(src, dst string) error {
	return filepath.WalkDir(src, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		return copyFile(p, filepath.Join(dst, rel))
	})
}

// copyFile copies a file that may grow or be rotated away meanwhile.
func copyFile(src, dst string) error {
	b, err := os.ReadFile(src)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return writeFile(dst, b, 0o644)
}
