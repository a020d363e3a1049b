package lab

import (
	"context"
	"fmt"
	"strings"
)

// TrustSSH lets root on each node log in as root on every other with a key, host keys pinned. It is
// what rsync from cron needs; Understudy has its own keys.
func (l *Lab) TrustSSH(ctx context.Context) error {
	users := make([]string, len(l.nodes))
	hosts := make([]string, len(l.nodes))
	for i, n := range l.nodes {
		out, err := n.Shell(ctx, `mkdir -p -m 700 /root/.ssh
[ -s /root/.ssh/id_ed25519 ] || ssh-keygen -q -t ed25519 -N "" -f /root/.ssh/id_ed25519
cat /root/.ssh/id_ed25519.pub /etc/ssh/ssh_host_ed25519_key.pub`)
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) != 2 {
			return fmt.Errorf("keys of %s: want 2 lines, got %q", n.name, out)
		}
		users[i] = lines[0] + "\n"
		hosts[i] = fmt.Sprintf("%s,%s,%s %s\n", n.name, n.IP(), n.IP6(), lines[1])
	}
	return l.EachNode(func(n *Node) error {
		if err := n.WriteFile(ctx, "/root/.ssh/authorized_keys", []byte(strings.Join(users, "")), 0o600); err != nil {
			return err
		}
		return n.WriteFile(ctx, "/root/.ssh/known_hosts", []byte(strings.Join(hosts, "")), 0o600)
	})
}
