// Package lab makes a faithful two-node cluster on one machine, for tests and for the demo.
//
// A node is a Debian 13 root file system with systemd as PID 1 in its own mount, network, UTS, IPC,
// PID and cgroup namespaces, with its own disk (a loop-mounted XFS or ext4 image). Nodes and a client
// meet on a switch, a bridge in a namespace of its own: nothing of a lab is in the machine's network
// namespace, firewall or Podman. Power can be cut and restored, cables cut in one or both directions,
// nodes frozen; fencing is real and served by the lab's supervisor.
//
// A power cut loses what a node had not synced on its disk (containers' storage and Understudy's
// store); what it had written to the rest of its root file system stays. The kernel is the machine's:
// a paused node's kernel still answers ARP and ping.
//
// Where things are:
//   - lab.go: Up, Attach, Down; leftovers.go finds and removes what a killed run left behind
//   - root.go, root.sh: the root file system, built once and cached outside the checkout
//   - node.go, boot.go, init.sh: the power button; exec.go: commands on nodes and the client
//   - net.go, cut.go: cables; fence.go: the power switch that fence_lab asks; powerlog.go: its record
//   - cluster.go, pcs.go: Corosync and Pacemaker
//   - image.go and its neighbours: container images made from Debian packages
package lab
