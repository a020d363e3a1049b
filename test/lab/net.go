package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Addresses are from the documentation ranges: 192.0.2.0/24 and 2001:db8::/64 on the switch, where
// .100 to .199 are free for services; containers get 198.51.100.0/24 and 203.0.113.0/24.
const (
	prefix4    = "192.0.2."
	prefix6    = "2001:db8::"
	clientName = "client"
	clientHost = "200"
	netnsDir   = "/run/netns"
)

// netns is the name of the network namespace of a node, the client or the switch ("sw").
func (d dir) netns(who string) string { return "us-" + d.name() + "-" + who }

func (d dir) netnsPath(who string) string { return filepath.Join(netnsDir, d.netns(who)) }

// hostPart is the last part of a node's or the client's address.
func hostPart(who string) string {
	if who == clientName {
		return clientHost
	}
	return strings.TrimPrefix(who, "n")
}

// port is the switch's end of the cable to who.
func port(who string) string { return "v-" + who }

// makeSwitch makes the switch's namespace with its bridge and the table that cuts cables.
func (d dir) makeSwitch(ctx context.Context) error {
	sw := d.netns("sw")
	if err := run(ctx, "", "ip", "netns", "add", sw); err != nil {
		return err
	}
	// The switch has no address and no IPv6 of its own: it must not take part in what tests observe.
	err := run(ctx, `link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set br0 addrgenmode none
link set br0 up
`, "ip", "-n", sw, "-batch", "-")
	if err != nil {
		return err
	}
	return d.nft(ctx, cutTable)
}

// plug makes a fresh namespace for who and runs a new cable from it to the switch. A namespace of a
// former life is thrown away with all that was in it: addresses, container bridges, firewall rules.
func (d dir) plug(ctx context.Context, who string) error {
	if err := d.unplug(ctx, who); err != nil {
		return err
	}
	ns, sw, host := d.netns(who), d.netns("sw"), hostPart(who)
	if err := run(ctx, "", "ip", "netns", "add", ns); err != nil {
		return err
	}
	mac := fmt.Sprintf("02:00:5e:00:53:%02x", atoiDefault(host))
	// Both ends are made in the switch's namespace or beyond: the machine's own never sees them.
	err := run(ctx, fmt.Sprintf(`link add %[1]s type veth peer name eth0 address %[2]s netns %[3]s
link set %[1]s addrgenmode none
link set %[1]s master br0
link set %[1]s up
`, port(who), mac, ns), "ip", "-n", sw, "-batch", "-")
	if err != nil {
		return err
	}
	return run(ctx, fmt.Sprintf(`link set lo up
addr add %[1]s/24 brd + dev eth0
addr add %[2]s/64 dev eth0 nodad
link set eth0 up
`, prefix4+host, prefix6+host), "ip", "-n", ns, "-batch", "-")
}

// unplug removes who's cable and namespace. It is idempotent.
func (d dir) unplug(ctx context.Context, who string) error {
	// The end of the namespace would remove the cable too, but some time later.
	err := run(ctx, "", "ip", "-n", d.netns("sw"), "link", "del", port(who))
	if isGone(err) {
		err = nil
	}
	if _, e := os.Stat(d.netnsPath(who)); errors.Is(e, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, run(ctx, "", "ip", "netns", "del", d.netns(who)))
}

// cable takes who's cable up or down at the switch. No cable at all is no error.
func (d dir) cable(ctx context.Context, who string, up bool) error {
	word := map[bool]string{true: "up", false: "down"}[up]
	err := run(ctx, "", "ip", "-n", d.netns("sw"), "link", "set", port(who), word)
	if isGone(err) {
		return nil
	}
	return err
}

// isGone tells whether ip complains only that a device or namespace does not exist.
func isGone(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "Cannot find device") || strings.Contains(err.Error(), "No such file"))
}

// removeNetns deletes every namespace of the lab, whatever is left of it.
func (d dir) removeNetns(ctx context.Context) error {
	found, err := filepath.Glob(filepath.Join(netnsDir, d.netns("*")))
	for _, p := range found {
		// "us-a-*" also matches the namespaces of a lab called "a-b".
		who := strings.TrimPrefix(filepath.Base(p), d.netns(""))
		if who == "sw" || who == clientName || validNode.MatchString(who) {
			err = errors.Join(err, run(ctx, "", "ip", "netns", "del", filepath.Base(p)))
		}
	}
	return err
}

// run runs a program of the machine; its error carries what the program said.
func run(ctx context.Context, stdin string, name string, args ...string) error {
	_, err := output(ctx, stdin, name, args...)
	return err
}

func output(ctx context.Context, stdin, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return out.Bytes(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(msg.Bytes()))
	}
	return out.Bytes(), nil
}

func atoiDefault(s string) int {
	n := 0
	_, _ = fmt.Sscan(s, &n)
	return n
}
