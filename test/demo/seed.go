package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/test/stack"
)

// The stack that people set up today: IPaddr2 and systemd units in a group,
// volumes by rsync and images by save | load from cron every five minutes, and
// no fencing. The commands follow the book's ha-setup.sh; its NFS mount is left
// out, since rsync carries the volumes in the same script.
const (
	seedUnits = `
for s in registry:5000:/var/lib/registry ledger:8080:/data; do
IFS=: read -r name port dir <<<"$s"
podman rm -f -i "$name" >/dev/null
cat > /etc/systemd/system/podman-$name.service <<U
[Unit]
Description=Podman $name
After=network-online.target
[Service]
Type=notify
NotifyAccess=all
ExecStartPre=-/usr/bin/podman rm -f $name
ExecStart=/usr/bin/podman run --name $name --publish $port:$port --volume seed-$name:$dir --sdnotify=conmon localhost/$name:1
ExecStop=/usr/bin/podman stop -t 10 $name
Restart=on-failure
RestartSec=30
U
podman volume create --ignore seed-$name >/dev/null
done
systemctl daemon-reload
`
	seedSync = `cat > /usr/local/bin/sync-podman-data.sh <<'S'
#!/bin/bash
# Runs on each node; copies from the active one, which has the address.
ip -o addr show | grep -q ' 192.0.2.100/' || exit 0
STANDBY=$1
rsync -az --delete -e "ssh -o StrictHostKeyChecking=no" /var/lib/containers/storage/volumes/seed-registry /var/lib/containers/storage/volumes/seed-ledger $STANDBY:/var/lib/containers/storage/volumes/
for image in $(podman images --format "{{.Repository}}:{{.Tag}}" | grep -v none); do
    podman save $image 2>/dev/null | ssh -o StrictHostKeyChecking=no $STANDBY podman load >/dev/null 2>&1
done
ssh -o StrictHostKeyChecking=no $STANDBY date +%s.%N '>' /var/tmp/last-sync
S
chmod +x /usr/local/bin/sync-podman-data.sh
`
	seedResources = `
pcs property set stonith-enabled=false
pcs property set no-quorum-policy=ignore
pcs resource create virtual_ip ocf:heartbeat:IPaddr2 ip=192.0.2.100 cidr_netmask=24 op monitor interval=30s
pcs resource create podman-registry systemd:podman-registry op monitor interval=30s op start timeout=60s op stop timeout=60s
pcs resource create podman-ledger systemd:podman-ledger op monitor interval=30s op start timeout=60s op stop timeout=60s
pcs resource group add podman-services virtual_ip podman-registry podman-ledger
`
)

func (d *demo) seed(ctx context.Context) error {
	d.say("the same two nodes with what people use today: IPaddr2 + systemd units + rsync from cron + podman save | load, without fencing")
	if err := d.seedSetUp(ctx); err != nil {
		return err
	}
	if err := d.seedFailovers(ctx); err != nil {
		return err
	}
	for i := range d.rounds {
		if err := d.switchover(ctx, i+1, &d.report.Seed, d.seedMove); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) seedSetUp(ctx context.Context) error {
	n1, n2 := d.stack.Node("n1"), d.stack.Node("n2")
	if _, err := n1.Shell(ctx, "pcs resource delete registry --force >/dev/null 2>&1 || pcs resource remove registry --force"); err != nil {
		return err
	}
	keys := `mkdir -p /root/.ssh; [ -e /root/.ssh/id_ed25519 ] || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519; cat /root/.ssh/id_ed25519.pub`
	for _, n := range d.stack.Nodes() {
		if _, err := n.Exec(ctx, "systemctl", "disable", "--now", "understudy"); err != nil {
			return err
		}
		for _, image := range []string{"registry", "ledger"} {
			if err := n.LoadImage(ctx, image); err != nil {
				return err
			}
		}
		if _, err := n.Shell(ctx, seedUnits+seedSync); err != nil {
			return err
		}
		pub, err := n.Shell(ctx, keys)
		if err != nil {
			return err
		}
		other := n2
		if n == n2 {
			other = n1
		}
		if _, err := other.Shell(ctx, "mkdir -p /root/.ssh; echo '"+strings.TrimSpace(pub)+"' >> /root/.ssh/authorized_keys"); err != nil {
			return err
		}
		cron := fmt.Sprintf("echo '*/5 * * * * root /usr/local/bin/sync-podman-data.sh %s' > /etc/cron.d/sync-podman-data; systemctl enable --now cron >/dev/null 2>&1", other.Name())
		if _, err := n.Shell(ctx, cron); err != nil {
			return err
		}
	}
	if _, err := n1.Shell(ctx, seedResources); err != nil {
		return err
	}
	if err := d.seedWait(ctx, "n1"); err != nil {
		return err
	}
	// The first run at once: whoever sets this up would not wait for cron either.
	_, err := n1.Exec(ctx, "/usr/local/bin/sync-podman-data.sh", "n2")
	return errors.Join(err, d.stack.Settle(ctx))
}

// seedActive asks Pacemaker where the group runs and who is online.
func (d *demo) seedActive(ctx context.Context) (active string, online []string, err error) {
	err = errors.New("no node is running")
	for _, n := range d.stack.Nodes() {
		if !n.Running() {
			continue
		}
		var out []byte
		if out, err = n.Exec(ctx, "crm_mon", "-1", "--inactive"); err != nil {
			continue
		}
		active = ""
		for _, line := range stack.Lines(out) {
			if strings.Contains(line, "podman-ledger") && strings.Contains(line, "Started ") {
				active = strings.TrimSpace(strings.SplitN(line, "Started ", 2)[1])
			}
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "* Online: ["); ok {
				online = strings.Fields(strings.TrimSuffix(rest, "]"))
			}
		}
		return active, online, nil
	}
	return "", nil, err
}

func (d *demo) seedWait(ctx context.Context, want string) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		active, _, err := d.seedActive(ctx)
		if err == nil && active != "" && (want == "" || active == want) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the group does not start: active on %q: %w", active, errors.Join(err, ctx.Err()))
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func (d *demo) seedFailovers(ctx context.Context) error {
	return d.failovers(ctx, &d.report.Seed, seedCluster{d})
}

// seedMove is what its operator types; the constraint that stays behind is removed.
func (d *demo) seedMove(ctx context.Context) error {
	active, online, err := d.seedActive(ctx)
	if err != nil {
		return err
	}
	for _, n := range online {
		if n == active {
			continue
		}
		d.say("%s# pcs resource move podman-services %s", active, n)
		if _, err := d.stack.Node(active).Exec(ctx, "pcs", "resource", "move", "podman-services", n); err != nil {
			return err
		}
		return d.seedWait(ctx, n)
	}
	return errors.New("the other node is not online")
}

// seedCluster lets the same drill measure a stack that has no agents: what it
// would ask them is asked of Pacemaker, and of the last run of the copying script.
type seedCluster struct{ demo *demo }

func (c seedCluster) Ready(ctx context.Context, _, service string) (api.Readiness, error) {
	active, online, err := c.demo.seedActive(ctx)
	r := api.Readiness{Service: service, Active: active}
	for _, n := range online {
		if n != active {
			r.Standby = n
		}
	}
	r.Ready = err == nil && r.Active != "" && r.Standby != ""
	if !r.Ready {
		r.Blockers = []string{"not both nodes are online and the group started"}
	}
	return r, err
}

func (c seedCluster) Status(ctx context.Context, from string) (api.Status, error) {
	active, online, err := c.demo.seedActive(ctx)
	if err != nil {
		return api.Status{}, err
	}
	var st api.Status
	for _, n := range online {
		sv := api.ServiceStatus{Service: stack.Service, Role: api.RoleStandby, Health: api.HealthHealthy}
		if n == active {
			sv.Role = api.RoleActive
		}
		sv.FreshAt = c.lastSync(ctx, n)
		st.Nodes = append(st.Nodes, api.NodeStatus{Node: n, Alive: true, Self: n == from, Services: []api.ServiceStatus{sv}})
	}
	return st, nil
}

// lastSync is when the copying script last ended with this node as its target, Unix ns.
func (c seedCluster) lastSync(ctx context.Context, node string) int64 {
	out, err := c.demo.stack.Node(node).Exec(ctx, "cat", "/var/tmp/last-sync")
	var sec, ns int64
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscanf(strings.TrimSpace(string(out)), "%d.%d", &sec, &ns); err != nil {
		return 0
	}
	return sec*int64(time.Second) + ns
}

func (c seedCluster) Log(context.Context, string, string, time.Time) ([]api.Decision, error) {
	return nil, nil // it has no journal of decisions
}
