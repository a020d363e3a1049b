package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// conmon is a running container monitor: one per container and one per exec session.
type conmon struct {
	pid     int
	start   string
	name    string // the container's
	id      string
	session string // -u: equal to id for the container's own, another for an exec session
	pidfile string
}

func (c conmon) own() bool { return c.session == "" || c.session == c.id }

// conmons finds the running monitors of this node's own Podman: same user and
// same pid namespace as this process. A rootless user's container, or one inside
// a container, may well have the same name and is none of ours.
func (h *Host) conmons() ([]conmon, error) {
	entries, err := os.ReadDir(h.opts.Proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	ours, err := os.Readlink(filepath.Join(h.opts.Proc, "self/ns/pid"))
	if err != nil {
		return nil, fmt.Errorf("find own pid namespace: %w", err)
	}
	var out []conmon
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		c, ok, err := h.conmonAt(pid, ours)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, c)
		}
	}
	return out, nil
}

// conmonAt looks at one process. That it ended meanwhile is not an error; that
// it cannot be read is one, for then nothing is proved.
func (h *Host) conmonAt(pid int, namespace string) (conmon, bool, error) {
	dir := filepath.Join(h.opts.Proc, strconv.Itoa(pid))
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if gone(err) {
		return conmon{}, false, nil
	}
	if err != nil {
		return conmon{}, false, fmt.Errorf("look at process %d: %w", pid, err)
	}
	c, ok := parseConmon(cmdline)
	if !ok {
		return conmon{}, false, nil
	}
	fi, err := os.Stat(dir)
	if err == nil && !ownedByUs(fi) {
		return conmon{}, false, nil
	}
	ns, err2 := os.Readlink(filepath.Join(dir, "ns/pid"))
	exe, err3 := os.Readlink(filepath.Join(dir, "exe"))
	st, err4 := readStat(h.opts.Proc, pid)
	if err := errors.Join(err, err2, err3, err4); err != nil {
		if gone(err) {
			return conmon{}, false, nil
		}
		return conmon{}, false, fmt.Errorf("look at process %d: %w", pid, err)
	}
	program := filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	if ns != namespace || program != "conmon" || st.state == "Z" {
		return conmon{}, false, nil
	}
	c.pid, c.start = pid, st.start
	return c, true, nil
}

func ownedByUs(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// same says whether a conmon found earlier is still that process.
func (h *Host) same(c conmon) bool {
	st, err := readStat(h.opts.Proc, c.pid)
	return err == nil && st.start == c.start && st.state != "Z"
}

// withValue are conmon's options that take a value, beside those read here: a
// value must not be taken for an option.
var withValue = []string{
	"--api-version", "-r", "--runtime", "-b", "--bundle", "--exit-dir", "--persist-dir", "--runtime-arg", "-l", "--log-path",
	"--log-level", "--log-size-max", "--log-global-size-max", "--log-tag", "--log-label", "--conmon-pidfile", "-P", "--exit-command", "--exit-command-arg",
	"--exit-delay", "--socket-dir-path", "--exec-process-spec", "--restore", "--restore-arg", "-T", "--timeout",
	"--sdnotify-socket", "--log-rotate", "--seccomp-notify-socket", "--seccomp-notify-plugins", "--stopped-only", "--container-pidfile",
}

// parseConmon reads a command line; it is a container's monitor only when it
// carries one id and one name, and the id is a whole one.
func parseConmon(cmdline []byte) (conmon, bool) {
	argv := strings.Split(string(bytes.TrimSuffix(cmdline, []byte{0})), "\x00")
	if filepath.Base(argv[0]) != "conmon" {
		return conmon{}, false
	}
	var c conmon
	fields := map[string]*string{
		"-n": &c.name, "--name": &c.name, "-c": &c.id, "--cid": &c.id, "-u": &c.session, "--cuuid": &c.session,
		"-p": &c.pidfile, "--container-pidfile": &c.pidfile,
	}
	for i := 1; i < len(argv); i++ {
		option, value, joined := strings.Cut(argv[i], "=")
		field := fields[option]
		switch {
		case field == nil:
			if !joined && slices.Contains(withValue, option) {
				i++
			}
			continue
		case joined:
		case i+1 < len(argv):
			i++
			value = argv[i]
		}
		if *field != "" && *field != value {
			return conmon{}, false // two names, or two ids: not Podman's doing
		}
		*field = value
	}
	return c, c.name != "" && isID(c.id)
}

// isID says whether s is a full container id.
func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
