package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/understudy-ha/understudy/test/stack"
)

// monitorRuns is how often each monitor is timed; the two stacks alternate.
const monitorRuns = 25

// monitorRest lets the containers be set up again after the last switchover: the
// monitors of both stacks are timed on nodes at rest.
const monitorRest = 6 * time.Second

// monitorScript times whole processes as Pacemaker starts them, in turn, on the
// active node: ours, and the two that the seed's resources would be with
// ocf:heartbeat:podman. bash's EPOCHREALTIME is in microseconds.
const monitorScript = `
export OCF_ROOT=/usr/lib/ocf OCF_RA_VERSION_MAJOR=1 OCF_RA_VERSION_MINOR=1 OCF_RESKEY_CRM_meta_timeout=20000 OCF_RESKEY_CRM_meta_interval=10000
ours() { OCF_RESOURCE_INSTANCE=registry:0 OCF_RESKEY_vip=192.0.2.100/24 OCF_RESKEY_containers="registry ledger" /usr/lib/ocf/resource.d/understudy/service monitor; }
theirs() {
  OCF_RESOURCE_INSTANCE=virtual_ip OCF_RESKEY_ip=192.0.2.100 OCF_RESKEY_cidr_netmask=24 /usr/lib/ocf/resource.d/heartbeat/IPaddr2 monitor
  OCF_RESOURCE_INSTANCE=podman-registry OCF_RESKEY_image=localhost/registry:1 OCF_RESKEY_name=registry /usr/lib/ocf/resource.d/heartbeat/podman monitor
}
timed() { local b=$EPOCHREALTIME e rc=0; "$1" >/dev/null 2>&1 || rc=$?; e=$EPOCHREALTIME; echo "$1 $rc $(( ${e/./} - ${b/./} ))"; }
for i in $(seq %d); do timed ours; timed theirs; done
`

// monitors measures what a monitor costs, each a whole process.
func (d *demo) monitors(ctx context.Context) error {
	active, _, err := d.stack.Active(ctx)
	if err != nil {
		return err
	}
	sleep(ctx, monitorRest)
	d.say("timing the monitors on %s: ours, and IPaddr2 + ocf:heartbeat:podman", active)
	out, err := d.stack.Node(active).Shell(ctx, fmt.Sprintf(monitorScript, monitorRuns))
	if err != nil {
		return err
	}
	for _, line := range stack.Lines([]byte(out)) {
		var who string
		var rc int
		var us string
		if n, _ := fmt.Sscan(line, &who, &rc, &us); n != 3 {
			return fmt.Errorf("unexpected line from the timing: %q", line)
		}
		v, err := strconv.ParseFloat(us, 64)
		if err != nil {
			return err
		}
		switch {
		case who == "ours" && rc != 8:
			return fmt.Errorf("monitor answered %d on the active node, not 8", rc)
		case who == "theirs" && rc != 0:
			return fmt.Errorf("ocf:heartbeat:podman's monitor answered %d, not 0", rc)
		case who == "ours":
			d.report.Understudy.MonitorMS = append(d.report.Understudy.MonitorMS, v/1000)
		default:
			d.report.Seed.MonitorMS = append(d.report.Seed.MonitorMS, v/1000)
		}
	}
	return nil
}
