package agent

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/understudy-ha/understudy/agent/cgroup"
	"github.com/understudy-ha/understudy/agent/service"
)

// TestElsewhere: a process has a directory mounted, as a container has its volume, which is then
// moved, replaced or removed.
func TestElsewhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a mount namespace")
	}
	for name, test := range map[string]struct {
		change func(dir string) error
		want   bool
	}{
		"left alone": {func(string) error { return nil }, false},
		"written to": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "f"), nil, 0o600) }, false},
		"moved":      {func(dir string) error { return os.Rename(dir, dir+".old") }, true},
		"removed":    {os.Remove, true},
		"made again": {func(dir string) error { return errors.Join(os.Remove(dir), os.Mkdir(dir, 0o755)) }, true},
		"replaced": {func(dir string) error {
			if err := os.Rename(dir, dir+".old"); err != nil {
				return err
			}
			return os.Mkdir(dir, 0o755)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, at := filepath.Join(t.TempDir(), "data"), t.TempDir()
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			pid := mounting(t, dir, at)
			if err := test.change(dir); err != nil {
				t.Fatal(err)
			}
			c := service.Container{PID: pid, StartTime: cgroup.StartTime(pid), Trees: map[string]string{"data": at, "other": "/nowhere"}}
			p := &processes{}
			got := p.Elsewhere(c, map[string]string{"data": dir, "other": dir, "unmounted": dir})
			if another, known := got["data"]; !known || another != test.want || len(got) != 1 {
				t.Errorf("elsewhere are %v", got)
			}
			c.StartTime++ // the pid is another's by now
			if got := p.Elsewhere(c, map[string]string{"data": dir}); len(got) > 0 {
				t.Errorf("of a process that is gone: %v", got)
			}
		})
	}
}

// TestElsewhereOnPurpose: a part of a volume, an overlay over it and what a container has mounted itself
// are other directories, and say nothing of the volume.
func TestElsewhereOnPurpose(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a mount namespace")
	}
	for name, mount := range map[string]string{
		"part":    `mount --bind "$1/part" "$2"`,
		"overlay": `mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w && mount -t overlay -o "lowerdir=$1,upperdir=/mnt/u,workdir=/mnt/w" none "$2"`,
		"own":     `mount --bind "$1" "$2" && mount -t tmpfs none "$2"`,
	} {
		t.Run(name, func(t *testing.T) {
			dir, at := filepath.Join(t.TempDir(), "data"), t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "part"), 0o755); err != nil {
				t.Fatal(err)
			}
			pid := mountingBy(t, mount, dir, at)
			got := (&processes{}).Elsewhere(service.Container{PID: pid, Trees: map[string]string{"data": at}}, map[string]string{"data": dir})
			if got["data"] {
				t.Errorf("elsewhere are %v", got)
			}
		})
	}
}

// mounting starts a process in whose mount namespace the directory is mounted at another path.
func mounting(t *testing.T, dir, at string) (pid int) {
	t.Helper()
	return mountingBy(t, `mount --bind "$1" "$2"`, dir, at)
}

func mountingBy(t *testing.T, mount, dir, at string) (pid int) {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", mount+` && echo there && read end`, "sh", dir, at)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "there\n" {
		t.Fatalf("nothing is mounted: %q, %v", line, err)
	}
	return cmd.Process.Pid
}
