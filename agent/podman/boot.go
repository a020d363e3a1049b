package podman

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containers/podman/v5/pkg/bindings/containers"
	"github.com/containers/podman/v5/pkg/domain/entities/types"

	"github.com/understudy-ha/understudy/agent/api"
)

// The API sets a restart policy since Podman 5.1; older ones ignore it in silence.
const updateMajor, updateMinor = 5, 1

// Where units that are started at boot are linked from.
var wantsDirs = []string{"etc/systemd/system", "run/systemd/generator", "usr/lib/systemd/system", "usr/local/lib/systemd/system"}

// bootStarters finds systemd units that start one of the containers by themselves:
// units below root that some target wants and whose commands speak of podman and
// of the container's name. Units in but are seen to, and masked ones start nothing.
func bootStarters(root string, names []string, but ...string) []Problem {
	var problems []Problem
	for _, dir := range wantsDirs {
		links, _ := filepath.Glob(filepath.Join(root, dir, "*.*s", "*.service")) // .wants, .requires
		for _, link := range links {
			if kind := filepath.Ext(filepath.Dir(link)); kind != ".wants" && kind != ".requires" {
				continue
			}
			unit := filepath.Base(link)
			if masked(root, unit) || slices.Contains(but, unit) {
				continue
			}
			for _, name := range startedBy(unitFile(root, link), names) {
				problems = append(problems, Problem{
					Container: name,
					What:      "systemd's " + unit + " starts it at boot, behind Pacemaker's back",
					Next:      "disable it: `systemctl disable " + unit + "` (of a quadlet file, remove the [Install] section)",
				})
			}
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(problems)
}

// unitFile follows a link, which is absolute or relative, below root.
func unitFile(root, link string) string {
	target, err := os.Readlink(link)
	switch {
	case err != nil:
		return link
	case filepath.IsAbs(target):
		return filepath.Join(root, target)
	}
	return filepath.Join(filepath.Dir(link), target)
}

// startedBy lists which of the names the unit's commands start with podman.
func startedBy(file string, names []string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	var found []string
	for scan := bufio.NewScanner(f); scan.Scan(); {
		key, command, ok := strings.Cut(scan.Text(), "=")
		if !ok || !strings.HasPrefix(strings.TrimSpace(key), "ExecStart") || !strings.Contains(command, "podman") {
			continue
		}
		words := strings.Fields(command)
		starts := slices.ContainsFunc(words, func(w string) bool { return w == "start" || w == "run" || w == "restart" })
		for _, name := range names {
			if starts && slices.ContainsFunc(words, func(w string) bool { return w == name || w == "--name="+name }) {
				found = append(found, name)
			}
		}
	}
	return found
}

// Neutralise sets the restart policy of the containers to no, so that only
// Pacemaker starts them, and says what it changed. It fails where Podman is too
// old to change it.
func (c *Client) Neutralise(ctx context.Context, names []string) (changes []string, err error) {
	for _, name := range names {
		con, err := c.Inspect(ctx, name)
		if err != nil {
			return changes, err
		}
		if con.RestartPolicy == "no" {
			continue
		}
		no := "no"
		err = do(ctx, c, "update container "+name, func(ctx context.Context) error {
			_, err := containers.Update(ctx, &types.ContainerUpdateOptions{NameOrID: name, RestartPolicy: &no})
			return err
		})
		if err != nil {
			return changes, err
		}
		after, err := c.Inspect(ctx, name)
		if err != nil {
			return changes, err
		}
		if after.RestartPolicy != "no" {
			return changes, api.Errorf(api.KindConfigured, "make it again with --restart=no",
				"container %s has the restart policy %s, and this Podman is too old to change it", name, con.RestartPolicy)
		}
		changes = append(changes, "container "+name+": restart policy "+con.RestartPolicy+" set to no")
	}
	return changes, nil
}
